"""Rows of a file against what clients send: the checks of a request, with the row and the column named."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from serving.score.rows import Rows, Unscorable
from serving.tensors import BadRequest, check_dynamic, check_header, from_bytes, from_values, to_bytes


def fitting(rows: Rows, raw: Signature, first: int) -> Rows:
    """A batch whose first row is number `first` (from 1) as a request would bring it, whatever its number of rows.

    Raises:
        Unscorable: with the row and column of the first value that could not.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for spec in raw.inputs:
            array = rows[spec.name]
            if array.dtype != spec.dtype.numpy:
                raise BadRequest(
                    f"column {spec.name!r}: expected {spec.dtype.value}, found {_dtype(array)}: "
                    + _advice(spec.dtype, array)
                )
            shapes[spec.name] = check_header(spec, spec.dtype.protocol_name, list(array.shape))
        # The number of rows is the file's; every batch that the model sees is within the range.
        least = raw.dynamic[raw.batch].min if raw.batch in raw.dynamic else 1
        check_dynamic(raw, {name: (least, *shape[1:]) for name, shape in shapes.items()})
    except BadRequest as error:
        raise Unscorable(f"row {first}: {error}") from error
    return {spec.name: _read(spec, rows[spec.name], first) for spec in raw.inputs}


def _read(spec: TensorSpec, array: NDArray[Any], first: int) -> NDArray[Any]:
    try:
        return _requested(spec, array)
    except BadRequest as error:
        raise Unscorable(_where(spec, array, first)) from error


def _requested(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """What the same values are in a request.

    Raises:
        BadRequest
    """
    if spec.dtype is DType.STRING:
        return from_values(spec, array.shape, array.reshape(-1).tolist()).reshape(array.shape)
    return from_bytes(spec, array.shape, memoryview(to_bytes(array)))


def _complaint(spec: TensorSpec, array: NDArray[Any]) -> str | None:
    """What a request of these values would be answered; `None` where they are fine."""
    try:
        _requested(spec, array)
    except BadRequest as error:
        return str(error)
    return None


def _where(spec: TensorSpec, array: NDArray[Any], first: int) -> str:
    """The sentence about the first value that is not good."""
    row = next(index for index in range(len(array)) if _complaint(spec, array[index : index + 1]) is not None)
    values = array[row].reshape(-1) if array.ndim > 1 else array[row : row + 1]
    for index, position in enumerate(product(*map(range, array.shape[1:]))):
        complaint = _complaint(spec, values[index : index + 1])
        if complaint is not None:
            said = complaint.removeprefix(f"input {spec.name!r}: ").removesuffix(" at position 0")
            return f"row {first + row}, column {column_name(spec.name, position)}: {said}"
    return f"row {first + row}: {_complaint(spec, array[row : row + 1])}"


def column_name(name: str, position: tuple[int, ...]) -> str:
    """`pixels[0,3]`, and `age` for the only value of a row."""
    return f"{name}[{','.join(map(str, position))}]" if position else name


def _dtype(array: NDArray[Any]) -> str:
    return "string" if array.dtype == object else str(array.dtype)


def _advice(wanted: DType, array: NDArray[Any]) -> str:
    if DType.STRING in (wanted, _dtype(array)):
        return "convert the column"
    if array.dtype.kind == "f" and np.isnan(array).any() and not wanted.is_float:
        return "it has missing values, which this dtype has no place for"
    return f"save it with astype({wanted.value!r})"
