"""The messages of `inference.GRPCInferenceService`, and of gRPC's health check, as protobuf classes.

The tables below are the protocol's own (open_inference_grpc.proto): field → its number and type. Classes are made from
them at import, in a pool of their own: nothing is generated, so nothing has to be generated again, and a client library
in the same process (tritonclient) may bring the same names.

A type is a scalar of protobuf's, or a message of the same table; `repeated` and `map<string, …>` stand before it.
`oneof` groups nothing here but `InferParameter`, whose fields all exclude each other.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "inference"
_HEALTH_PACKAGE = "grpc.health.v1"

_PARAMETERS = "map InferParameter"
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string"),
        "version": (2, "string"),
        "extensions": (3, "repeated string"),
    },
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "TensorMetadata": {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "repeated int64")},
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated TensorMetadata"),
        "outputs": (5, "repeated TensorMetadata"),
        "properties": (6, "map string"),
    },
    "InferParameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "InferTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "repeated int64"),
        "parameters": (4, _PARAMETERS),
        "contents": (5, "InferTensorContents"),
    },
    "InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, _PARAMETERS)},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "inputs": (5, "repeated InferTensor"),
        "outputs": (6, "repeated InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "outputs": (5, "repeated InferTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
}
#: Messages whose fields are all of one `oneof`.
_CHOICES = {"InferParameter": "parameter_choice"}

#: gRPC's own health checking protocol (grpc/doc/health-checking.md), which Kubernetes' gRPC probes speak. `status` is
#: an enumeration there, which is a varint like this one: 1 is SERVING, 2 is NOT_SERVING.
_HEALTH_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},
}


def _file(package: str, messages: dict[str, dict[str, tuple[int, str]]]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        if name in _CHOICES:
            message.oneof_decl.add(name=_CHOICES[name])
        for field, (number, form) in fields.items():
            _add(message, field, number, form, package, choice=name in _CHOICES)
    return file


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, form: str, package: str, *, choice: bool
) -> None:
    label, _, kind = form.rpartition(" ")
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if label else _Field.LABEL_OPTIONAL
    if choice:
        field.oneof_index = 0
    if label == "map":  # protobuf's encoding of a map: repeated entries of key and value
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "string", package, choice=False)
        _add(entry, "value", 2, kind, package, choice=False)
        kind = f"{message.name}.{entry.name}"
    scalar = f"TYPE_{kind.upper()}"
    if scalar in _Field.Type.keys():  # noqa: SIM118  an enumeration of protobuf's, not a mapping
        field.type = _Field.Type.Value(scalar)
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{package}.{kind}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    found: dict[str, Any] = {}
    for package, messages in ((_PACKAGE, _MESSAGES), (_HEALTH_PACKAGE, _HEALTH_MESSAGES)):
        pool.Add(_file(package, messages))
        for name in messages:
            found[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
    return found


#: Name → message class. What a message holds is checked when it is read, as with JSON.
MESSAGES: dict[str, Any] = _classes()
