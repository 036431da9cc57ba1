"""What the ONNX formats of reduced precision share: the full-precision file that they are made from, and its types.

The file is written by the exporter of the format `onnx`, so that it has the same bytes, is stored once, and parity can
see what the reduction itself did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.contract import Signature
from tasks.export.conversion import Conversion, Source, base_folder
from tasks.export.formats import exporter_of

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class FullPrecision:
    """The full-precision file and what its exporter said of it."""

    path: Path
    conversion: Conversion


def full_precision(source: Source, signature: Signature, folder: Path) -> FullPrecision:
    """Write the model as `onnx` beside `folder`.

    Raises:
        ExportFailure: it cannot be written as ONNX.
    """
    target = base_folder(folder)
    target.mkdir()
    conversion = exporter_of("onnx", source.framework)(source, signature, target)
    return FullPrecision(target / conversion.root, conversion)


def floats(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The float32 weights of a graph and of those inside its control flow, constants' values included."""
    import onnx

    from tasks.export.onnx_signature import graphs

    for part in graphs(graph):
        constants = (
            attribute.t for node in part.node for attribute in node.attribute if attribute.type == attribute.TENSOR
        )
        for tensor in (*part.initializer, *constants):
            if tensor.data_type == onnx.TensorProto.FLOAT:
                yield tensor
