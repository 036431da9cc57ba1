"""The client's side of the Open Inference Protocol v2 in JSON: arrays → request, response → arrays.

Written apart from the server's codec on purpose: what one side gets wrong, the other does not repeat.
Specification: https://github.com/kserve/open-inference-protocol, "Inference".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec


class NotTheProtocol(Exception):
    """A response is not what the protocol and the signature promise; the message is one clause about what is not."""


def encode_request(inputs: Mapping[str, NDArray[Any]], signature: Signature) -> bytes:
    """The body of an inference request. `signature` is the raw one, whose inputs are what clients send."""
    tensors = [
        {
            "name": tensor.name,
            "shape": list(inputs[tensor.name].shape),
            "datatype": tensor.dtype.protocol_name,
            "data": _flat(inputs[tensor.name], tensor),
        }
        for tensor in signature.inputs
    ]
    return orjson.dumps({"inputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_response(body: bytes, signature: Signature) -> dict[str, NDArray[Any]]:
    """The outputs by name, in the signature's dtypes and in the shapes that the response states.

    Raises:
        NotTheProtocol: not JSON, an output missing, unknown or twice, another datatype, or data of another length.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotTheProtocol(f"the body is not JSON ({error})") from error
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise NotTheProtocol("the body has no list of outputs")
    names = [output.get("name") for output in outputs]
    expected = [tensor.name for tensor in signature.outputs]
    if sorted(map(str, names)) != sorted(expected):
        raise NotTheProtocol(f"it has the outputs {names}, the contract {expected}")
    by_name = {output["name"]: output for output in outputs}
    return {tensor.name: _decode(by_name[tensor.name], tensor) for tensor in signature.outputs}


def _flat(array: NDArray[Any], tensor: TensorSpec) -> Any:
    if tensor.dtype is DType.STRING:
        return [str(value) for value in array.ravel()]
    flat = np.ascontiguousarray(array, dtype=tensor.dtype.numpy).ravel()
    # JSON has no NaN and no infinity; the server reads these words in their place.
    if tensor.dtype.is_float and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else _word(value) for value in flat.tolist()]
    return flat


def _word(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _decode(output: Mapping[str, Any], tensor: TensorSpec) -> NDArray[Any]:
    name, shape, data = tensor.name, output.get("shape"), output.get("data")
    if output.get("datatype") != tensor.dtype.protocol_name:
        raise NotTheProtocol(
            f"{name!r} has datatype {output.get('datatype')!r}, the contract {tensor.dtype.protocol_name!r}"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise NotTheProtocol(f"{name!r} has the shape {shape!r}")
    if not isinstance(data, list):
        raise NotTheProtocol(f"{name!r} has no list of data")
    flat = _values(data, tensor)
    if flat.ndim != 1:
        flat = flat.reshape(-1)  # nested data is allowed: "row-major order, flattened or nested"
    if flat.size != math.prod(shape):
        raise NotTheProtocol(f"{name!r} has {flat.size} values for the shape {shape}")
    return flat.reshape(shape)


def _values(data: list[Any], tensor: TensorSpec) -> NDArray[Any]:
    try:
        if tensor.dtype is DType.STRING:
            return np.asarray(data, dtype=object)
        if tensor.dtype.is_float:
            return np.asarray(data, dtype=np.float64).astype(tensor.dtype.numpy)
        if data and np.asarray(data).dtype.kind not in ("b" if tensor.dtype is DType.BOOL else "iu"):
            raise NotTheProtocol(f"{tensor.name!r} has values that are not {tensor.dtype.value}")
        return np.asarray(data, dtype=tensor.dtype.numpy)  # from Python's integers, so that none wraps round
    except (ValueError, TypeError, OverflowError) as error:
        raise NotTheProtocol(f"{tensor.name!r} has values that are not {tensor.dtype.value} ({error})") from error
