"""An array as a record holds it: exact to the last bit, in JSON (bytes as base64) and in MessagePack alike."""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.contract import DType

BINARY = "bytes"


class TensorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`dtype` is one of `serving.contract.DType`, or "bytes" for strings that are no text.

    Numbers lie in `data`, little-endian and row-major; text in `text` and binary strings in `binary`, in that order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes = b""
    text: list[str] = []
    binary: list[bytes] = []


def pack(array: NDArray[Any]) -> TensorRecord:
    """The record of an array of any dtype of `DType`; items of an object array are all `str`, or all `bytes`.

    Raises:
        TypeError: an item is neither.
    """
    if array.dtype != object:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return TensorRecord(array.dtype.name, array.shape, data=little.tobytes())
    items = array.reshape(-1).tolist()
    if all(isinstance(item, str) for item in items):
        return TensorRecord(DType.STRING.value, array.shape, text=items)
    if all(isinstance(item, bytes) for item in items):
        return TensorRecord(BINARY, array.shape, binary=items)
    raise TypeError("an array of objects holds something else than text alone or bytes alone")


def unpack(record: TensorRecord) -> NDArray[Any]:
    """The array of a record, writable.

    Raises:
        ValueError: its parts do not fit together.
    """
    if record.dtype in (DType.STRING, BINARY):
        items = record.text if record.dtype == DType.STRING else record.binary
        if len(items) != prod(record.shape):
            raise ValueError(f"a tensor of shape {list(record.shape)} has {len(items)} strings")
        array: NDArray[Any] = np.empty(len(items), dtype=object)
        array[:] = items
        return array.reshape(record.shape)
    stored = DType(record.dtype).numpy.newbyteorder("<")
    return np.frombuffer(record.data, stored).astype(DType(record.dtype).numpy).reshape(record.shape)
