"""Any model that gives ONNX → ONNX in 8-bit integers, through onnxruntime's quantizer. Byte-reproducible.

`MatMul`, `Gemm` and, statically, `Conv` are quantised where their weight is constant; everything else (embeddings,
normalisation, softmax, recurrent layers, products of two activations) stays in float. Static: QuantizeLinear and
DequantizeLinear around them (QDQ), ranges from rows of the evaluation data. Dynamic: the range of every input is taken
anew for each request; not for `Conv`, whose dynamic kernel is slower than the float one.

Activations are uint8 and weights int8 in seven bits, one scale per output channel: docs/adr/0007 says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.contract import Signature
from tasks.contracts import Owner
from tasks.export.conversion import Conversion, ExportFailure, Rows, Source
from tasks.export.onnx_base import full_precision
from tasks.export.onnx_file import EXTERNAL_OVER_BYTES, FILE, finish
from tasks.spec import Int8

if TYPE_CHECKING:
    import onnx

#: Operators that are quantised. onnxruntime's dynamic convolution (ConvInteger) takes up to ten times the float one's
#: time (docs/adr/0007).
_OPERATORS = {Int8.STATIC: ("Conv", "Gemm", "MatMul"), Int8.DYNAMIC: ("Gemm", "MatMul")}


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import onnx

    mode = source.options.int8
    base = full_precision(source, signature, folder)
    graph = onnx.load(base.path, load_external_data=False).graph
    if not any(quantisable(graph, _OPERATORS[mode])):
        raise _nothing(mode, any(quantisable(graph, _OPERATORS[Int8.STATIC])))
    path = folder / FILE
    if mode is Int8.STATIC:
        _static(base.path, path, source.calibration())
    else:
        _dynamic(base.path, path)
    _keep_module_names(path, graph)
    versions = finish(path, signature, rename=False)
    return Conversion(
        root=FILE,
        exporter=f"{base.conversion.exporter}, onnxruntime.quantization ({mode})",
        distributions=tuple(dict.fromkeys((*base.conversion.distributions, "onnx", "onnxruntime"))),
        opset=versions.opset,
        ir_version=versions.ir_version,
        precision="int8",
        base=base.conversion.root,
    )


def quantisable(graph: onnx.GraphProto, operators: tuple[str, ...]) -> Iterator[onnx.NodeProto]:
    """The nodes of these operators whose weight is a float32 constant."""
    import onnx

    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type in operators and node.domain in ("", "ai.onnx") and node.input[1] in weights:
            yield node


# --- onnxruntime's quantizer --------------------------------------------------------------------------------------


def _static(base: Path, path: Path, rows: Rows) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = _named(base)
    quantise = {node.name for node in quantisable(model.graph, _OPERATORS[Int8.STATIC])}
    quantize_static(
        model,
        path,
        _reader(rows),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_OPERATORS[Int8.STATIC]),
        # MatMulConstBOnly does not keep its word for QDQ.
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in quantise],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=_is_large(base),
        # What a matrix product gives stays in float: logits are not rounded to 256 steps of their range. (Convolutions
        # without rounded outputs would not be computed in integers.)
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )


def _dynamic(base: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = _named(base)
    # The quantizer transposes the weight of a Gemm in place: once for every Gemm that shares it, and what is said of
    # its shape stays as it was.
    _unshare(model.graph)
    del model.graph.value_info[:]
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=list(_OPERATORS[Int8.DYNAMIC]),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=_is_large(base),
        extra_options={"MatMulConstBOnly": True},
    )


def _named(base: Path) -> onnx.ModelProto:
    """The model with a name of its own for every node: the quantizer tells them apart by it."""
    import onnx

    model, taken = onnx.load(base), set[str]()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}/{index}"
        taken.add(node.name)
    return model


def _unshare(graph: onnx.GraphProto) -> None:
    """A weight of its own for every Gemm."""
    weights, taken = {tensor.name: tensor for tensor in graph.initializer}, set[str]()
    for node in graph.node:
        weight = node.input[1] if node.op_type == "Gemm" else ""
        if weight in taken:
            copy = graph.initializer.add()
            copy.CopyFrom(weights[weight])
            copy.name = node.input[1] = f"{weight}/{node.name}"
        elif weight in weights:
            taken.add(weight)


def _reader(rows: Rows) -> Any:
    """The rows as onnxruntime asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._left = iter(rows)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else dict(batch)

    return Reader()


def _is_large(base: Path) -> bool:
    return sum(file.stat().st_size for file in base.parent.iterdir()) > EXTERNAL_OVER_BYTES


def _keep_module_names(path: Path, original: onnx.GraphProto) -> None:
    """What the original says of the node that gives a value (its module), where that node's successor says nothing."""
    import onnx

    said = {name: node for node in original.node for name in node.output if node.metadata_props}
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        before = next((said[name] for name in node.output if name in said), None)
        if before is not None and not node.metadata_props:
            node.metadata_props.extend(before.metadata_props)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _nothing(mode: Int8, statically: bool) -> ExportFailure:
    advice = "serve it as onnx"
    if statically:
        advice = "write `export: {int8: static}` in model.yaml, which quantises convolutions"
    return ExportFailure(
        "EXPORT_NOTHING_TO_QUANTIZE",
        f"the model has no {' or '.join(_OPERATORS[mode])} with a constant float32 weight, which is what {mode} int8 "
        "quantises: it would be the onnx format under another name",
        advice,
        owner=Owner.MODEL,
        evidence={"int8": mode.value},
    )
