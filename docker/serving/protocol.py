"""The Open Inference Protocol v2 over HTTP: bodies → requests, answers → bodies.

Inference requests and responses are JSON ("Inference" in the protocol's REST section), or JSON followed by raw tensors
(the binary tensor data extension: `Inference-Header-Content-Length` is the length of the JSON part, and each input
says its `binary_data_size`). A response is binary for the outputs that ask for `binary_data`.

JSON has no NaN and no infinity. In answers they are the strings "NaN", "Infinity" and "-Infinity", as protobuf's JSON
mapping has them (and as NumPy and tritonclient read them); in requests, `null` is NaN where the input accepts it.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec
from serving.numbers import LONG_BYTES, Numbers, Outline, outline
from serving.parameters import Parameters
from serving.request import InferRequest, read_request
from serving.tensors import BadRequest, from_bytes, from_json, from_values, show, to_bytes

HEADER_LENGTH = "inference-header-content-length"
_JSON = "application/json"
_BINARY = "application/octet-stream"


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


def parse_request(body: bytes, header_length: str | None, raw: Signature) -> InferRequest:
    """Decode and validate a whole inference request against what clients are to send.

    Raises:
        BadRequest: with the sentence for the client.
    """
    envelope, binary = _split(body, header_length)
    if len(envelope) >= LONG_BYTES:
        with contextlib.suppress(BadRequest, ValueError):
            return _read(outline(bytes(envelope)), binary, raw)
    try:
        content = orjson.loads(envelope)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}") from error
    return _read(Outline(content, {}), binary, raw)


def infer_response(
    request: InferRequest, answers: Mapping[str, NDArray[Any]], signature: Signature, name: str, version: str
) -> Response:
    """The response with the outputs that were asked for."""
    declared = {spec.name: spec for spec in signature.outputs}
    outputs: list[dict[str, object]] = []
    raw: list[bytes] = []
    for output, binary in request.outputs.items():
        array = answers[output]
        parameters: dict[str, object] = {**request.output_parameters.get(output, {})}
        entry: dict[str, object] = {
            "name": output,
            "datatype": declared[output].dtype.protocol_name,
            "shape": list(array.shape),
        }
        if binary:
            raw.append(to_bytes(array))
            parameters["binary_data_size"] = len(raw[-1])
        else:
            entry["data"] = _json_values(array)
        if parameters:
            entry["parameters"] = parameters
        outputs.append(entry)
    content: dict[str, object] = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id is not None:
        content["id"] = request.id
    if request.parameters:
        content["parameters"] = request.parameters
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
    # Twenty digits are more than any body's length, and fewer than Python takes long to read.
    sound = header_length.isascii() and header_length.isdigit() and len(header_length) <= 20
    if not sound or int(header_length) > len(body):
        raise BadRequest(
            f"Inference-Header-Content-Length must be the length of the JSON part, at most {len(body)}, "
            f"found {reprlib.repr(header_length)}"
        )
    return view[: int(header_length)], view[int(header_length) :]


def _read(outline: Outline, binary: memoryview, raw: Signature) -> InferRequest:
    tensors = _Tensors(binary, outline.lists)
    request = read_request(outline.content, raw, tensors.decode)
    tensors.check_used_up()
    return request


class _Tensors:
    """Reads tensors from JSON and from the binary part, where they lie in the order of the request's inputs."""

    def __init__(self, binary: memoryview, lists: Mapping[str, Numbers]) -> None:
        self._binary = binary
        self._position = 0
        self._lists = dict(lists)

    def decode(
        self, spec: TensorSpec, shape: tuple[int, ...], entry: Mapping[str, Any], parameters: Parameters
    ) -> NDArray[Any]:
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in entry:
                raise BadRequest(f"input {spec.name!r} has neither data nor parameters.binary_data_size")
            data = entry["data"]
            if not isinstance(data, str) or (numbers := self._lists.pop(data, None)) is None:
                return from_json(spec, shape, data)
            values = numbers.read(lambda values: from_values(spec, (len(values),), values))
            if values.size != prod(shape):
                raise BadRequest(f"input {spec.name!r}: {values.size} values do not make the shape {list(shape)}")
            return values.reshape(shape)
        if type(size) is not int or size < 0:
            raise BadRequest(f"input {spec.name!r}: binary_data_size must be a number of bytes, found {show(size)}")
        if "data" in entry:
            raise BadRequest(f"input {spec.name!r} has both data and binary_data_size; one of them is enough")
        start, left = self._position, len(self._binary) - self._position
        if size > left:
            raise BadRequest(
                f"input {spec.name!r}: binary_data_size is {size}, but {left} bytes are left in the "
                "binary part (its start is told by the header Inference-Header-Content-Length)"
            )
        self._position += size
        return from_bytes(spec, shape, self._binary[start : self._position])

    def check_used_up(self) -> None:
        if self._lists:
            raise BadRequest("a list of numbers is where none belongs")
        if self._position != len(self._binary):
            raise BadRequest(f"the binary part has {len(self._binary)} bytes, the inputs account for {self._position}")


def _json_values(array: NDArray[Any]) -> object:
    if array.dtype == object:
        return [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f" and not (finite := np.isfinite(flat)).all():
        values: list[float | str] = flat.tolist()
        for index in np.flatnonzero(~finite).tolist():
            values[index] = "NaN" if np.isnan(flat[index]) else "Infinity" if flat[index] > 0 else "-Infinity"
        return values
    return flat
