"""What an exported file says of itself: names, dtypes and sizes of its inputs and outputs, without running it.

In: a runtime and the file or folder that it would load. Out: a `Structure`. Runs in the worker, because it reads the
file under test. Runtimes name their reader in `_READERS`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tasks.contracts import Contract


class Port(Contract):
    """One input or output. `sizes` has None for a size that is not fixed; None as a whole where nothing is said."""

    name: str | None
    sizes: tuple[int | None, ...] | None = None


class Structure(Contract):
    """Inputs and outputs in the file's own order; names are None where the format has none (torch.export)."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    ordered: bool = True


def structure_of(runtime: str, path: Path) -> Structure | None:
    """What the file says, or None where it says nothing that can be read: then running it has to tell."""
    from google.protobuf.message import DecodeError

    reader = _READERS.get(runtime)
    try:
        return None if reader is None else reader(path)
    except (OSError, ValueError, LookupError, StopIteration, zipfile.BadZipFile, DecodeError):
        return None


def _onnx(path: Path) -> Structure:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}

    def port(value: Any) -> Port:
        kind = value.type.tensor_type
        sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
        return Port(name=value.name, sizes=sizes if kind.HasField("shape") else None)

    return Structure(
        inputs=tuple(port(value) for value in graph.input if value.name not in weights),
        outputs=tuple(port(value) for value in graph.output),
    )


def _savedmodel(path: Path) -> Structure:
    message = _saved_model_message()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    graphs = [graph for graph in message.meta_graphs if "serving_default" in graph.signature_def]
    signature = graphs[0].signature_def["serving_default"]

    def ports(tensors: Any) -> tuple[Port, ...]:
        return tuple(
            Port(
                name=name,
                sizes=None
                if tensors[name].tensor_shape.unknown_rank
                else tuple(None if size.size < 0 else size.size for size in tensors[name].tensor_shape.dim),
            )
            for name in sorted(tensors)
        )

    return Structure(inputs=ports(signature.inputs), outputs=ports(signature.outputs), ordered=False)


def _torch_export(path: Path) -> Structure:
    with zipfile.ZipFile(path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        signature = json.loads(archive.read(entry))["graph_module"]["signature"]

    def count(specs: Iterable[dict[str, Any]], kind: str) -> tuple[Port, ...]:
        return tuple(Port(name=None) for spec in specs if kind in spec)

    return Structure(
        inputs=count(signature["input_specs"], "user_input"), outputs=count(signature["output_specs"], "user_output")
    )


def _saved_model_message() -> Any:
    """An empty `SavedModel` message with the fields that are read here: importing TensorFlow for it takes seconds.

    Field numbers are those of tensorflow/core/protobuf/{saved_model,meta_graph}.proto and
    tensorflow/core/framework/tensor_shape.proto; fields that are not declared are skipped.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    repeated, single = 3, 1
    message, integer, boolean, text = 11, 3, 8, 9
    file = descriptor_pb2.FileDescriptorProto(name="slipway/saved_model.proto", package="slipway", syntax="proto3")

    def add(name: str, *fields: tuple[str, int, int, int, str]) -> None:
        kind = file.message_type.add(name=name)
        for field, number, label, type_number, type_name in fields:
            added = kind.field.add(name=field, number=number, label=label, type=type_number)
            if type_name:
                added.type_name = f".slipway.{type_name}"

    add("Dim", ("size", 1, single, integer, ""))
    add("Shape", ("dim", 2, repeated, message, "Dim"), ("unknown_rank", 3, single, boolean, ""))
    add("TensorInfo", ("name", 1, single, text, ""), ("tensor_shape", 3, single, message, "Shape"))
    add(
        "SignatureDef",
        ("inputs", 1, repeated, message, "SignatureDef.InputsEntry"),
        ("outputs", 2, repeated, message, "SignatureDef.OutputsEntry"),
    )
    add("MetaGraph", ("signature_def", 5, repeated, message, "MetaGraph.SignatureDefEntry"))
    add("SavedModel", ("meta_graphs", 2, repeated, message, "MetaGraph"))
    entries = (
        ("SignatureDef", "InputsEntry", "TensorInfo"),
        ("SignatureDef", "OutputsEntry", "TensorInfo"),
        ("MetaGraph", "SignatureDefEntry", "SignatureDef"),
    )
    for owner, name, value in entries:
        kind = next(item for item in file.message_type if item.name == owner).nested_type.add(name=name)
        kind.options.map_entry = True
        kind.field.add(name="key", number=1, label=single, type=text)
        kind.field.add(name="value", number=2, label=single, type=message, type_name=f".slipway.{value}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("slipway.SavedModel"))()


_READERS: dict[str, Callable[[Path], Structure]] = {
    "onnx": _onnx,
    "tensorflow": _savedmodel,
    "torch": _torch_export,
}
