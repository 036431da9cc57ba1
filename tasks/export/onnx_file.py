"""An exporter's ONNX file → the one that is served: the signature's names, open dimensions, nothing of this machine.

Works on the graph alone and leaves the weights where they are, so that models beyond protobuf's 2 GB pass through.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.contract import Signature
from tasks.contracts import Owner
from tasks.export.conversion import ExportFailure, reason_of
from tasks.export.onnx_limits import OnnxLimits, onnx_limits
from tasks.export.onnx_signature import graphs, take_dimensions, take_names
from tasks.ingest.onnx_model import nodes

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
#: Weights of more bytes than this are written beside the graph: a protobuf message ends at 2 GiB, graph included.
EXTERNAL_OVER_BYTES = 1_500_000_000
#: Smaller tensors stay in the graph: onnxruntime reads shapes and axes while it builds the graph, and most are those.
_BESIDE_FROM_BYTES = 1024
#: Where tensors begin in that file, so that they can be mapped (ONNX, docs/ExternalData.md).
_PAGE_BYTES = 4096
#: What torch.onnx notes about a node; the paths in it are this machine's. Module names are kept.
_LOCAL_METADATA = {"pkg.torch.onnx.stack_trace"}


@dataclass(frozen=True, slots=True)
class OnnxVersions:
    """The default domain's operator set and the version of the file format."""

    opset: int
    ir_version: int


def finish(
    path: Path,
    signature: Signature,
    *,
    rename: bool = True,
    strip: bool = True,
    external_over: int = EXTERNAL_OVER_BYTES,
) -> OnnxVersions:
    """Bring the file at `path` to the signature, in place, and check it.

    Args:
        rename: inputs and outputs are the signature's by position, and take its names; else by name.
        strip: leave out doc strings and paths that the exporter noted.
        external_over: weights of more bytes go into a file of their own.

    Raises:
        ExportFailure: a dimension is frozen, the file does not have the signature, is not legal ONNX, or is too new
            for the onnxruntime that will serve.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    before = model.SerializeToString(deterministic=True)
    take_names(model, signature, rename=rename)
    take_dimensions(model, signature)
    if strip:
        _strip(model)
    model.ClearField("training_info")
    if model.ByteSize() > external_over:
        _write_weights_beside(model, path)
    elif (after := model.SerializeToString(deterministic=True)) != before:
        path.write_bytes(after)
    return check(path)


def put_weights_beside(path: Path) -> None:
    """Move the weights that are still in the graph at `path` into a file beside it, and check the result.

    What already lies beside the graph stays where it is. Tensors below 1 KiB stay in the graph.

    Raises:
        ExportFailure: the file is no legal ONNX afterwards.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    if _write_weights_beside(model, path):
        check(path)


def _write_weights_beside(model: onnx.ModelProto, path: Path) -> bool:
    """Write weights into a file of their own and the graph to `path`; whether there was anything to move.

    onnx.save_model does the same, but looks for the data file in the folder that the process happens to be in, and
    ignores where pages begin.
    """
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import set_external_data, uses_external_data

    data, number = path.parent / DATA_FILE, 1
    while data.exists():  # a source may have brought a file of that name
        data, number = path.parent / f"{DATA_FILE}.{number}", number + 1
    out = None
    for weight in (weight for graph in graphs(model.graph) for weight in graph.initializer):
        if uses_external_data(weight) or weight.data_type == TensorProto.STRING:
            continue
        if not weight.HasField("raw_data"):  # some converters write lists of numbers instead
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight), weight.name))
        if (size := len(weight.raw_data)) < _BESIDE_FROM_BYTES:
            continue
        out = out or data.open("wb")
        out.write(bytes(-out.tell() % _PAGE_BYTES))
        set_external_data(weight, data.name, out.tell(), size)
        out.write(weight.raw_data)
        weight.ClearField("raw_data")
    if out is None:
        return False
    out.close()
    path.write_bytes(model.SerializeToString(deterministic=True))
    return True


def check(path: Path) -> OnnxVersions:
    """Legal ONNX with shapes that hold together, and nothing that the onnxruntime that will serve does not read.

    Raises:
        ExportFailure: it is not.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailure(
            "EXPORT_INVALID_ONNX",
            f"the ONNX checker refuses the exported file: {reason_of(error)}",
            "the full message is kept as evidence; choose another format meanwhile",
            owner=Owner.PLATFORM,
        ) from error
    model = onnx.load(path, load_external_data=False)
    _check_versions(model, onnx_limits())
    _check_domains(model, onnx_limits())
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    return OnnxVersions(opset, model.ir_version)


def _check_versions(model: onnx.ModelProto, limits: OnnxLimits) -> None:
    found = [("IR version", model.ir_version, limits.ir_version)]
    for entry in model.opset_import:
        newest = limits.opset_of(entry.domain)
        if newest is not None:
            found.append((f"opset {entry.domain}".rstrip(), entry.version, newest))
    for what, version, limit in found:
        if version > limit:
            raise ExportFailure(
                "EXPORT_OPSET_TOO_NEW",
                f"the file has {what} {version}, but onnxruntime {limits.version}, which serves it, reads up to "
                f"{limit}",
                f"export the model with {what} {limit} or older",
                evidence={"found": version, "limit": limit},
            )


def _check_domains(model: onnx.ModelProto, limits: OnnxLimits) -> None:
    """Operators of a domain that onnxruntime does not have need functions in the file that say what they are."""
    own = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in nodes(model)} - own
    foreign = sorted(f"{domain}.{name}" for domain, name in used if limits.opset_of(domain) is None)
    if foreign:
        raise ExportFailure(
            "EXPORT_UNKNOWN_DOMAIN",
            f"the file uses {', '.join(foreign)}, of a domain that onnxruntime {limits.version}, which serves it, "
            "does not have",
            "export the model with standard operators, or with functions in the file that define its own",
            evidence={"operators": ", ".join(foreign)},
        )


# --- traces of this machine ---------------------------------------------------------------------------------------


def _strip(model: onnx.ModelProto) -> None:
    """Leave out doc strings and what names files of this machine."""
    model.ClearField("doc_string")
    for part in [*graphs(model.graph), *model.functions]:
        part.ClearField("doc_string")
        for item in (*part.node, *part.value_info, *getattr(part, "initializer", ())):
            item.ClearField("doc_string")
            kept = [entry for entry in item.metadata_props if entry.key not in _LOCAL_METADATA]
            if len(kept) != len(item.metadata_props):
                copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
                del item.metadata_props[:]
                item.metadata_props.extend(copies)
