"""Tensors as requests carry them → arrays that fit the signature, or the sentence that says why they do not.

In: one input of a request (name, datatype, shape, and data as JSON values, as values of its type or as bytes). Out: a
NumPy array of exactly the declared dtype and an allowed shape, every value in the dtype's range and in the input's own,
every float finite (NaN only where the input accepts it). Nothing is coerced: an integer is no boolean, 1.5 is no
integer. (1.0 is one, and 1 is a float, because JSON does not tell them apart.)
"""

from __future__ import annotations

import base64
import binascii
import reprlib
import struct
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PROTOCOL_DTYPES, DimRange, DType, EncodedImages, NanPolicy, Signature, TensorSpec

#: What JSON calls the types of its values.
_JSON_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
#: What JSON calls the values that Python calls otherwise.
_JSON_WORDS = {None: "null", True: "true", False: "false"}
_ACCEPTED: dict[str, set[type]] = {"bool": {bool}, "int": {int, float}, "float": {int, float}, "string": {str}}
#: The one datatype of the protocol that NumPy, and so no signature, has.
_BF16 = "BF16"


class BadRequest(Exception):
    """The request does not fit the contract; the message says what was expected and what was found.

    Where the values of one input are the reason, `input` and `reason` name it for the metrics.
    """

    def __init__(self, message: str, input: str = "", reason: str = "") -> None:
        self.input, self.reason = input, reason
        super().__init__(message)


def check_header(spec: TensorSpec, datatype: object, shape: object) -> tuple[int, ...]:
    """The shape of an input whose datatype and shape fit its `spec`; ranges of dynamic dimensions come later.

    Raises:
        BadRequest
    """
    expected = spec.dtype.protocol_name
    if datatype != expected:
        known = "" if isinstance(datatype, str) and datatype in PROTOCOL_DTYPES else " (not a datatype of the protocol)"
        if datatype == _BF16:
            known = f" (which this server does not read: convert the values to {expected})"
        raise BadRequest(f"input {spec.name!r}: expected datatype {expected}, found {show(datatype)}{known}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        found = "a number of more than 64 bits" if _has_huge(shape) else show(shape)
        raise BadRequest(f"input {spec.name!r}: shape must be a list of sizes, found {found}")
    if len(shape) != len(spec.shape):
        expected = f"{len(spec.shape)} dimensions {_shape(spec)}"
        raise BadRequest(f"input {spec.name!r}: expected {expected}, found {len(shape)}: {show(shape)}")
    for axis, (declared, size) in enumerate(zip(spec.shape, shape, strict=True)):
        if isinstance(declared, int) and size != declared:
            raise BadRequest(
                f"input {spec.name!r}: dimension {axis} of {_shape(spec)} must be {declared}, found {size}"
            )
    return tuple(shape)


def check_dynamic(signature: Signature, shapes: dict[str, tuple[int, ...]]) -> None:
    """Every named dimension in its range, and the same wherever its name stands.

    Raises:
        BadRequest
    """
    seen: dict[str, tuple[int, str]] = {}
    for spec in signature.inputs:
        for declared, size in zip(spec.shape, shapes[spec.name], strict=True):
            if isinstance(declared, int):
                continue
            allowed = signature.dynamic.get(declared, DimRange(0, 2**31 - 1))
            if not allowed.min <= size <= allowed.max:
                raise BadRequest(
                    f"input {spec.name!r}: dimension {declared!r} must lie between {allowed.min} and {allowed.max}, "
                    f"found {size}"
                )
            before, elsewhere = seen.setdefault(declared, (size, spec.name))
            if before != size:
                raise BadRequest(
                    f"dimension {declared!r} is {before} in input {elsewhere!r} and {size} in input {spec.name!r}; "
                    "it must be the same"
                )


def from_json(spec: TensorSpec, shape: tuple[int, ...], data: object) -> NDArray[Any]:
    """The array of JSON values `data`, flat or nested as `shape` has it, in row-major order.

    Raises:
        BadRequest
    """
    return from_values(spec, shape, _flatten(spec, shape, data))


def from_values(spec: TensorSpec, shape: tuple[int, ...], flat: Sequence[Any]) -> NDArray[Any]:
    """The array of plain Python values in row-major order; `None` is NaN where the input accepts it.

    Raises:
        BadRequest
    """
    if len(flat) != prod(shape):
        raise BadRequest(f"input {spec.name!r}: shape {list(shape)} holds {prod(shape)} values, data has {len(flat)}")
    if isinstance(spec, EncodedImages):
        return _images(spec, flat).reshape(shape)
    kind = _kind(spec.dtype)
    types = set(map(type, flat))
    surplus = types - _ACCEPTED[kind]
    if kind == "float" and spec.nan is NanPolicy.ACCEPT:
        surplus -= {type(None)}
    if surplus:
        raise _wrong_value(spec, flat, next(index for index, value in enumerate(flat) if type(value) in surplus))
    if kind == "int" and float in types:
        inexact = (index for index, value in enumerate(flat) if type(value) is float and not _is_exact(value))
        if (wrong := next(inexact, None)) is not None:
            raise _wrong_value(spec, flat, wrong)
        flat = [int(value) for value in flat]
    if kind == "float":
        return _floats(spec, flat).reshape(shape)
    array: NDArray[Any] = _integers(spec, flat) if kind == "int" else np.array(flat, dtype=spec.dtype.numpy)
    if spec.range is not None:
        _check_range(spec, array)
    return array.reshape(shape)


def from_bytes(spec: TensorSpec, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    """The array of the binary tensor extension: little-endian, row-major; strings each after their length in 4 bytes.

    Raises:
        BadRequest
    """
    if spec.dtype is DType.STRING:
        return _strings(spec, prod(shape), data).reshape(shape)
    expected = prod(shape) * spec.dtype.numpy.itemsize
    if len(data) != expected:
        raise BadRequest(
            f"input {spec.name!r}: {spec.dtype.protocol_name} of shape {list(shape)} is {expected} bytes, "
            f"found {len(data)}"
        )
    if spec.dtype is DType.BOOL and any(np.frombuffer(data, np.uint8) > 1):
        raise BadRequest(f"input {spec.name!r}: BOOL values must be bytes 0 or 1")
    array = np.frombuffer(data, spec.dtype.numpy.newbyteorder("<")).astype(spec.dtype.numpy, copy=False)
    if spec.dtype.is_float:
        _check_finite(spec, array)
    if spec.range is not None:
        _check_range(spec, array)
    return array.reshape(shape)


def to_bytes(array: NDArray[Any]) -> bytes:
    """The binary tensor extension's form of an array; see `from_bytes`."""
    if array.dtype == object:
        encoded = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel())
        return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _flatten(spec: TensorSpec, shape: tuple[int, ...], data: object) -> Sequence[Any]:
    if not isinstance(data, list):
        raise BadRequest(f"input {spec.name!r}: data must be a list, found {show(data)}")
    flat: Sequence[Any] = data
    if flat and isinstance(flat[0], list) and len(shape) > 1:
        for depth, size in enumerate(shape):
            if depth:
                if not all(isinstance(part, list) for part in flat):
                    raise BadRequest(f"input {spec.name!r}: data must be nested {len(shape)} deep or flat throughout")
                if any(len(part) != size for part in flat):
                    raise BadRequest(f"input {spec.name!r}: nested data does not have the shape {list(shape)}")
                flat = list(chain.from_iterable(flat))
            elif len(flat) != size:
                raise BadRequest(f"input {spec.name!r}: data has {len(flat)} parts, the shape {list(shape)} has {size}")
    return flat


def _floats(spec: TensorSpec, flat: Sequence[Any]) -> NDArray[Any]:
    try:
        wide: NDArray[Any] = np.array(flat, dtype=np.float64)
    except OverflowError as error:
        raise BadRequest(f"input {spec.name!r}: a value is beyond {spec.dtype.protocol_name}'s range") from error
    with np.errstate(over="ignore"):
        array = wide.astype(spec.dtype.numpy)
    # What lies just beyond the dtype's range, rounding would take back into it.
    array[np.abs(wide) > np.finfo(spec.dtype.numpy).max] = np.inf
    _check_finite(spec, array, wide)
    if spec.range is not None:
        _check_range(spec, wide)
    return array


def _integers(spec: TensorSpec, flat: Sequence[int]) -> NDArray[Any]:
    limits = np.iinfo(spec.dtype.numpy)
    if flat and (min(flat) < limits.min or max(flat) > limits.max):
        index, value = next(item for item in enumerate(flat) if not limits.min <= item[1] <= limits.max)
        raise BadRequest(
            f"input {spec.name!r}: {spec.dtype.protocol_name} lies between {limits.min} and {limits.max}, "
            f"found {show(value)} at position {index}"
        )
    return np.array(flat, dtype=spec.dtype.numpy)


def _images(spec: EncodedImages, flat: Sequence[Any]) -> NDArray[Any]:
    """Files as they are, or the bytes behind base64, which is the one form that JSON has for them."""
    array = np.empty(len(flat), dtype=object)
    for index, text in enumerate(flat):
        if not isinstance(text, str | bytes):
            raise _wrong_value(spec, flat, index)
        try:
            array[index] = text if isinstance(text, bytes) else base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest(
                f"input {spec.name!r}: expected the image's bytes in base64, found {show(text)} at position {index}"
            ) from error
    return array


def _strings(spec: TensorSpec, count: int, data: memoryview) -> NDArray[Any]:
    """As many strings, each after its length in 4 bytes; images stay the bytes that they are."""
    items: list[str | bytes] = []
    position = 0
    while position < len(data):
        if len(items) == count or position + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + length > len(data):
            break
        if isinstance(spec, EncodedImages):
            items.append(bytes(data[position : position + length]))
            position += length
            continue
        try:
            items.append(str(data[position : position + length], "utf-8"))
        except UnicodeDecodeError as error:
            raise BadRequest(f"input {spec.name!r}: string {len(items)} is not UTF-8") from error
        position += length
    if len(items) != count or position != len(data):
        raise BadRequest(
            f"input {spec.name!r}: expected exactly {count} strings, each after its length in 4 bytes, "
            f"in the {len(data)} bytes"
        )
    array = np.empty(count, dtype=object)
    array[:] = items
    return array


def _check_finite(spec: TensorSpec, array: NDArray[Any], given: NDArray[Any] | None = None) -> None:
    finite = np.isfinite(array)
    if spec.nan is NanPolicy.ACCEPT:
        finite |= np.isnan(array)
    if finite.all():
        return
    index = int(np.argmin(finite.ravel()))
    value = float((array if given is None else given).ravel()[index])
    raise BadRequest(
        f"input {spec.name!r}: expected finite {spec.dtype.protocol_name} values, found {value!r} at position {index}",
        spec.name,
        "not_finite",
    )


def _is_exact(value: float) -> bool:
    """A whole number to which no other was rounded when it was read, as integers beyond 64 bits are."""
    return value % 1 == 0 and abs(value) < 2**53


def _wrong_value(spec: TensorSpec, flat: Sequence[Any], index: int) -> BadRequest:
    kind = _JSON_NAMES.get(type(flat[index]), "")  # null is both kind and value
    found = f"{kind} {show(flat[index])} at position {index}".lstrip()
    message = f"input {spec.name!r}: expected {spec.dtype.protocol_name} values, found {found}"
    return BadRequest(message, spec.name, "missing") if flat[index] is None else BadRequest(message)


def _check_range(spec: TensorSpec, array: NDArray[Any]) -> None:
    """Every value in the range that the input declares; NaN is `_check_finite`'s question."""
    least, greatest = spec.range or (None, None)
    outside = np.zeros(array.shape, np.bool_)
    if least is not None:
        outside |= array < least
    if greatest is not None:
        outside |= array > greatest
    if outside.any():
        index = int(np.argmax(outside.ravel()))
        raise BadRequest(
            f"input {spec.name!r}: values must {_span(least, greatest)}, found {array.ravel()[index].item()!r} "
            f"at position {index}",
            spec.name,
            "out_of_range",
        )


def _span(least: float | None, greatest: float | None) -> str:
    if least is None:
        return f"be at most {greatest}"
    return f"be at least {least}" if greatest is None else f"lie between {least} and {greatest}"


def _kind(dtype: DType) -> str:
    if dtype in (DType.BOOL, DType.STRING):
        return dtype.value
    return "float" if dtype.is_float else "int"


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(str(size) for size in spec.shape) + "]"


def show(value: object) -> str:
    """What was found, as a person reads it and as JSON has it, cut short however large it is."""
    return _JSON_WORDS[value] if value is None or isinstance(value, bool) else reprlib.repr(value)


def _has_huge(shape: object) -> bool:
    """Whether a size is a whole number that was rounded when it was read, as JSON's are beyond 64 bits."""
    return isinstance(shape, list) and any(type(size) is float and abs(size) >= 2**63 for size in shape)
