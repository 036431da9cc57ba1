"""Faults of ONNX files whose names and shapes are right and whose numbers are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.parity.corpus.fault import Fault
from tests.parity.corpus.onnx_graph import (
    before,
    constant,
    flip,
    follow,
    graph,
    lead,
    node_of,
    remove,
    rename,
    set_attribute,
    set_weight,
    weight,
)

Change = Callable[[onnx.ModelProto], None]
node = helper.make_node


def weights(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    """Replace one weight by a function of it."""
    return lambda model: set_weight(model, name, change(weight(model, name)).astype(np.float32))


def all_weights(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    """Replace every floating-point weight by a function of it."""

    def apply(model: onnx.ModelProto) -> None:
        for tensor in list(model.graph.initializer):
            if tensor.data_type == TensorProto.FLOAT and tensor.dims:
                set_weight(model, tensor.name, change(weight(model, tensor.name)).astype(np.float32))

    return apply


def attributes(operator: str, module: str, **values: Any) -> Change:
    """Replace attributes of one node."""
    return lambda model: set_attribute(node_of(model, operator, module), **values)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to the nearest number with eight digits of significand."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def int8_grid(values: NDArray[np.float32], reach: float = 1.0) -> NDArray[np.float32]:
    """On 255 steps between ± `reach` times the largest weight; what lies beyond is cut off."""
    step = np.abs(values).max() * reach / 127
    return np.asarray(np.clip(np.round(values / step), -127, 127) * step)


def log_softmax(model: onnx.ModelProto) -> None:
    node_of(model, "Softmax").op_type = "LogSoftmax"


def flattening_softmax(model: onnx.ModelProto) -> None:
    """Softmax as opset 12 had it: everything from the axis on is one."""
    softmax = node_of(model, "Softmax", "attention.softmax")
    shape, flat, soft = "shape.injected", "flat.injected", "soft.injected"
    given, answer = softmax.input[0], softmax.output[0]
    place = list(model.graph.node).index(softmax)
    model.graph.node.remove(softmax)
    for inserted in (
        node("Reshape", [soft, shape], [answer]),
        node("Softmax", [flat], [soft], axis=1),
        node("Flatten", [given], [flat], axis=1),
        node("Shape", [given], [shape]),
    ):
        inserted.metadata_props.extend(softmax.metadata_props)
        model.graph.node.insert(place, inserted)


def rolled_classes(model: onnx.ModelProto) -> None:
    set_weight(model, "head.weight", np.roll(weight(model, "head.weight"), 1, axis=0))
    set_weight(model, "head.bias", np.roll(weight(model, "head.bias"), 1))


def other_constants(model: onnx.ModelProto) -> None:
    for name in ("normalise.mean", "normalise.deviation"):
        set_weight(model, name, np.full((1, 3, 1, 1), 0.5, dtype=np.float32))


def bgr(model: onnx.ModelProto) -> None:
    order = constant(model, "order.injected", np.array([2, 1, 0]))
    lead(model, "image", node("Gather", ["image", order], ["image.bgr"], axis=1))


def height_and_width(model: onnx.ModelProto) -> None:
    lead(model, "image", node("Transpose", ["image"], ["image.turned"], perm=[0, 1, 3, 2]))


def channels_last(model: onnx.ModelProto) -> None:
    follow(model, "conv2d_2", node("Transpose", [before("conv2d_2")], ["conv2d_2"], perm=[0, 2, 3, 1]))


def dropped_residual(model: onnx.ModelProto) -> None:
    remove(model, node_of(model, "Add", "block"), passing=1)


def clipped_ids(model: onnx.ModelProto) -> None:
    low, high = constant(model, "low", np.array(0)), constant(model, "high", np.array(17))
    lead(model, "tokens", node("Clip", ["tokens", low, high], ["tokens.clipped"]))


def batch_mean(model: onnx.ModelProto) -> None:
    axes, share = constant(model, "axes.injected", np.array([0])), constant(model, "share.injected", np.float32(0.01))
    follow(
        model,
        "getitem",
        node("ReduceMean", [before("getitem"), axes], ["mean.injected"], keepdims=1),
        node("Sub", [before("getitem"), "mean.injected"], ["off.injected"]),
        node("Mul", ["off.injected", share], ["little.injected"]),
        node("Add", [before("getitem"), "little.injected"], ["getitem"]),
    )


def training_norm(model: onnx.ModelProto) -> None:
    """BatchNormalization over the batch itself, as training does."""
    axes = constant(model, "axes.injected", np.array([0]))
    tiny = constant(model, "tiny.injected", np.float32(1e-5))
    follow(
        model,
        "cat",
        node("ReduceMean", [before("cat"), axes], ["mean.injected"], keepdims=1),
        node("Sub", [before("cat"), "mean.injected"], ["off.injected"]),
        node("Mul", ["off.injected", "off.injected"], ["square.injected"]),
        node("ReduceMean", ["square.injected", axes], ["variance.injected"], keepdims=1),
        node("Add", ["variance.injected", tiny], ["positive.injected"]),
        node("Sqrt", ["positive.injected"], ["deviation.injected"]),
        node("Div", ["off.injected", "deviation.injected"], ["cat"]),
    )
    set_weight(model, "norm.running_mean", np.zeros(12, dtype=np.float32))
    set_weight(model, "norm.running_var", np.ones(12, dtype=np.float32))


def active_dropout(model: onnx.ModelProto) -> None:
    """As exporters write it out; onnxruntime leaves the Dropout operator out, even in training mode."""
    ratio, kept = constant(model, "ratio.injected", np.float32(0.2)), constant(model, "kept.injected", np.float32(0.8))
    follow(
        model,
        "getitem",
        node("RandomUniformLike", [before("getitem")], ["random.injected"]),
        node("Greater", ["random.injected", ratio], ["chosen.injected"]),
        node("Cast", ["chosen.injected"], ["mask.injected"], to=TensorProto.FLOAT),
        node("Mul", [before("getitem"), "mask.injected"], ["dropped.injected"]),
        node("Div", ["dropped.injected", kept], ["getitem"]),
    )


def noise(model: onnx.ModelProto) -> None:
    follow(
        model,
        "gelu",
        node("RandomNormalLike", [before("gelu")], ["noise.injected"], scale=1e-4),
        node("Add", [before("gelu"), "noise.injected"], ["gelu"]),
    )


def constant_answer(model: onnx.ModelProto) -> None:
    zero = constant(model, "zero.injected", np.float32(0))
    follow(model, "linear", node("Mul", [before("linear"), zero], ["linear"]))


def masked_tail(model: onnx.ModelProto) -> None:
    """Text beyond eight tokens is treated as padding."""
    eight = constant(model, "eight.injected", np.array(8))
    zero, one = constant(model, "zero.injected", np.array(0)), constant(model, "one.injected", np.array(1))
    along = constant(model, "along.injected", np.array(1))
    lead(
        model,
        "mask",
        node("Shape", ["tokens"], ["shape.injected"]),
        node("Gather", ["shape.injected", along], ["length.injected"], axis=0),
        node("Range", [zero, "length.injected", one], ["places.injected"]),
        node("Less", ["places.injected", eight], ["seen.injected"]),
        node("Cast", ["seen.injected"], ["kept.injected"], to=TensorProto.INT64),
        node("Mul", ["mask", "kept.injected"], ["mask.cut"]),
    )


def mask_ignored(model: onnx.ModelProto) -> None:
    remove(model, node_of(model, "Where", "attention"), passing=2)


def padding_left(model: onnx.ModelProto) -> None:
    """The mask is read from its other end."""
    start, end = constant(model, "start.injected", np.array([-1])), constant(model, "end.injected", np.array([-100]))
    axis = constant(model, "axis.injected", np.array([1]))
    lead(model, "mask", node("Slice", ["mask", start, end, axis, start], ["mask.turned"]))


def no_scaling(model: onnx.ModelProto) -> None:
    remove(model, node_of(model, "Div", "attention"))


def half(value: str, factor: float) -> Change:
    """Through float16, scaled up before: the largest values overflow."""

    def change(model: onnx.ModelProto) -> None:
        up, down = (
            constant(model, f"factor.{name}", np.float32(by)) for name, by in (("up", factor), ("down", 1 / factor))
        )
        follow(
            model,
            value,
            node("Mul", [before(value), up], ["large.injected"]),
            node("Cast", ["large.injected"], ["half.injected"], to=TensorProto.FLOAT16),
            node("Cast", ["half.injected"], ["wide.injected"], to=TensorProto.FLOAT),
            node("Mul", ["wide.injected", down], [value]),
        )

    return change


def nan_on_rare(model: onnx.ModelProto) -> None:
    """The root of what is negative for one pixel below a bound that hardly any image has."""
    low = constant(model, "low.injected", np.float32(-2.5))
    zero = constant(model, "zero.injected", np.float32(0))
    lead(
        model,
        "image",
        node("Sub", ["image", low], ["above.injected"]),
        node("Sqrt", ["above.injected"], ["root.injected"]),
        node("Mul", ["root.injected", zero], ["nothing.injected"]),
        node("Add", ["image", "nothing.injected"], ["image.injected"]),
    )


def infinity_on_large(model: onnx.ModelProto) -> None:
    """exp and log of a value, which overflow for large ones."""
    much = constant(model, "much.injected", np.float32(60))
    follow(
        model,
        "linear",
        node("Mul", [before("linear"), much], ["large.injected"]),
        node("Exp", ["large.injected"], ["exp.injected"]),
        node("Log", ["exp.injected"], ["log.injected"]),
        node("Div", ["log.injected", much], ["linear"]),
    )


def wrap_around(model: onnx.ModelProto) -> None:
    one = constant(model, "one.injected", np.uint8(1))
    follow(model, "level", node("Sub", [before("level"), one], ["level"]))


def wrap_of_cast(model: onnx.ModelProto) -> None:
    """Whole numbers above 255 begin again at 0: the clamp is lost before the cast."""
    remove(model, node_of(model, "Clip"))
    follow(model, "level", node("Cast", [node_of(model, "Cast").input[0]], ["wide.injected"], to=TensorProto.INT32),
           node("Cast", ["wide.injected"], ["level"], to=TensorProto.UINT8))  # fmt: skip


def swapped_inputs(model: onnx.ModelProto) -> None:
    rename(model, before="after", after="before")


def last_of_ties(model: onnx.ModelProto) -> None:
    set_attribute(node_of(model, "ArgMax"), select_last_index=1)


def relu(model: onnx.ModelProto) -> None:
    gelu = node_of(model, "Gelu")
    gelu.op_type = "Relu"
    del gelu.attribute[:]


DIFFERS, NAN, NO_METRIC = "PARITY_TENSOR_DIFFERS", "PARITY_NAN", "PARITY_METRIC_MISSING"


def _fault(
    name: str, base: str, says: str, change: Change, layers: str = "", code: str | None = DIFFERS, *also: str
) -> Fault:
    return Fault(name, "onnx", base, says, graph(change), code, also, tuple(layers.split()))


# fmt: off
FAULTS = (
    # weights
    _fault("sign-bit", "vision", "the sign of one weight is another",
           weights("head.weight", lambda w: flip(w, (3, 5), 31)), "head"),
    _fault("exponent-bit", "vision", "one weight is twice or half as large",
           weights("block.conv.weight", lambda w: flip(w, (2, 1, 0, 0), 23)), "block.conv block.norm"),
    _fault("significand-bit", "vision", "one weight is off by an eighth",
           weights("mix.weight", lambda w: flip(w, (1, 1, 1, 1), 20)), "mix"),
    _fault("middle-bit", "vision", "one weight is off by 2^-7 of itself",
           weights("head.weight", lambda w: flip(w, (3, 5), 16)), "head"),
    _fault("last-bit", "vision", "one weight is off by one unit in the last place: rounding does as much",
           weights("head.weight", lambda w: flip(w, (0, 0), 0)), code=None),
    _fault("bfloat16-weights", "vision", "all weights are rounded to bfloat16", all_weights(bfloat16),
           "normalise stem norm"),
    _fault("float16-weights", "encoder", "all weights are rounded to float16",
           all_weights(lambda w: w.astype(np.float16)), "words places"),
    _fault("int8-weights", "encoder", "one layer's weights are on a grid of 255 steps",
           weights("val_18", int8_grid), "wide"),
    _fault("int8-saturation", "vision", "the largest weights of one layer are cut off",
           weights("head.weight", lambda w: np.clip(w, -0.9 * np.abs(w).max(), 0.9 * np.abs(w).max())), "head"),
    _fault("stale-weights", "encoder", "one layer has the weights of the step before",
           weights("val_20", lambda w: w + 1e-4 * np.random.default_rng(0).normal(size=w.shape)), "narrow"),
    _fault("stale-bias", "tabular", "one bias has the value of the step before",
           weights("hidden.bias", lambda w: w + 1e-4), "hidden"),
    _fault("stale-statistics", "tabular", "running statistics of an earlier epoch",
           weights("norm.running_var", lambda w: w * 1.001), "norm"),
    _fault("transposed-weight", "encoder", "a square weight is transposed", weights("val_6", np.transpose),
           "attention.query"),
    _fault("classes-rolled", "vision", "labels are off by one", rolled_classes, "head"),
    # constants
    _fault("layer-norm-epsilon", "encoder", "LayerNorm with epsilon 1e-3 for 1e-5",
           attributes("LayerNormalization", "norm", epsilon=1e-3), "norm"),
    _fault("layer-norm-epsilon-1e-12", "encoder", "LayerNorm with epsilon 1e-12 for 1e-5",
           attributes("LayerNormalization", "last", epsilon=1e-12), "last"),
    _fault("batch-norm-epsilon", "tabular", "BatchNorm with epsilon 1e-3 for 1e-5",
           attributes("BatchNormalization", "norm", epsilon=1e-3), "norm"),
    _fault("elu-alpha", "tabular", "ELU with another alpha",
           attributes("Elu", "activation", alpha=1.01), "activation"),
    _fault("normalisation-constants", "vision", "0.5 for the mean and the deviation of the training data",
           other_constants, "normalise"),
    # activations
    _fault("tanh-gelu", "encoder", "GELU by tanh where the source has erf",
           attributes("Gelu", "activation", approximate="tanh"), "activation"),
    _fault("tanh-gelu-in-a-cnn", "vision", "GELU by tanh where the source has erf",
           attributes("Gelu", "activation", approximate="tanh"), "activation"),
    _fault("relu-for-gelu", "encoder", "ReLU where the source has GELU", relu, "activation"),
    _fault("log-softmax", "vision", "log-probabilities for probabilities", log_softmax, "softmax"),
    _fault("softmax-over-batch", "vision", "softmax over the batch axis",
           attributes("Softmax", "softmax", axis=0), "softmax", "PARITY_BATCH_DEPENDENT", DIFFERS),
    _fault("softmax-over-queries", "encoder", "softmax of the attention over another axis",
           attributes("Softmax", "attention.softmax", axis=1), "attention.softmax"),
    _fault("softmax-of-opset-12", "encoder", "softmax flattens everything behind its axis, as before opset 13",
           flattening_softmax, "attention.softmax"),
    # resizing and layout
    _fault("align-corners", "vision", "bilinear upsampling with aligned corners",
           attributes("Resize", "up", coordinate_transformation_mode="align_corners"), "up"),
    _fault("asymmetric-resize", "vision", "upsampling as opset 10 had it",
           attributes("Resize", "up", coordinate_transformation_mode="asymmetric"), "up"),
    _fault("nearest-for-bilinear", "vision", "upsampling by the nearest value",
           attributes("Resize", "up", mode="nearest"), "up"),
    _fault("channels-last", "vision", "flattened in NHWC order for NCHW", channels_last, "mix"),
    _fault("height-for-width", "vision", "images are turned", height_and_width, "normalise"),
    _fault("bgr", "vision", "channels in BGR order", bgr, "normalise"),
    _fault("padding-off-by-one", "vision", "padding on one side only",
           attributes("Conv", "mix", pads=[2, 2, 0, 0]), "mix"),
    # structure of the computation
    _fault("dropped-residual", "vision", "the way around a block is lost", dropped_residual, "block pool"),
    _fault("no-attention-scaling", "encoder", "attention without the division by √d", no_scaling, "attention"),
    _fault("mask-ignored", "encoder", "padding is attended to", mask_ignored, "attention attention.softmax"),
    _fault("masked-tail", "encoder", "tokens beyond the eighth are ignored", masked_tail),
    _fault("padding-left", "encoder", "the mask is applied from the other end", padding_left),
    _fault("clipped-ids", "encoder", "ids above 17 become 17", clipped_ids, "words"),
    _fault("swapped-inputs", "tabular", "two inputs of the same shape have each other's names", swapped_inputs,
           "first second"),
    _fault("last-of-ties", "tabular", "the last of equal scores wins for the first", last_of_ties),
    _fault("constant-answer", "vision", "the answer does not depend on the input", constant_answer, "head"),
    # numbers
    _fault("nan-on-rare-inputs", "vision", "NaN for a pixel that one image in fifty has", nan_on_rare, "normalise", NAN,
           NO_METRIC),
    _fault("infinity-on-large-values", "encoder", "infinite where an exponential overflows", infinity_on_large,
           "attention.query", NAN, DIFFERS, NO_METRIC),
    _fault("float16-overflow", "vision", "infinite where float16 overflows", half("gelu", 3e4), "activation", NAN,
           DIFFERS, NO_METRIC),
    _fault("float16-activations", "vision", "activations are rounded to float16", half("relu", 1), "block"),
    _fault("unsigned-wrap-around", "tabular", "whole numbers less one: 0 becomes 255", wrap_around),
    _fault("unsigned-wrap-of-cast", "tabular", "numbers above 255 begin again at 0", wrap_of_cast),
    # between calls and rows
    _fault("batch-mean", "vision", "a hundredth of the batch's mean is taken off", batch_mean, "norm",
           "PARITY_BATCH_DEPENDENT"),
    _fault("training-batch-norm", "tabular", "BatchNorm normalises over the batch", training_norm, "",
           "PARITY_BATCH_DEPENDENT", DIFFERS),
    _fault("active-dropout", "tabular", "dropout is active", active_dropout, "", "PARITY_NOT_DETERMINISTIC", DIFFERS),
    _fault("noise", "vision", "noise of 1e-4 is added", noise, "", "PARITY_NOT_DETERMINISTIC"),
)
# fmt: on
