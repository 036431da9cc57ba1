"""The signature's names, order and named dimensions in an ONNX graph, changed in memory; weights are not touched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serving.contract import Signature, TensorSpec
from tasks.export.conversion import ExportFailure

if TYPE_CHECKING:
    import onnx


# --- names --------------------------------------------------------------------------------------------------------


def take_names(model: onnx.ModelProto, signature: Signature, *, rename: bool) -> None:
    """Inputs and outputs in the signature's order and under its names.

    With `rename`, the file's are the signature's by position; else they already have its names.

    Raises:
        ExportFailure: there are more or fewer, or one is missing.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in stored]  # before IR 4 weights were inputs too
    for what, values, tensors in (("input", given, signature.inputs), ("output", graph.output, signature.outputs)):
        if len(values) != len(tensors):
            raise _mismatch(
                f"the file has {len(values)} {what}s ({', '.join(value.name for value in values)}), "
                f"the spec declares {len(tensors)} ({', '.join(tensor.name for tensor in tensors)})"
            )
        if not rename and (absent := [t.name for t in tensors if t.name not in {value.name for value in values}]):
            raise _mismatch(f"the file has no {what} {absent[0]!r}; it has {', '.join(value.name for value in values)}")
    if rename:
        names = {value.name: tensor.name for value, tensor in zip(given, signature.inputs, strict=True)}
        names |= _output_names(graph, names, signature)
        _rename(graph, names)
    for what, field, tensors in (("input", graph.input, signature.inputs), ("output", graph.output, signature.outputs)):
        by_name = {value.name: value for value in field}
        ordered = [by_name[tensor.name] for tensor in tensors]
        rest = [value for value in field if value.name in stored] if what == "input" else []
        copies = [type(value).FromString(value.SerializeToString()) for value in (*ordered, *rest)]
        del field[:]
        field.extend(copies)


def _output_names(graph: onnx.GraphProto, inputs: dict[str, str], signature: Signature) -> dict[str, str]:
    """New names of the outputs. An output that is an input or another output itself passes through an Identity."""
    import onnx

    names: dict[str, str] = {}
    for value, tensor in zip(graph.output, signature.outputs, strict=True):
        if value.name in inputs or value.name in names:
            passed = f"{value.name}/{tensor.name}"
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [passed], name=f"{tensor.name}/Identity"))
            value.name = passed
        names[value.name] = tensor.name
    return names


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values everywhere; what had one of the new names by chance steps aside."""
    taken = set(names.values()) - set(names)
    names = names | {name: f"{name}__inner" for name in taken if name in _values(graph)}
    for part in graphs(graph):
        for node in part.node:
            for field in (node.input, node.output):
                for index, name in enumerate(field):
                    if name in names:
                        field[index] = names[name]
        for values in (part.input, part.output, part.value_info, part.initializer):
            for value in values:
                value.name = names.get(value.name, value.name)


def _values(graph: onnx.GraphProto) -> set[str]:
    found = {name for part in graphs(graph) for node in part.node for name in (*node.input, *node.output)}
    return found | {tensor.name for part in graphs(graph) for tensor in part.initializer}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for part in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(part)


# --- dimensions ---------------------------------------------------------------------------------------------------


def take_dimensions(model: onnx.ModelProto, signature: Signature) -> None:
    """Named dimensions under the spec's names.

    Raises:
        ExportFailure: one of them has a single size, or dtypes and shapes are not the signature's.
    """
    inputs, outputs = ({value.name: value for value in field} for field in (model.graph.input, model.graph.output))
    pairs = [pair for tensor in signature.inputs for pair in _dims("input", tensor, inputs[tensor.name])]
    symbols = {dim.dim_param: declared for declared, dim in pairs if isinstance(declared, str) and _is_symbol(dim)}
    _rename_symbols(model.graph, symbols)
    for declared, dim in pairs:
        if isinstance(declared, str):
            dim.dim_param = declared
        else:
            dim.dim_value = declared
    for tensor in signature.outputs:
        for declared, dim in _dims("output", tensor, outputs[tensor.name]):
            if isinstance(declared, str):
                dim.dim_param = declared
            elif not dim.dim_param:
                dim.dim_value = declared


def _rename_symbols(graph: onnx.GraphProto, symbols: dict[str, str]) -> None:
    """Every size of every value, formulas such as `2*s0` included."""
    if not symbols:
        return
    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in symbols))
    for part in graphs(graph):
        for value in (*part.input, *part.output, *part.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = pattern.sub(lambda found: symbols[found[0]], dim.dim_param)


def _dims(what: str, tensor: TensorSpec, value: onnx.ValueInfoProto) -> Iterator[tuple[int | str, Any]]:
    """The declared size and the file's, dimension by dimension, after checking one against the other."""
    import onnx

    kind = value.type.tensor_type
    expected = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype.numpy)
    if kind.elem_type != expected:
        found = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise _mismatch(f"{what} {tensor.name!r} is {found} in the file, the spec declares {tensor.dtype.value}")
    if not kind.HasField("shape"):
        for _ in tensor.shape:
            kind.shape.dim.add()
    if len(kind.shape.dim) != len(tensor.shape):
        raise _mismatch(
            f"{what} {tensor.name!r} has {len(kind.shape.dim)} dimensions in the file, "
            f"the spec declares {list(tensor.shape)}"
        )
    for axis, (declared, dim) in enumerate(zip(tensor.shape, kind.shape.dim, strict=True)):
        fixed = _fixed(dim)
        if fixed is not None and isinstance(declared, str):
            raise ExportFailure(
                "EXPORT_DIMENSION_FROZEN",
                f"the dimension {declared} of {what} {tensor.name!r} is frozen at {fixed} in the exported file",
                f"keep {declared} open where the model makes {tensor.name!r}, or write {fixed} instead in model.yaml",
                evidence={"dimension": declared, "frozen_at": fixed, "tensor": tensor.name},
            )
        if fixed is not None and fixed != declared:
            raise _mismatch(
                f"{what} {tensor.name!r} has {fixed} in dimension {axis} in the file, "
                f"the spec declares {list(tensor.shape)}"
            )
        yield declared, dim


def _fixed(dim: Any) -> int | None:
    """The size, where the file has one; exporters also write numbers as names (`"5"`)."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return int(dim.dim_param) if dim.dim_param.isdecimal() else None


def _is_symbol(dim: Any) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", dim.dim_param or "") is not None


def _mismatch(difference: str) -> ExportFailure:
    return ExportFailure(
        "EXPORT_SIGNATURE_MISMATCH",
        f"the model does not have the signature that the spec declares: {difference}",
        "correct inputs and outputs in model.yaml, or the model",
        evidence={"difference": difference},
    )
