"""ONNX models, run by onnxruntime on the CPU; inputs and outputs carry the spec's names.

An ONNX file may keep its tensors in files beside it: those are fetched with it, and none elsewhere. Operators of
domains that onnxruntime does not bring would need a library of their own, and are refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.contracts import Artifact
from tasks.errors import SourceError, UnsafeSource
from tasks.ingest import signatures
from tasks.ingest.signatures import Found
from tasks.spec import ModelSpec

#: Domains whose operators onnxruntime brings along.
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

#: Operators of those domains that load another file.
_LOADING = frozenset({"EPContext"})


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The file, and a session that answers for it."""

    native: Path
    session: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [tensor.name for tensor in self.signature.outputs]
        feed = {tensor.name: inputs[tensor.name] for tensor in self.signature.inputs}
        answers = self.session.run(names, feed)
        return {name: np.asarray(answer) for name, answer in zip(names, answers, strict=True)}


def external_files(path: Path) -> tuple[str, ...]:
    """Relative paths of the files beside the model that hold its tensors, sorted.

    Raises:
        UnsafeSource: one of them lies outside the model's folder.
        SourceError: the model cannot be read.
    """
    names: set[str] = set()
    for tensor in _tensors(_read(path)):
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            place = PurePosixPath(entry.value)
            if place.is_absolute() or ".." in place.parts or "\\" in entry.value or not place.parts:
                raise UnsafeSource(
                    f"{path.name}: the tensor {tensor.name!r} lies in {entry.value!r}, outside the model's folder; "
                    "save the model with its external data beside it"
                )
            names.add(place.as_posix())
    return tuple(sorted(names))


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse models that reach outside their folder, need libraries of their own, or do not fit the signature."""
    _check(path, spec.signature)


def load(path: Path, artifact: Artifact, work: Path) -> OnnxModel:
    """Open a session on one thread, so that answers are the same every time.

    Raises:
        UnsafeSource: the model reaches outside its folder.
        SourceError: onnxruntime cannot run it, or it does not fit the signature.
    """
    import onnxruntime

    _check(path, artifact.signature)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"onnxruntime {onnxruntime.__version__} cannot run {path.name}: {reason}") from error
    return OnnxModel(path, session, artifact.signature)


def _read(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        # as protobuf whatever its name ends in: onnx takes .json or .onnxtxt for text, which onnxruntime does not read
        model = onnx.load(path, "protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise SourceError(f"{path.name} is no ONNX model, or was cut short ({error}); copy or save it again") from error
    if not model.graph.node and not model.graph.output:
        raise SourceError(f"{path.name} is no ONNX model: there is no graph in it; copy or save it again")
    return model


def refuse_code(path: Path) -> None:
    """Refuse models that reach outside their folder or need libraries of their own, whatever their signature is.

    Raises:
        UnsafeSource: it reads other files than those beside it.
        SourceError: it cannot be read, files beside it are missing or too short, or onnxruntime lacks its operators.
    """
    model = _read(path)
    for name in external_files(path):
        if not (path.parent / name).is_file():
            raise SourceError(f"{path.name}: its tensors lie in {name}, which is not there; copy it beside the model")
    _check_external_data(path, model)
    own = {(function.domain, function.name) for function in model.functions}
    foreign, loading = set(), set()
    for node in nodes(model):
        if (node.domain, node.op_type) not in own and node.domain not in DOMAINS:
            foreign.add(f"{node.domain}.{node.op_type}")
        elif node.op_type in _LOADING:
            loading.add(node.op_type)
    if loading:
        raise UnsafeSource(f"{path.name}: {', '.join(loading)} loads another file; save the model without it")
    if foreign:
        raise SourceError(
            f"{path.name} has operators that onnxruntime does not bring: {', '.join(sorted(foreign))}; export the "
            "model with standard operators only"
        )


def _check(path: Path, signature: Signature) -> None:
    refuse_code(path)
    model = _read(path)
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    signatures.check("input", signature.inputs, [_described(value) for value in inputs], by_name=True)
    signatures.check("output", signature.outputs, [_described(value) for value in model.graph.output], by_name=True)


def _check_external_data(path: Path, model: Any) -> None:
    """Each file is as long as its tensors need, and the one that was written, where the model says which that was.

    The key `checksum` is a SHA-1 of the whole file (ONNX, docs/ExternalData.md); few exporters write it.
    """
    checked: set[str] = set()
    for tensor in _tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" not in entries:
            continue
        file = path.parent / entries["location"]
        there = file.stat().st_size
        end = int(entries.get("offset", 0)) + int(entries.get("length", _size_bytes(tensor)))
        if end > there:
            raise SourceError(
                f"{path.name}: the tensor {tensor.name!r} ends at byte {end} of {entries['location']}, which has only "
                f"{there}; copy it again"
            )
        if "checksum" in entries and entries["location"] not in checked:
            checked.add(entries["location"])
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha1").hexdigest()
            if found != entries["checksum"].lower():
                raise SourceError(
                    f"{path.name}: {entries['location']} is not the file that the model was saved with: expected SHA-1 "
                    f"{entries['checksum']}, found {found}; copy it again"
                )


def _size_bytes(tensor: Any) -> int:
    """What a tensor of these dimensions takes: a model need not say how much of the file is its own."""
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    halves = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
    values = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type in halves:
        return (values + 1) // 2
    return values * tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside its nodes (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        yield from _inner_graphs(node)


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _graphs(attribute.g)
        for graph in attribute.graphs:
            yield from _graphs(graph)


def nodes(model: Any) -> Iterator[Any]:
    """Every node of the model: of its graph, its subgraphs and its functions."""
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for graph in _inner_graphs(node):
                yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor stored in the graph, its subgraphs, and the attributes of all nodes, those of functions too."""
    for inner in _graphs(model.graph):
        yield from inner.initializer
        for sparse in inner.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _described(value: Any) -> Found:
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return Found(value.name, value.type.WhichOneof("value") or "unknown", None)
    if kind.elem_type == TensorProto.STRING:
        dtype = "string"
    else:
        dtype = str(tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else "unknown"
    if not kind.HasField("shape"):
        return Found(value.name, dtype, None)
    return Found(
        value.name, dtype, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    )
