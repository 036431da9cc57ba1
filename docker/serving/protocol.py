"""The Open Inference Protocol v2 over HTTP: requests → arrays, arrays → responses.

Inference requests and responses are JSON ("Inference" in the protocol's REST section), or JSON followed by raw tensors
(the binary tensor data extension: `Inference-Header-Content-Length` is the length of the JSON part, and each input
says its `binary_data_size`). A response is binary for the outputs that ask for `binary_data`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.contract import DType, EncodedImages, Signature, TensorSpec
from serving.tensors import BadRequest, check_dynamic, check_header, from_bytes, from_json, to_bytes

HEADER_LENGTH = "inference-header-content-length"
_JSON = "application/json"
_BINARY = "application/octet-stream"
#: Generous size of one JSON number with its separators, for the limit on requests; of one string, in bytes.
_JSON_NUMBER_BYTES = 32
_STRING_BYTES = 1 << 16
_ENVELOPE_BYTES = 1 << 16


class UnspeakableOutput(Exception):
    """The model's answer has no form in the response that was asked for."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that fits the contract. `outputs` says, in the order asked for, which are wanted as binary."""

    id: str | None
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back over HTTP."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", _JSON),)


def json_response(content: object, status: int = 200) -> Response:
    return Response(status, orjson.dumps(content))


def error_response(status: int, message: str) -> Response:
    """The protocol's error object."""
    return json_response({"error": message}, status)


def largest_request_bytes(raw: Signature) -> int | None:
    """How long a request may sensibly be; `None` when a dimension has no upper end."""
    total = _ENVELOPE_BYTES
    for spec in raw.inputs:
        count = 1
        for size in spec.shape:
            if isinstance(size, str) and size not in raw.dynamic:
                return None
            count *= raw.dynamic[size].max if isinstance(size, str) else size
        total += count * _element_bytes(spec)
    return total


def _element_bytes(spec: TensorSpec) -> int:
    if isinstance(spec, EncodedImages):
        return spec.max_bytes * 4 // 3 + _JSON_NUMBER_BYTES  # base64 writes three bytes as four letters
    return _STRING_BYTES if spec.dtype is DType.STRING else _JSON_NUMBER_BYTES


def parse_request(body: bytes, header_length: str | None, raw: Signature) -> InferRequest:
    """Decode and validate a whole inference request against what clients are to send.

    Raises:
        BadRequest: with the sentence for the client.
    """
    envelope, binary = _split(body, header_length)
    try:
        request = orjson.loads(envelope)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise BadRequest(f"the request must be a JSON object, found {reprlib.repr(request)}")
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadRequest(f"id must be a string, found {reprlib.repr(identity)}")
    entries = _entries(request, raw)
    shapes = {
        spec.name: check_header(spec, entries[spec.name].get("datatype"), entries[spec.name].get("shape"))
        for spec in raw.inputs
    }
    check_dynamic(raw, shapes)
    return InferRequest(identity, _tensors(entries, raw, shapes, binary), _wanted(request, raw))


def infer_response(
    request: InferRequest, answers: Mapping[str, NDArray[Any]], signature: Signature, name: str, version: str
) -> Response:
    """The response with the outputs that were asked for.

    Raises:
        UnspeakableOutput: NaN or infinity in an output that was asked for as JSON.
    """
    declared = {spec.name: spec for spec in signature.outputs}
    outputs: list[dict[str, object]] = []
    raw: list[bytes] = []
    for output, binary in request.outputs.items():
        array = answers[output]
        entry: dict[str, object] = {
            "name": output,
            "datatype": declared[output].dtype.protocol_name,
            "shape": list(array.shape),
        }
        if binary:
            raw.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = _json_values(output, array)
        outputs.append(entry)
    content: dict[str, object] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id is not None:
        content["id"] = request.id
    envelope = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return Response(200, envelope)
    headers = (("content-type", _BINARY), (HEADER_LENGTH, str(len(envelope))))
    return Response(200, b"".join((envelope, *raw)), headers)


def tensor_metadata(spec: TensorSpec) -> dict[str, object]:
    """One tensor of the model's metadata; dynamic dimensions are -1."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": spec.dtype.protocol_name, "shape": shape}


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    """The JSON part and the binary part."""
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    if not header_length.isascii() or not header_length.isdigit() or int(header_length) > len(body):
        raise BadRequest(
            f"Inference-Header-Content-Length must be the length of the JSON part, at most {len(body)}, "
            f"found {reprlib.repr(header_length)}"
        )
    return view[: int(header_length)], view[int(header_length) :]


def _entries(request: dict[str, Any], raw: Signature) -> dict[str, dict[str, Any]]:
    """The request's inputs by name, each of the signature's exactly once."""
    inputs = request.get("inputs")
    names = ", ".join(spec.name for spec in raw.inputs)
    if not isinstance(inputs, list) or not all(isinstance(entry, dict) for entry in inputs):
        raise BadRequest(f"inputs must be a list of tensors ({names}), found {reprlib.repr(inputs)}")
    entries: dict[str, dict[str, Any]] = {}
    expected = {spec.name for spec in raw.inputs}
    for entry in inputs:
        name = entry.get("name")
        if not isinstance(name, str) or name not in expected:
            raise BadRequest(f"there is no input {reprlib.repr(name)}; the inputs are {names}")
        if name in entries:
            raise BadRequest(f"input {name!r} is there twice")
        entries[name] = entry
    if missing := [spec.name for spec in raw.inputs if spec.name not in entries]:
        raise BadRequest(f"expected the inputs {names}; {', '.join(missing)} is missing")
    return entries


def _tensors(
    entries: dict[str, dict[str, Any]], raw: Signature, shapes: dict[str, tuple[int, ...]], binary: memoryview
) -> dict[str, NDArray[Any]]:
    """Every input's array. Binary tensors lie one after the other in the order of the request's inputs."""
    specs = {spec.name: spec for spec in raw.inputs}
    arrays: dict[str, NDArray[Any]] = {}
    position = 0
    for name, entry in entries.items():
        size = _parameters(entry, f"input {name!r}").get("binary_data_size")
        if size is None:
            if "data" not in entry:
                raise BadRequest(f"input {name!r} has neither data nor parameters.binary_data_size")
            arrays[name] = from_json(specs[name], shapes[name], entry["data"])
            continue
        if type(size) is not int or size < 0:
            raise BadRequest(f"input {name!r}: binary_data_size must be a number of bytes, found {reprlib.repr(size)}")
        if "data" in entry:
            raise BadRequest(f"input {name!r} has both data and binary_data_size; one of them is enough")
        if position + size > len(binary):
            raise BadRequest(
                f"input {name!r}: binary_data_size is {size}, but {len(binary) - position} bytes are left in the "
                "binary part (its start is told by the header Inference-Header-Content-Length)"
            )
        arrays[name] = from_bytes(specs[name], shapes[name], binary[position : position + size])
        position += size
    if position != len(binary):
        raise BadRequest(f"the binary part has {len(binary)} bytes, the inputs account for {position}")
    return arrays


def _wanted(request: dict[str, Any], raw: Signature) -> dict[str, bool]:
    """Which outputs to answer with, each with whether as binary."""
    parameters = _parameters(request, "the request")
    default = parameters.get("binary_data_output", False)
    if not isinstance(default, bool):
        raise BadRequest(f"binary_data_output must be true or false, found {reprlib.repr(default)}")
    names = [spec.name for spec in raw.outputs]
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(names, default)
    if not isinstance(outputs, list) or not all(isinstance(entry, dict) for entry in outputs):
        raise BadRequest(f"outputs must be a list of objects with a name, found {reprlib.repr(outputs)}")
    wanted: dict[str, bool] = {}
    for entry in outputs:
        name = entry.get("name")
        if name not in names:
            raise BadRequest(f"there is no output {reprlib.repr(name)}; the outputs are {', '.join(names)}")
        if name in wanted:
            raise BadRequest(f"output {name!r} is asked for twice")
        binary = _parameters(entry, f"output {name!r}").get("binary_data", default)
        if not isinstance(binary, bool):
            raise BadRequest(f"output {name!r}: binary_data must be true or false, found {reprlib.repr(binary)}")
        wanted[name] = binary
    return wanted


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{what}: parameters must be an object, found {reprlib.repr(parameters)}")
    return parameters


def _json_values(output: str, array: NDArray[Any]) -> object:
    if array.dtype == object:
        return [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnspeakableOutput(
            f"the model's output {output!r} holds NaN or infinity, which JSON does not have: ask for binary_data"
        )
    return np.ascontiguousarray(array).reshape(-1)
