"""Faults of torch.export archives: the module was not as it was trained when it was exported, or the file is not."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from serving.contract import DimRange, DType, Signature
from tasks.export.sizes import sample_inputs, tracing_sizes
from tests.parity.corpus.fault import Fault, Good
from tests.parity.corpus.onnx_graph import flip
from tests.parity.corpus.onnx_values import bfloat16, int8_grid

FILE = "model.pt2"
Change = Callable[[Any], Any]


def exported(change: Change, signature: Callable[[Signature], Signature] = lambda signature: signature) -> Any:
    """A fault that changes the module, in place or by answering another one, before it is exported."""

    def inject(good: Good, folder: Path) -> Path:
        module = good.native()
        module = change(module) or module
        module.requires_grad_(requires_grad=False)
        torch.export.save(_program(module, signature(good.signature)), folder / FILE)
        return folder / FILE

    return inject


def _program(module: nn.Module, signature: Signature) -> torch.export.ExportedProgram:
    """The module as Slipway's exporter captures it, but that it does not look at what came out."""
    dims = {name: torch.export.Dim(name, min=span.min, max=span.max) for name, span in signature.dynamic.items()}
    args = tuple(torch.from_numpy(array) for array in sample_inputs(signature, tracing_sizes(signature)).values())
    free = [{axis: dims[size] for axis, size in enumerate(port.shape) if size in dims} for port in signature.inputs]
    shapes = dict(inspect.signature(module.forward).bind(*free).arguments)
    with torch.no_grad():
        return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)


def replace(path: str, make: Callable[[], nn.Module]) -> Change:
    """Put another module in the place of one."""
    return lambda module: module.set_submodule(path, make())


def assign(path: str, **values: Any) -> Change:
    """Set attributes of a submodule."""

    def change(module: nn.Module) -> None:
        for name, value in values.items():
            setattr(module.get_submodule(path), name, value)

    return change


def weights(name: str, to: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Replace one weight by a function of it."""

    def change(module: nn.Module) -> None:
        tensor = dict([*module.named_parameters(), *module.named_buffers()])[name]
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(to(tensor.numpy().copy())).astype(np.float32)))

    return change


def all_weights(to: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Replace every weight by a function of it."""

    def change(module: nn.Module) -> None:
        for name, _ in module.named_parameters():
            weights(name, to)(module)

    return change


class Wrapped(nn.Module):
    """The module with something done to its inputs or to its answers."""

    def __init__(
        self,
        inner: nn.Module,
        inputs: Callable[..., Any] = lambda *x: x,
        answers: Callable[..., Any] = lambda *y: y if len(y) > 1 else y[0],
    ) -> None:
        super().__init__()
        self.inner, self.inputs, self.answers = inner, inputs, answers

    def forward(self, *x: torch.Tensor) -> Any:
        y = self.inner(*self.inputs(*x))
        return self.answers(*(y if isinstance(y, tuple) else (y,)))


def wrapped(**functions: Callable[..., Any]) -> Change:
    """Functions of the inputs or of the answers around the module."""
    return lambda module: Wrapped(module, **functions)


class Then(nn.Module):
    """A module, and a function of what it gives."""

    def __init__(self, inner: nn.Module, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return self.function(self.inner(*x))


def then(path: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """A function of what one submodule gives."""
    return lambda module: module.set_submodule(path, Then(module.get_submodule(path), function))


class Straight(nn.Module):
    """The residual block without its way around."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv, self.norm = block.conv, block.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


def training(path: str) -> Change:
    """Leave one submodule in training mode."""

    def change(module: nn.Module) -> None:
        found = module.get_submodule(path)
        found.train()
        if isinstance(found, nn.modules.batchnorm._BatchNorm):
            found.track_running_stats = False
            found.running_mean = found.running_var = None

    return change


def stateful(module: nn.Module) -> nn.Module:
    """Each call adds to a buffer that the answer holds."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1e-3)
            return self.inner(image) + self.calls

    return Counting()


def rolled_classes(module: Any) -> None:
    for tensor in (module.head.weight, module.head.bias):
        tensor.copy_(torch.roll(tensor, 1, 0))


def other_constants(module: Any) -> None:
    module.normalise.mean.fill_(0.5)
    module.normalise.deviation.fill_(0.5)


def masked_tail(tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens, mask * (torch.arange(tokens.shape[1]) < 8)


def frozen(name: str, size: int) -> Callable[[Signature], Signature]:
    """The signature with one dimension of a single size."""

    def fix(signature: Signature) -> Signature:
        def shapes(tensors: Any) -> Any:
            return tuple(
                replace_fields(tensor, shape=tuple(size if axis == name else axis for axis in tensor.shape))
                for tensor in tensors
            )

        dynamic = {key: value for key, value in signature.dynamic.items() if key != name}
        return Signature(shapes(signature.inputs), shapes(signature.outputs), dynamic or {"unused": DimRange(1, 2)})

    return fix


def narrow_tokens(signature: Signature) -> Signature:
    """The signature with int32 tokens."""
    tokens, *others = signature.inputs
    return replace_fields(signature, inputs=(replace_fields(tokens, dtype=DType.INT32), *others))


def truncated(good: Good, folder: Path) -> Path:
    (folder / FILE).write_bytes(good.export.read_bytes()[:-500])
    return folder / FILE


def no_model(_: Good, folder: Path) -> Path:
    (folder / FILE).write_bytes(b"<html>404 Not Found</html>")
    return folder / FILE


def altered(good: Good, folder: Path) -> Path:
    """One bit of one weight, in the archive itself."""
    with zipfile.ZipFile(good.export) as given, zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_STORED) as written:
        table = next(name for name in given.namelist() if name.endswith("model_weights_config.json"))
        place = json.loads(given.read(table))["config"]["head.weight"]["path_name"]
        for entry in given.infolist():
            content = given.read(entry)
            if entry.filename.endswith(f"weights/{place}"):
                content = flip(np.frombuffer(content, np.float32).copy(), (3,), 23).tobytes()
            written.writestr(entry, content)
    return folder / FILE


DIFFERS, NAN, NO_METRIC = "PARITY_TENSOR_DIFFERS", "PARITY_NAN", "PARITY_METRIC_MISSING"
BATCH, LENGTH, ERROR = "PARITY_BATCH_FROZEN", "PARITY_LENGTH_FROZEN", "PARITY_RUNTIME_ERROR"


def _fault(name: str, base: str, says: str, change: Change, code: str | None = DIFFERS, *also: str) -> Fault:
    return Fault(name, "torch-export", base, says, exported(change), code, also)


# fmt: off
FAULTS = (
    # names, dtypes, shapes: an archive has an order and no names
    _fault("outputs-swapped", "tabular", "two outputs of different shapes have changed places",
           wrapped(answers=lambda f, s, t, a, v: (f, t, s, a, v)), "PARITY_OUTPUT_SWAPPED"),
    _fault("outputs-in-a-cycle", "tabular", "three outputs of different shapes have moved on by one",
           wrapped(answers=lambda f, s, t, a, v: (t, f, s, a, v)), "PARITY_OUTPUT_SWAPPED"),
    _fault("output-missing", "tabular", "the last of five outputs is not there",
           wrapped(answers=lambda *y: y[:4]), "PARITY_OUTPUT_MISSING"),
    _fault("output-extra", "vision", "an inner value is given as well", wrapped(answers=lambda y: (y, y * 2)),
           "PARITY_OUTPUT_EXTRA"),
    _fault("output-float64", "vision", "float64 where float32 is declared", wrapped(answers=lambda y: y.double()),
           "PARITY_DTYPE"),
    _fault("output-float16", "vision", "float16 where float32 is declared", wrapped(answers=lambda y: y.half()),
           "PARITY_DTYPE"),
    _fault("output-int32", "tabular", "int32 where int64 is declared",
           wrapped(answers=lambda f, s, t, a, v: (f, s, t, a.int(), v)), "PARITY_DTYPE"),
    Fault("input-int32", "torch-export", "encoder", "the tokens are taken as int32 where int64 is declared",
          exported(lambda module: None, narrow_tokens), "PARITY_INPUT_DTYPE"),
    _fault("column-flattened", "tabular", "[n] where the source gives [n, 1]: it broadcasts",
           wrapped(answers=lambda f, s, t, a, v: (f, s.squeeze(1), t, a, v)), "PARITY_SHAPE"),
    _fault("flat-made-a-column", "tabular", "[n, 1] where the source gives [n]: it broadcasts",
           wrapped(answers=lambda f, s, t, a, v: (f, s, t.unsqueeze(1), a, v)), "PARITY_SHAPE"),
    _fault("one-row-for-all", "vision", "[1, c] where the source gives [n, c]: it broadcasts",
           wrapped(answers=lambda y: y.mean(0, keepdim=True)), BATCH),
    # frozen dimensions
    *(Fault(f"batch-frozen-{size}", "torch-export", "vision", f"the batch is fixed at {size}",
            exported(lambda module: None, frozen("batch", size)), BATCH) for size in (1, 5, 16)),
    Fault("length-frozen", "torch-export", "encoder", "the length is fixed at the traced one",
          exported(lambda module: None, frozen("length", 9)), LENGTH),
    # files
    Fault("file-truncated", "torch-export", "vision", "the file ends early", truncated, ERROR),
    Fault("no-model", "torch-export", "vision", "the file is an error page", no_model, ERROR),
    Fault("file-altered", "torch-export", "vision", "one bit of a weight in the archive is another", altered, DIFFERS),
    # weights
    _fault("sign-bit", "vision", "the sign of one weight is another",
           weights("head.weight", lambda w: flip(w, (3, 5), 31))),
    _fault("exponent-bit", "vision", "one weight is twice or half as large",
           weights("block.conv.weight", lambda w: flip(w, (2, 1, 0, 0), 23))),
    _fault("last-bit", "vision", "one weight is off by one unit in the last place: rounding does as much",
           weights("head.weight", lambda w: flip(w, (0, 0), 0)), None),
    _fault("bfloat16-weights", "vision", "all weights are rounded to bfloat16", all_weights(bfloat16)),
    _fault("int8-weights", "encoder", "one layer's weights are on a grid of 255 steps",
           weights("wide.weight", int8_grid)),
    _fault("int8-saturation", "vision", "the largest weights of one layer are cut off",
           weights("head.weight", lambda w: np.clip(w, -0.9 * np.abs(w).max(), 0.9 * np.abs(w).max()))),
    _fault("stale-weights", "encoder", "one layer has the weights of the step before",
           weights("narrow.weight", lambda w: w + 1e-4 * np.random.default_rng(0).normal(size=w.shape))),
    _fault("stale-statistics", "tabular", "running statistics of an earlier epoch",
           weights("norm.running_var", lambda w: w * 1.001)),
    _fault("classes-rolled", "vision", "labels are off by one", rolled_classes),
    # constants and activations
    _fault("layer-norm-epsilon", "encoder", "LayerNorm with epsilon 1e-3 for 1e-5", assign("norm", eps=1e-3)),
    _fault("batch-norm-epsilon", "vision", "BatchNorm with epsilon 1e-3 for 1e-5", assign("norm", eps=1e-3)),
    _fault("normalisation-constants", "vision", "0.5 for the mean and the deviation of the training data",
           other_constants),
    _fault("tanh-gelu", "encoder", "GELU by tanh where the source has erf",
           replace("activation", lambda: nn.GELU("tanh"))),
    _fault("log-softmax", "vision", "log-probabilities for probabilities",
           replace("softmax", lambda: nn.LogSoftmax(1))),
    _fault("softmax-over-batch", "vision", "softmax over the batch axis", replace("softmax", lambda: nn.Softmax(0)),
           "PARITY_BATCH_DEPENDENT", DIFFERS),
    _fault("softmax-over-queries", "encoder", "softmax of the attention over another axis",
           replace("attention.softmax", lambda: nn.Softmax(1))),
    # resizing and layout
    _fault("align-corners", "vision", "bilinear upsampling with aligned corners", assign("up", align_corners=True)),
    _fault("nearest-for-bilinear", "vision", "upsampling by the nearest value",
           replace("up", lambda: nn.Upsample(scale_factor=2))),
    _fault("channels-last", "vision", "flattened in NHWC order for NCHW",
           then("mix", lambda x: x.permute(0, 2, 3, 1).contiguous())),
    _fault("bgr", "vision", "channels in BGR order", wrapped(inputs=lambda image: (image.flip(1),))),
    # structure of the computation
    _fault("dropped-residual", "vision", "the way around a block is lost",
           lambda module: module.set_submodule("block", Straight(module.block))),
    _fault("mask-ignored", "encoder", "padding is attended to",
           wrapped(inputs=lambda tokens, mask: (tokens, torch.ones_like(mask)))),
    _fault("masked-tail", "encoder", "tokens beyond the eighth are ignored", wrapped(inputs=masked_tail)),
    _fault("padding-left", "encoder", "the mask is applied from the other end",
           wrapped(inputs=lambda tokens, mask: (tokens, mask.flip(1)))),
    _fault("clipped-ids", "encoder", "ids above 17 become 17",
           wrapped(inputs=lambda tokens, mask: (tokens.clamp(0, 17), mask))),
    _fault("swapped-inputs", "tabular", "two inputs of the same shape have changed places",
           wrapped(inputs=lambda before, after, kind: (after, before, kind))),
    _fault("constant-answer", "vision", "the answer does not depend on the input", then("head", lambda y: y * 0)),
    # numbers
    _fault("nan-on-rare-inputs", "vision", "NaN for a pixel that one image in fifty has",
           wrapped(inputs=lambda image: (image + 0 * torch.sqrt(image + 2.5),)), NAN, NO_METRIC),
    _fault("float16-overflow", "vision", "infinite where float16 overflows",
           then("activation", lambda x: (x * 3e4).half().float() / 3e4), NAN, DIFFERS, NO_METRIC),
    _fault("unsigned-wrap-around", "tabular", "whole numbers less one: 0 becomes 255",
           wrapped(answers=lambda f, s, t, a, v: (f, s, t, a, v - 1))),
    # between calls and rows
    _fault("batch-mean", "vision", "a hundredth of the batch's mean is taken off",
           then("norm", lambda x: x + 0.01 * (x - x.mean(0, keepdim=True))), "PARITY_BATCH_DEPENDENT"),
    _fault("training-batch-norm", "vision", "BatchNorm is in training mode", training("norm"),
           "PARITY_BATCH_DEPENDENT", DIFFERS),
    _fault("active-dropout", "tabular", "dropout is active", training("drop"), "PARITY_NOT_DETERMINISTIC", DIFFERS),
    _fault("noise", "vision", "noise of 1e-4 is added",
           then("activation", lambda x: x + 1e-4 * torch.randn_like(x)), "PARITY_NOT_DETERMINISTIC"),
    _fault("state-between-calls", "vision", "each call adds a thousandth", stateful, "PARITY_NOT_DETERMINISTIC",
           DIFFERS),
)
# fmt: on
