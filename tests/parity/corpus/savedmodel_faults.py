"""Faults of SavedModels: the Keras model was not as it was trained when it was exported, or the folder is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from serving.contract import Signature
from tasks.export.tf_function import keras_function, tensor_specs
from tests.parity.corpus.fault import Fault, Good
from tests.parity.corpus.onnx_graph import flip
from tests.parity.corpus.onnx_values import bfloat16, int8_grid

Tensors = dict[str, Any]
Change = Callable[[Any], Any]


def same(tensors: Mapping[str, Any]) -> Tensors:
    return dict(tensors)


def exported(
    change: Change = lambda model: None,
    *,
    inputs: Callable[[Tensors], Tensors] = same,
    outputs: Callable[[Tensors], Tensors] = same,
    specs: Callable[[list[Any]], list[Any]] = list,
    module: Callable[[], Any] = tf.Module,
) -> Callable[[Good, Path], Path]:
    """A fault of the model before it is saved, or of what is done to its inputs and outputs by name.

    `specs` changes what the signature takes; `module` is asked to make what variables hang on.
    """

    def inject(good: Good, folder: Path) -> Path:
        model = good.native()
        change(model)
        function, names = keras_function(model, good.signature), [tensor.name for tensor in good.signature.inputs]
        saved = module()
        saved.kept = [variable.value for variable in model.variables]  # what is not tracked is not saved

        def serve(*given: Any) -> Tensors:
            taken = inputs({spec.name: tensor for spec, tensor in zip(taken_specs, given, strict=True)})
            return outputs(function(*(taken[name] for name in names)))

        taken_specs = specs(tensor_specs(good.signature))
        saved.serve = tf.function(serve, input_signature=taken_specs)
        tf.saved_model.save(saved, str(folder), signatures=saved.serve)
        return folder

    return inject


def assign(layer: str, **values: Any) -> Change:
    """Set attributes of a layer."""

    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(model.get_layer(layer), name, value)

    return change


def calling(layer: str, make: Callable[[Any], Callable[..., Any]]) -> Change:
    """Let a layer compute what `make(its own call)` does."""

    def change(model: Any) -> None:
        found = model.get_layer(layer)
        found.call = make(found.call)

    return change


def then(layer: str, function: Callable[[Any], Any]) -> Change:
    """A function of what a layer gives."""
    return calling(layer, lambda call: lambda *given, **options: function(call(*given, **options)))


def training(layer: str) -> Change:
    """Leave one layer in training mode."""

    def make(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, training=None, **options: call(x, training=True, **options)

    return calling(layer, make)


def weights(layer: str, number: int, to: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Replace one weight of a layer by a function of it."""

    def change(model: Any) -> None:
        variable = model.get_layer(layer).weights[number]
        variable.assign(np.ascontiguousarray(to(np.array(variable))).astype(np.float32))

    return change


def all_weights(to: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(model: Any) -> None:
        for variable in model.weights:
            if variable.dtype == "float32":
                variable.assign(to(np.array(variable)).astype(np.float32))

    return change


def rolled_classes(model: Any) -> None:
    for variable in model.get_layer("head").weights:
        variable.assign(np.roll(np.array(variable), 1, axis=-1))


def other_constants(model: Any) -> None:
    layer = model.get_layer("normalise")
    layer.mean, layer.variance = layer.mean * 0 + 0.5, layer.variance * 0 + 0.25


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {new if name == old else name: tensor for name, tensor in tensors.items()}


def moved(**names: str) -> Callable[[Tensors], Tensors]:
    """Each name gets what another one has."""
    return lambda tensors: {name: tensors[names.get(name, name)] for name in tensors}


def changed(name: str, function: Callable[[Any], Any]) -> Callable[[Tensors], Tensors]:
    """One of several tensors as a function of itself."""
    return lambda tensors: {**tensors, name: function(tensors[name])}


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def spec(place: int, **values: Any) -> Callable[[list[Any]], list[Any]]:
    """One input of the signature with another shape, dtype or name."""

    def change(specs: list[Any]) -> list[Any]:
        old = specs[place]
        parts = {"shape": old.shape, "dtype": old.dtype, "name": old.name} | values
        return [*specs[:place], tf.TensorSpec(**parts), *specs[place + 1 :]]

    return change


def fixed(axis: int, size: int) -> Callable[[list[Any]], list[Any]]:
    """One dimension of every input as a number."""

    def change(specs: list[Any]) -> list[Any]:
        shapes = [list(old.shape) for old in specs]
        for shape in shapes:
            shape[axis] = size
        return [tf.TensorSpec(shape, old.dtype, old.name) for shape, old in zip(shapes, specs, strict=True)]

    return change


def masked_tail(tensors: Tensors) -> Tensors:
    seen = tf.cast(tf.range(tf.shape(tensors["mask"])[1]) < 8, tf.int64)
    return {**tensors, "mask": tensors["mask"] * seen}


def counting() -> Any:
    """A module with a variable that lives as long as the server does."""
    module = tf.Module()
    module.calls = tf.Variable(0.0)
    return module


def state_between_calls(good: Good, folder: Path) -> Path:
    kept: list[Any] = []

    def module() -> Any:
        kept.append(counting())
        return kept[0]

    def outputs(tensors: Tensors) -> Tensors:
        return {name: tensor + kept[0].calls.assign_add(1e-3) for name, tensor in tensors.items()}

    return exported(outputs=outputs, module=module)(good, folder)


def copied(change: Callable[[Path, Signature], None]) -> Callable[[Good, Path], Path]:
    """A fault of the folder that was saved."""

    def inject(good: Good, folder: Path) -> Path:
        shutil.copytree(good.export, folder, dirs_exist_ok=True)
        change(folder, good.signature)
        return folder

    return inject


def lost_variables(folder: Path, _: Signature) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").unlink()


def truncated_variables(folder: Path, _: Signature) -> None:
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def altered_variables(folder: Path, _: Signature) -> None:
    """One bit of the data: TensorFlow's own checksum of the tensor no longer fits."""
    data = folder / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x40
    data.write_bytes(bytes(content))


def truncated_graph(folder: Path, _: Signature) -> None:
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-500])


DIFFERS, NAN, NO_METRIC = "PARITY_TENSOR_DIFFERS", "PARITY_NAN", "PARITY_METRIC_MISSING"
BATCH, LENGTH, ERROR, DEPENDENT = (
    "PARITY_BATCH_FROZEN",
    "PARITY_LENGTH_FROZEN",
    "PARITY_RUNTIME_ERROR",
    "PARITY_BATCH_DEPENDENT",
)


def _fault(name: str, base: str, says: str, inject: Any, code: str | None = DIFFERS, *also: str) -> Fault:
    return Fault(name, "savedmodel", base, says, inject, code, also)


def _model(name: str, base: str, says: str, change: Change, code: str | None = DIFFERS, *also: str) -> Fault:
    return _fault(name, base, says, exported(change), code, *also)


# fmt: off
FAULTS = (
    # names
    _fault("output-renamed", "photos", "the output carries Keras's own name",
           exported(outputs=renamed("probabilities", "output_0")), "PARITY_OUTPUT_RENAMED"),
    _fault("input-renamed", "photos", "the input carries Keras's own name",
           exported(inputs=renamed("input_0", "image"), specs=spec(0, name="input_0")), "PARITY_INPUT_RENAMED"),
    _fault("outputs-swapped", "rows", "two outputs of different shapes have each other's names",
           exported(outputs=moved(score="total", total="score")), "PARITY_OUTPUT_SWAPPED"),
    _fault("outputs-in-a-cycle", "rows", "three outputs of different shapes have the next one's name",
           exported(outputs=moved(factors="score", score="total", total="factors")), "PARITY_OUTPUT_SWAPPED"),
    _fault("output-missing", "rows", "one of five outputs is not there", exported(outputs=without("total")),
           "PARITY_OUTPUT_MISSING"),
    _fault("output-extra", "photos", "a value that nobody declared is given as well",
           exported(outputs=lambda y: {**y, "logits": y["probabilities"] * 2}), "PARITY_OUTPUT_EXTRA"),
    _fault("input-extra", "photos", "a constant became an input",
           exported(inputs=lambda x: {"image": x["image"] / x["temperature"]},
                    specs=lambda specs: [*specs, tf.TensorSpec([], tf.float32, "temperature")]), "PARITY_INPUT_EXTRA"),
    # dtypes and shapes
    _fault("output-float64", "photos", "float64 where float32 is declared",
           exported(outputs=changed("probabilities", lambda y: tf.cast(y, tf.float64))), "PARITY_DTYPE"),
    _fault("output-float16", "photos", "float16 where float32 is declared",
           exported(outputs=changed("probabilities", lambda y: tf.cast(y, tf.float16))), "PARITY_DTYPE"),
    _fault("output-int32", "rows", "int32 where int64 is declared",
           exported(outputs=changed("label", lambda y: tf.cast(y, tf.int32))), "PARITY_DTYPE"),
    _fault("input-int32", "texts", "the tokens are taken as int32 where int64 is declared",
           exported(inputs=changed("tokens", lambda x: tf.cast(x, tf.int64)), specs=spec(0, dtype=tf.int32)),
           "PARITY_INPUT_DTYPE"),
    _fault("column-flattened", "rows", "[n] where the source gives [n, 1]: it broadcasts",
           exported(outputs=changed("score", lambda y: y[:, 0])), "PARITY_SHAPE"),
    _fault("flat-made-a-column", "rows", "[n, 1] where the source gives [n]: it broadcasts",
           exported(outputs=changed("total", lambda y: y[:, tf.newaxis])), "PARITY_SHAPE"),
    _fault("one-row-for-all", "photos", "[1, c] where the source gives [n, c]: it broadcasts",
           exported(outputs=changed("probabilities", lambda y: tf.reduce_mean(y, 0, keepdims=True))), BATCH),
    # frozen dimensions
    *(_fault(f"batch-frozen-{size}", "photos", f"the batch is fixed at {size}", exported(specs=fixed(0, size)), BATCH)
      for size in (1, 5, 16)),
    _fault("batch-frozen-inside", "photos", "a reshape has the size of the traced batch",
           exported(outputs=changed("probabilities", lambda y: tf.reshape(y, [8, 10]))), BATCH),
    _fault("length-frozen", "texts", "the length is fixed at the traced one", exported(specs=fixed(1, 9)), LENGTH),
    # files
    _fault("variables-lost", "photos", "the file with the weights is gone", copied(lost_variables), ERROR),
    _fault("variables-truncated", "photos", "the file with the weights ends half-way", copied(truncated_variables),
           ERROR),
    _fault("variables-altered", "photos", "one bit in the file with the weights is another",
           copied(altered_variables), ERROR),
    _fault("graph-truncated", "photos", "saved_model.pb ends early", copied(truncated_graph), ERROR),
    # weights
    _model("sign-bit", "photos", "the sign of one weight is another",
           weights("head", 0, lambda w: flip(w, (5, 3), 31))),
    _model("exponent-bit", "photos", "one weight is twice or half as large",
           weights("block", 0, lambda w: flip(w, (1, 1, 2, 3), 23))),
    _model("last-bit", "photos", "one weight is off by one unit in the last place: rounding does as much",
           weights("head", 0, lambda w: flip(w, (0, 0), 0)), None),
    _model("bfloat16-weights", "photos", "all weights are rounded to bfloat16", all_weights(bfloat16)),
    _model("int8-weights", "texts", "one layer's weights are on a grid of 255 steps", weights("wide", 0, int8_grid)),
    _model("int8-saturation", "photos", "the largest weights of one layer are cut off",
           weights("head", 0, lambda w: np.clip(w, -0.9 * np.abs(w).max(), 0.9 * np.abs(w).max()))),
    _model("stale-weights", "texts", "one layer has the weights of the step before",
           weights("narrow", 0, lambda w: w + 1e-4 * np.random.default_rng(0).normal(size=w.shape))),
    _model("stale-statistics", "photos", "running statistics of an earlier epoch",
           weights("norm", 3, lambda w: w * 1.001)),
    _model("classes-rolled", "photos", "labels are off by one", rolled_classes),
    # constants and activations
    _model("layer-norm-epsilon", "texts", "LayerNorm with epsilon 1e-3 for 1e-5", assign("norm", epsilon=1e-3)),
    _model("batch-norm-epsilon", "photos", "BatchNorm with epsilon 1e-5 for 1e-3", assign("norm", epsilon=1e-5)),
    _model("normalisation-constants", "photos", "0.5 for the mean and the deviation of the training data",
           other_constants),
    _model("tanh-gelu", "texts", "GELU by tanh where the source has erf",
           assign("activation", activation=lambda x: keras.activations.gelu(x, approximate=True))),
    _model("log-softmax", "photos", "log-probabilities for probabilities", then("softmax", tf.math.log)),
    _model("softmax-over-batch", "photos", "softmax over the batch axis", assign("softmax", axis=0), DEPENDENT,
           DIFFERS),
    # resizing and layout
    _model("nearest-for-bilinear", "photos", "upsampling by the nearest value",
           assign("up", interpolation="nearest")),
    _model("channels-first", "photos", "flattened in NCHW order for NHWC",
           then("mix", lambda x: tf.reshape(tf.transpose(x, [0, 3, 1, 2]), tf.shape(x)))),
    _fault("bgr", "photos", "channels in BGR order", exported(inputs=changed("image", lambda x: x[..., ::-1]))),
    # structure of the computation
    _model("dropped-residual", "photos", "the way around a block is lost",
           calling("around", lambda _: lambda given: given[1])),
    _fault("mask-ignored", "texts", "padding is attended to", exported(inputs=changed("mask", tf.ones_like))),
    _fault("masked-tail", "texts", "tokens beyond the eighth are ignored", exported(inputs=masked_tail)),
    _fault("padding-left", "texts", "the mask is applied from the other end",
           exported(inputs=changed("mask", lambda x: x[:, ::-1]))),
    _fault("clipped-ids", "texts", "ids above 17 become 17",
           exported(inputs=changed("tokens", lambda x: tf.minimum(x, 17)))),
    _fault("swapped-inputs", "rows", "two inputs of the same shape have each other's names",
           exported(inputs=moved(before="after", after="before"))),
    _model("constant-answer", "photos", "the answer does not depend on the input", then("head", lambda y: y * 0)),
    # numbers
    _fault("nan-on-rare-inputs", "photos", "NaN for a pixel that one image in fifty has",
           exported(inputs=changed("image", lambda x: x + 0 * tf.sqrt(x + 2.5))), NAN, NO_METRIC),
    _model("float16-overflow", "photos", "infinite where float16 overflows",
           then("activation", lambda x: tf.cast(tf.cast(x * 3e4, tf.float16), tf.float32) / 3e4), NAN, DIFFERS,
           NO_METRIC),
    _fault("unsigned-wrap-around", "rows", "whole numbers less one: 0 becomes 255",
           exported(outputs=changed("level", lambda y: y - tf.constant(1, tf.uint8)))),
    # between calls and rows
    _model("batch-mean", "photos", "a hundredth of the batch's mean is taken off",
           then("norm", lambda x: x + 0.01 * (x - tf.reduce_mean(x, 0, keepdims=True))), DEPENDENT),
    _model("training-batch-norm", "photos", "BatchNorm is in training mode", training("norm"), DEPENDENT, DIFFERS,
           "PARITY_NOT_DETERMINISTIC"),
    _model("active-dropout", "photos", "dropout is active", training("drop"), "PARITY_NOT_DETERMINISTIC", DIFFERS),
    _model("noise", "photos", "noise of 1e-4 is added",
           then("activation", lambda x: x + tf.random.normal(tf.shape(x), stddev=1e-4)), "PARITY_NOT_DETERMINISTIC"),
    _fault("state-between-calls", "photos", "each call adds a thousandth", state_between_calls,
           "PARITY_NOT_DETERMINISTIC", DIFFERS),
)
# fmt: on
