"""The client's side of the Open Inference Protocol v2: arrays → request, response → arrays.

Written apart from the server's codec on purpose: what one side gets wrong, the other does not repeat. Requests and
responses are JSON, as long as that is what a client would use: tensors of many values go as raw bytes, and so does what
holds NaN or infinity, for which JSON has no numbers.
Specification: https://github.com/kserve/open-inference-protocol, "Inference" and "Binary Tensor Data Extension".
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec

#: What JSON has no numbers for, as protobuf's JSON mapping names it.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
#: Values of one tensor beyond which nobody sends JSON: half a megabyte of text, where raw bytes are a tenth.
_LARGE = 1 << 15


class NotTheProtocol(Exception):
    """A response is not what the protocol and the signature promise; the message is one clause about what is not."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request. `json_bytes` is how much of it is JSON, where raw tensors follow; None where all is."""

    content: bytes
    json_bytes: int | None = None


def encode_request(
    inputs: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    signature: Signature,
    identity: str | None = None,
) -> Body:
    """An inference request. `signature` is the raw one; `expected` decides in which form outputs are asked for, and
    `identity` is the request's own id, where it has one."""
    raw: list[bytes] = []
    tensors = []
    for tensor in signature.inputs:
        array = inputs[tensor.name]
        entry: dict[str, Any] = {
            "name": tensor.name,
            "shape": list(array.shape),
            "datatype": tensor.dtype.protocol_name,
        }
        if _is_large(array) or _is_unspeakable(array):
            raw.append(np.ascontiguousarray(array, tensor.dtype.numpy.newbyteorder("<")).tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = _flat(array, tensor)
        tensors.append(entry)
    content: dict[str, Any] = {"inputs": tensors} if identity is None else {"id": identity, "inputs": tensors}
    as_bytes = {name: _is_large(array) or _is_unspeakable(array) for name, array in expected.items()}
    if any(as_bytes.values()):
        content["outputs"] = [
            {"name": name, "parameters": {"binary_data": wanted}} for name, wanted in as_bytes.items()
        ]
    envelope = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Body(b"".join((envelope, *raw)), len(envelope)) if raw else Body(envelope)


def decode_response(body: bytes, signature: Signature, json_bytes: int | None = None) -> dict[str, NDArray[Any]]:
    """The outputs by name, in the signature's dtypes and in the shapes that the response states.

    `json_bytes` is how much of the body is JSON (`Inference-Header-Content-Length`); all of it unless given.

    Raises:
        NotTheProtocol: not JSON, an output missing, unknown or twice, another datatype, or data of another length.
    """
    end = len(body) if json_bytes is None else json_bytes
    try:
        content = orjson.loads(body[:end])
    except orjson.JSONDecodeError as error:
        raise NotTheProtocol(f"the body is not JSON ({error})") from error
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise NotTheProtocol("the body has no list of outputs")
    names = [output.get("name") for output in outputs]
    tensors = {tensor.name: tensor for tensor in signature.outputs}
    if sorted(map(str, names)) != sorted(tensors):
        raise NotTheProtocol(f"it has the outputs {names}, the contract {list(tensors)}")
    arrays, rest = {}, body[end:]
    for output in outputs:
        arrays[output["name"]], rest = _decode(output, tensors[output["name"]], rest)
    if rest:
        raise NotTheProtocol(f"{len(rest)} bytes belong to no output")
    return arrays


def _is_large(array: NDArray[Any]) -> bool:
    return array.size > _LARGE and array.dtype.kind in "biuf"


def _is_unspeakable(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def _flat(array: NDArray[Any], tensor: TensorSpec) -> Any:
    if tensor.dtype is DType.STRING:
        return [base64.b64encode(value).decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.ascontiguousarray(array, dtype=tensor.dtype.numpy).ravel()


def _decode(output: Mapping[str, Any], tensor: TensorSpec, raw: bytes) -> tuple[NDArray[Any], bytes]:
    """One output, and what is left of the binary part."""
    name, shape, data = tensor.name, output.get("shape"), output.get("data")
    if output.get("datatype") != tensor.dtype.protocol_name:
        raise NotTheProtocol(
            f"{name!r} has datatype {output.get('datatype')!r}, the contract {tensor.dtype.protocol_name!r}"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise NotTheProtocol(f"{name!r} has the shape {shape!r}")
    parameters = output.get("parameters")
    length = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if isinstance(length, int):
        flat, raw = _from_bytes(raw[:length], tensor), raw[length:]
    elif isinstance(data, list):
        flat = _from_json(data, tensor)
    else:
        raise NotTheProtocol(f"{name!r} has no list of data")
    if flat.size != math.prod(shape):
        raise NotTheProtocol(f"{name!r} has {flat.size} values for the shape {shape}")
    return flat.reshape(shape), raw


def _from_json(data: list[Any], tensor: TensorSpec) -> NDArray[Any]:
    """The values of a list, flat or nested. Nothing is coerced but a number without a fraction to a float."""
    kinds = "b" if tensor.dtype is DType.BOOL else "iuf" if tensor.dtype.is_float else "iu"
    try:
        if tensor.dtype.is_float and np.asarray(data).dtype.kind == "U":
            data = [_NOT_FINITE.get(value, value) for value in np.asarray(data, dtype=object).ravel().tolist()]
        if tensor.dtype is DType.STRING:
            return np.asarray(data, dtype=object).reshape(-1)
        if data and np.asarray(data).dtype.kind not in kinds:
            raise NotTheProtocol(f"{tensor.name!r} has values that are not {tensor.dtype.value}")
        # From Python's own numbers, so that none wraps round; float32 by way of float64, as JSON's readers do.
        return (
            np.asarray(data, dtype=np.float64 if tensor.dtype.is_float else tensor.dtype.numpy)
            .reshape(-1)
            .astype(tensor.dtype.numpy)
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise NotTheProtocol(f"{tensor.name!r} has values that are not {tensor.dtype.value} ({error})") from error


def _from_bytes(raw: bytes, tensor: TensorSpec) -> NDArray[Any]:
    if tensor.dtype is DType.STRING or len(raw) % tensor.dtype.numpy.itemsize:
        raise NotTheProtocol(f"{tensor.name!r} has bytes that are not {tensor.dtype.value}")
    return np.frombuffer(raw, tensor.dtype.numpy.newbyteorder("<")).astype(tensor.dtype.numpy)
