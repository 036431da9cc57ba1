"""PyTorch → ONNX, through torch.export and torch.onnx. Byte-reproducible.

Nodes keep the names of the modules they came from (`pkg.torch.onnx.name_scopes`), so that a difference found later can
be traced to a layer. torch.onnx's own `verify` is not used: it passes NaN and broadcasts shapes; parity decides.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from serving.contract import Signature
from tasks.export.conversion import Conversion, ExportFailure, Source, reason_of
from tasks.export.onnx_file import EXTERNAL_OVER_BYTES, FILE, finish
from tasks.export.onnx_limits import onnx_limits
from tasks.export.torch_capture import ONNX_OPSET, capture
from tasks.export.torch_diagnosis import node_in, place_of_node
from tasks.export.torch_recurrent import recurrent_layers_whole

if TYPE_CHECKING:
    import torch


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import torch

    program = capture(source.model.native, signature)
    path = folder / FILE
    try:
        with torch.no_grad(), recurrent_layers_whole():
            opset = min(ONNX_OPSET, onnx_limits().opset)
            converted = torch.onnx.export(program, (), dynamo=True, opset_version=opset, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise _not_converted(error) from error
    if converted is None:
        raise RuntimeError("torch.onnx.export answers a program where no file is named")
    converted.save(path, external_data=_weights_bytes(program) > EXTERNAL_OVER_BYTES)
    versions = finish(path, signature)
    return Conversion(
        root=FILE,
        exporter="torch.onnx",
        distributions=("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime"),
        opset=versions.opset,
        ir_version=versions.ir_version,
    )


def _weights_bytes(program: torch.export.ExportedProgram) -> int:
    return sum(tensor.nbytes for tensor in program.state_dict.values())


def _not_converted(error: torch.onnx.OnnxExporterError) -> ExportFailure:
    """Name the operator that ONNX does not have, and the module it is in."""
    node = node_in(error)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if node is None:
        return ExportFailure(
            "EXPORT_FAILED",
            f"torch.onnx could not convert the exported program: {reason_of(cause)}",
            "the full message is kept as evidence; choose another format meanwhile",
        )
    place = place_of_node(node)
    named = re.search(r"op='([\w.]+)'", str(cause))
    operator = named[1] if named else str(node.target)
    unknown = "No ONNX function found" in str(cause)
    reason = (
        f"uses {operator}, which has no counterpart in ONNX" if unknown else f"stopped torch.onnx: {reason_of(cause)}"
    )
    return ExportFailure(
        "EXPORT_UNSUPPORTED_OPERATOR" if unknown else "EXPORT_FAILED",
        f"{place} {reason}{f' (at {place.line})' if place.line else ''}",
        f"write {place.module or 'it'} with operators that ONNX has",
        evidence={"operator": operator, **place.evidence},
    )
