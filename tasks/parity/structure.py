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

#: tensorflow/core/framework/types.proto, without strings and what NumPy does not have.
_TENSORFLOW_DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
#: `ScalarType` of torch/_export/serde/schema.py.
_TORCH_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    28: "uint16",
    34: "uint32",
    35: "uint64",
}


class Port(Contract):
    """One input or output. `sizes` has None for a size that is not fixed; None as a whole where nothing is said.

    `dtype` is NumPy's name, None where the file says none or one that NumPy does not have.
    """

    name: str | None
    sizes: tuple[int | None, ...] | None = None
    dtype: str | None = None


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
    from onnx.helper import tensor_dtype_to_np_dtype

    graph = onnx.load(path, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}

    def port(value: Any) -> Port:
        kind = value.type.tensor_type
        sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
        named = kind.elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
        return Port(
            name=value.name,
            sizes=sizes if kind.HasField("shape") else None,
            dtype=str(tensor_dtype_to_np_dtype(kind.elem_type)) if named else None,
        )

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
                dtype=_TENSORFLOW_DTYPES.get(tensors[name].dtype),
            )
            for name in sorted(tensors)
        )

    return Structure(inputs=ports(signature.inputs), outputs=ports(signature.outputs), ordered=False)


def _torch_export(path: Path) -> Structure:
    with zipfile.ZipFile(path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        module = json.loads(archive.read(entry))["graph_module"]
    signature, tensors = module["signature"], module["graph"]["tensor_values"]

    def port(given: dict[str, Any]) -> Port:
        tensor = tensors.get(given.get("as_tensor", {}).get("name"))
        if tensor is None:
            return Port(name=None)
        sizes = tuple(size.get("as_int") for size in tensor["sizes"])
        return Port(name=None, sizes=sizes, dtype=_TORCH_DTYPES.get(tensor["dtype"]))

    def ports(specs: Iterable[dict[str, Any]], kind: str) -> tuple[Port, ...]:
        return tuple(port(spec[kind]["arg"]) for spec in specs if kind in spec)

    return Structure(
        inputs=ports(signature["input_specs"], "user_input"), outputs=ports(signature["output_specs"], "user_output")
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
    add(
        "TensorInfo",
        ("name", 1, single, text, ""),
        ("dtype", 2, single, integer, ""),
        ("tensor_shape", 3, single, message, "Shape"),
    )
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
