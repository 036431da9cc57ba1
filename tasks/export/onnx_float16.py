"""Any model that gives ONNX → ONNX in float16, through onnxruntime's converter. Byte-reproducible.

Inputs and outputs keep the signature's dtypes. Weights take half the bytes; on CPUs onnxruntime computes most operators
in float32 between casts. The converter is the one that onnxruntime ships and keeps (onnxruntime.transformers.float16;
onnxconverter-common, which it came from, has other limits and no `Resize`): onnxruntime is what serves the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serving.contract import Signature
from serving.runners.onnx import FLOAT16_FILE
from tasks.contracts import Owner
from tasks.export.conversion import Conversion, ExportFailure, Source
from tasks.export.onnx_base import floats, full_precision
from tasks.export.onnx_file import finish
from tasks.export.onnx_signature import graphs

if TYPE_CHECKING:
    import onnx

#: What cannot be written in float16, and why.
_UNSUPPORTED = dict.fromkeys(("Loop", "Scan"), "the converter does not carry types through its body")
#: Stays in float32, between casts: onnxruntime has no float16 kernel for it.
_RECURRENT = ["LSTM", "GRU", "RNN"]


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    base = full_precision(source, signature, folder)
    original = onnx.load(base.path)
    _refuse_unsupported(original.graph)
    _refuse_overflow(original)
    model = convert_float_to_float16(
        str(base.path), keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_RECURRENT]
    )
    _tidy(model.graph)
    if not _has_float16(model):
        raise ExportFailure(
            "EXPORT_NOTHING_IN_FLOAT32",
            "nothing in the model is computed in float32, so that nothing becomes float16: it would be the onnx format "
            "under another name",
            "serve it as onnx",
            owner=Owner.MODEL,
        )
    OnnxModel(model).topological_sort(is_deterministic=True)  # the converter appends its casts at the end
    del model.graph.value_info[:]  # some of the types that the converter notes are still float32's
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    path = folder / FLOAT16_FILE
    onnx.save_model(model, path)
    versions = finish(path, signature, rename=False)
    return Conversion(
        root=FLOAT16_FILE,
        exporter=f"{base.conversion.exporter}, onnxruntime.transformers.float16",
        distributions=tuple(dict.fromkeys((*base.conversion.distributions, "onnx", "onnxruntime"))),
        opset=versions.opset,
        ir_version=versions.ir_version,
        precision="float16",
        base=base.conversion.root,
    )


def _refuse_unsupported(graph: onnx.GraphProto) -> None:
    node = next((node for part in graphs(graph) for node in part.node if node.op_type in _UNSUPPORTED), None)
    if node is None:
        return
    raise ExportFailure(
        "EXPORT_UNSUPPORTED_OPERATOR",
        f"the model has a {node.op_type} in ONNX, which cannot be in float16: {_UNSUPPORTED[node.op_type]}",
        "serve it as onnx or onnx-int8",
        owner=Owner.PLATFORM,
        evidence={"operator": node.op_type, "node": node.name},
    )


def _refuse_overflow(model: onnx.ModelProto) -> None:
    """The converter would write float16's largest number for a larger weight, without a word.

    float32's own largest number stands for infinity (masks are written so), for which the largest float16 does as well.
    """
    import numpy as np
    from onnx import numpy_helper

    limit, infinite = np.finfo(np.float16).max, np.finfo(np.float32).max
    for tensor in floats(model.graph):
        size = np.abs(numpy_helper.to_array(tensor))
        over = np.isfinite(size) & (size > limit) & (size < infinite)
        if over.any():
            largest = float(size[over].max())
            raise ExportFailure(
                "EXPORT_FLOAT16_OVERFLOW",
                f"the weight {tensor.name or 'of a constant'!r} holds {largest:.6g}, and float16 ends at {limit:.0f}",
                "scale the weight down in the model, or serve it as onnx or onnx-int8",
                owner=Owner.MODEL,
                evidence={"weight": tensor.name, "largest": largest, "values": int(over.sum())},
            )


def _tidy(graph: onnx.GraphProto) -> None:
    """The converter casts a value once for each operator that stays in float32, every time under the same name."""
    seen = set[str]()
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in seen:
            graph.node.remove(node)
        seen.update(node.output)


def _has_float16(model: onnx.ModelProto) -> bool:
    import onnx

    half = onnx.TensorProto.FLOAT16
    return any(tensor.data_type == half for part in graphs(model.graph) for tensor in part.initializer) or any(
        attribute.name == "to" and attribute.i == half
        for part in graphs(model.graph)
        for node in part.node
        for attribute in node.attribute
    )
