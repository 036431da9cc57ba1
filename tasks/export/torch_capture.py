"""PyTorch, first half of every export: nn.Module or ExportedProgram → ExportedProgram with dynamic dimensions.

The program takes the signature's inputs and gives its outputs, both by position, and every named dimension is one
symbol over its declared range. What cannot be captured fails here for every format alike.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving.contract import DType, Signature, TensorSpec
from tasks.export.conversion import ExportFailure
from tasks.export.sizes import sample_inputs, tracing_sizes
from tasks.export.torch_diagnosis import frozen_dimension, place_of_node, why_not_captured
from tasks.export.torch_recurrent import recurrent_layers_whole

if TYPE_CHECKING:
    import torch

#: torch.onnx's recommended operator set; the first one with GELU as an operator. Which operators of a captured program
#: are taken apart depends on it, so whoever pairs a program with its ONNX file asks for the same.
ONNX_OPSET = 20
#: Operator libraries that `import torch` alone brings; the serving image imports nothing else.
_IN_TORCH = {"aten", "prims", "quantized"}


def capture(
    native: torch.nn.Module | torch.export.ExportedProgram, signature: Signature
) -> torch.export.ExportedProgram:
    """Capture the model as a graph.

    Raises:
        ExportFailure: control flow depends on data, a dimension was frozen, or the outputs are not the signature's.
    """
    import torch

    if any(tensor.dtype is DType.STRING for tensor in (*signature.inputs, *signature.outputs)):
        raise ExportFailure(
            "EXPORT_UNSUPPORTED_DTYPE",
            "the signature has string tensors, which PyTorch does not know",
            "encode strings as integers before the model, and declare them so",
            other_formats=False,
        )
    if isinstance(native, torch.export.ExportedProgram):
        program = native
        if not _is_plain(program, signature):
            program = _export(_plain(program.module(), signature), signature)
    else:
        program = _export(native, signature)
        if not _is_plain(program, signature):
            program = _export(_plain(native, signature), signature)
    _check_inputs(program, signature)
    _check_outputs(program, signature)
    return program


def _export(module: torch.nn.Module, signature: Signature) -> torch.export.ExportedProgram:
    import torch

    sizes = tracing_sizes(signature)
    dims = {name: torch.export.Dim(name, min=span.min, max=span.max) for name, span in signature.dynamic.items()}
    args = tuple(torch.from_numpy(array) for array in sample_inputs(signature, sizes).values())
    open_axes = [
        {axis: dims[size] for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in signature.inputs
    ]
    try:
        shapes = dict(inspect.signature(module.forward).bind(*open_axes).arguments)  # as forward takes them, *args too
    except TypeError as error:
        raise _not_the_signature(f"forward cannot take the declared inputs: {error}") from error

    def attempt() -> torch.export.ExportedProgram:
        with torch.no_grad(), recurrent_layers_whole():
            return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)

    try:
        return attempt()
    except ExportFailure:
        raise
    except Exception as error:  # whatever the model's own code raises comes out here
        raise why_not_captured(error, module, attempt) from error


def _is_plain(program: torch.export.ExportedProgram, signature: Signature) -> bool:
    """Whether its outputs are a tensor, a tuple or list, or a dict in the signature's order."""
    out = program.call_spec.out_spec
    if out is None or out.is_leaf() or out.type in (tuple, list):
        return True
    return out.type is dict and list(out.context) == [tensor.name for tensor in signature.outputs]


def _plain(module: torch.nn.Module, signature: Signature) -> torch.nn.Module:
    """The same module with its outputs as a tuple. A subclass, so that no module's path changes."""
    kind, names = type(module), [tensor.name for tensor in signature.outputs]

    @functools.wraps(kind.forward)
    def forward(self: Any, *inputs: Any) -> tuple[Any, ...]:
        answer = kind.forward(self, *inputs)
        if not isinstance(answer, Mapping):
            return tuple(answer)
        if set(answer) != set(names):
            raise _not_the_signature(f"it gives outputs {', '.join(answer)}, the spec declares {', '.join(names)}")
        return tuple(answer[name] for name in names)

    twin = copy.copy(module)
    twin.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return twin


def refuse_foreign_operators(program: torch.export.ExportedProgram) -> None:
    """Refuse operators of other libraries, where PyTorch itself will serve the program.

    Raises:
        ExportFailure: one is in it.
    """
    import torch

    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in _IN_TORCH:
            place, operator = place_of_node(node), str(node.target).removesuffix(".default")
            raise ExportFailure(
                "EXPORT_UNSUPPORTED_OPERATOR",
                f"{place} uses the custom operator {operator}, which the PyTorch in the serving image does not have",
                f"write {place.module or 'it'} with PyTorch's own operators",
                evidence={"operator": operator, **place.evidence},
            )


# --- checks on what was captured ----------------------------------------------------------------------------------


def _check_inputs(program: torch.export.ExportedProgram, signature: Signature) -> None:
    """Every named dimension must still be a symbol, and the same one everywhere, over its whole range."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    given = [values[str(name)] for name in program.graph_signature.user_inputs]
    if len(given) != len(signature.inputs):
        raise _not_the_signature(f"it takes {len(given)} inputs, the spec declares {len(signature.inputs)}")
    for tensor, value in zip(signature.inputs, given, strict=True):
        _check_tensor("input", tensor, value)
        for axis, size in enumerate(tensor.shape):
            if not isinstance(size, str):
                continue
            symbol = value.shape[axis]
            fixed = symbol if isinstance(symbol, int) else symbol.node.maybe_as_int()
            if fixed is not None:
                raise frozen_dimension(size, fixed, f"input {tensor.name!r} of the exported program")
            span, held = signature.dynamic[size], program.range_constraints.get(symbol.node.expr)
            if held is not None and (held.lower > span.min or held.upper < span.max):
                raise ExportFailure(
                    "EXPORT_DIMENSION_RESTRICTED",
                    f"the exported program takes {size} from {held.lower} to {held.upper}, "
                    f"the spec declares {span.min} to {span.max}",
                    "export the program again over the whole range, or narrow it in the spec",
                    evidence={"dimension": size},
                    other_formats=False,
                )


def _check_outputs(program: torch.export.ExportedProgram, signature: Signature) -> None:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = [values.get(str(name)) for name in program.graph_signature.user_outputs]
    if len(given) != len(signature.outputs):
        names = ", ".join(tensor.name for tensor in signature.outputs)
        raise _not_the_signature(f"it gives {len(given)} outputs, the spec declares {len(signature.outputs)}: {names}")
    for tensor, value in zip(signature.outputs, given, strict=True):
        if value is not None:
            _check_tensor("output", tensor, value)


def _check_tensor(what: str, tensor: TensorSpec, value: Any) -> None:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype != tensor.dtype.value:
        raise _not_the_signature(f"{what} {tensor.name!r} is {dtype}, the spec declares {tensor.dtype.value}")
    if len(value.shape) != len(tensor.shape):
        raise _not_the_signature(
            f"{what} {tensor.name!r} has {len(value.shape)} dimensions, the spec declares {list(tensor.shape)}"
        )
    for axis, (declared, found) in enumerate(zip(tensor.shape, value.shape, strict=True)):
        size = found if isinstance(found, int) else found.node.maybe_as_int()
        if size is None or size == declared:
            continue
        if isinstance(declared, str):
            raise frozen_dimension(declared, size, f"{what} {tensor.name!r}")
        raise _not_the_signature(
            f"{what} {tensor.name!r} has {size} in dimension {axis}, the spec declares {list(tensor.shape)}"
        )


def _not_the_signature(difference: str) -> ExportFailure:
    return ExportFailure(
        "EXPORT_SIGNATURE_MISMATCH",
        f"the model does not have the signature that the spec declares: {difference}",
        "correct inputs and outputs in model.yaml, or the model",
        other_formats=False,
    )
