"""Evaluation data as tables of a few columns, however many features or pixels it has.

In: columns as ingest checked them, NumPy arrays with one row per example. Out, for Great Expectations to look at:

    rows        one row per example: values that are missing or infinite, by input; the inputs' digest; labels
    columns     one row per column: its dtype and shape, and how many of its positions never change
    classes     one row per class of a label: how many examples it has

The data is read once, a few thousand rows at a time, so that memory does not grow with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, NDArray[Any]]

#: Values that are looked at at once: 32 MiB of float32, what a processor's caches and any machine can bear.
_CHUNK_VALUES = 1 << 23
#: What programs write where nothing was measured: runs of nines, and netCDF's default fill value for floats
#: (NC_FILL_FLOAT, netcdf.h).
SENTINELS = (-99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0, float(np.float32(9.9692099683868690e36)))

#: Names of the tables' columns, beside those that the data gives.
ROW, INPUTS, COLUMN, CLASS, ROWS, SHARE = "row", "inputs", "column", "class", "rows", "share"
ROLE, DTYPE, DECLARED_DTYPE, SHAPE, DECLARED_SHAPE = "role", "dtype", "declared dtype", "shape", "declared shape"
POSITIONS, CONSTANT, STAND_INS = "positions", "constant positions", "positions with stand-ins"


def missing(name: str) -> str:
    """The column of `rows` that counts NaN in an input."""
    return f"{name}: missing"


def infinite(name: str) -> str:
    """The column of `rows` that counts infinities in an input."""
    return f"{name}: infinite"


def beyond(name: str) -> str:
    """The column of `rows` that counts an input's values outside the range that the spec declares."""
    return f"{name}: out of range"


def outside(label: str) -> str:
    """The column of `rows` that counts a label's values that are no class of the output."""
    return f"{label}: no class"


@dataclass(frozen=True, slots=True)
class Label:
    """A label column. `classes` is how many the output has: None where it is not known, or the label is a number."""

    name: str
    output: str
    is_class: bool
    classes: int | None


def rows_table(columns: Columns, inputs: Sequence[TensorSpec], labels: Sequence[Label]) -> pd.DataFrame:
    """One row per example."""
    import pandas as pd

    count = len(next(iter(columns.values())))
    table: dict[str, Any] = {ROW: np.arange(count)}
    for tensor in inputs:
        if columns[tensor.name].dtype.kind == "f":
            for name, counted in _non_finite(tensor.name, columns[tensor.name]).items():
                table[name] = counted
        if tensor.range is not None and columns[tensor.name].dtype.kind in "iuf":
            table[beyond(tensor.name)] = _beyond(columns[tensor.name], *tensor.range)
    table[INPUTS] = _digests([columns[tensor.name] for tensor in inputs])
    for label in labels:
        values = columns[label.name]
        table[label.name] = _one_each(values)
        if label.is_class and label.classes is not None and values.dtype.kind in "biuf":
            flat = values.reshape(count, -1).astype(np.float64)
            fine = (flat == np.floor(flat)) & (flat >= 0) & (flat < label.classes)
            table[outside(label.name)] = (~fine).sum(axis=1)
    return pd.DataFrame(table)


def columns_table(columns: Columns, raw: Signature, labels: Sequence[Label]) -> pd.DataFrame:
    """One row per column of the data that is used."""
    import pandas as pd

    table = []
    for tensor in raw.inputs:
        column = columns[tensor.name]
        spread = _spread(column)
        table.append(
            {
                COLUMN: tensor.name,
                ROLE: "input",
                DTYPE: _dtype(column),
                DECLARED_DTYPE: tensor.dtype.value,
                SHAPE: _shape(column.shape),
                DECLARED_SHAPE: _declared(column.shape, tensor),
                POSITIONS: spread.positions,
                CONSTANT: spread.constant,
                STAND_INS: spread.stand_ins,
            }
        )
    given = {tensor.name for tensor in raw.inputs}
    for label in labels:
        if label.name in given:
            continue
        column = columns[label.name]
        same = {DTYPE: _dtype(column), SHAPE: _shape(column.shape)}
        same |= {DECLARED_DTYPE: same[DTYPE], DECLARED_SHAPE: same[SHAPE]}  # labels are declared by name alone
        table.append({COLUMN: label.name, ROLE: "label", **same, POSITIONS: 1, CONSTANT: 0, STAND_INS: 0})
    return pd.DataFrame(table)


def classes_table(values: NDArray[Any], label: Label) -> pd.DataFrame:
    """One row per class: those that the output has, and those that only the label has."""
    import pandas as pd

    found, counts = np.unique(values.astype(np.str_) if values.dtype.kind in "OUS" else values, return_counts=True)
    rows = dict(zip(found.tolist(), counts.tolist(), strict=True))
    for number in range(label.classes or 0) if values.dtype.kind in "biuf" else ():
        rows.setdefault(number, 0)
    ordered = sorted(rows)
    total = sum(rows.values())
    return pd.DataFrame(
        {
            CLASS: [f"{name:g}" if isinstance(name, float) else str(name) for name in ordered],
            ROWS: [rows[name] for name in ordered],
            SHARE: [rows[name] / total for name in ordered],
        }
    )


# --- counting -----------------------------------------------------------------------------------------------------


def _non_finite(name: str, column: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    nan, inf = np.zeros(len(column), dtype=np.int64), np.zeros(len(column), dtype=np.int64)
    for rows, flat in _chunks(column):
        if not np.isfinite(flat).all():
            nan[rows] = np.isnan(flat).sum(axis=1)
            inf[rows] = np.isinf(flat).sum(axis=1)
    return {missing(name): nan, infinite(name): inf}


def _beyond(column: NDArray[Any], least: int | float | None, greatest: int | float | None) -> NDArray[np.int64]:
    """How many values of each row lie outside; NaN, which has no place, is not among them."""
    count = np.zeros(len(column), dtype=np.int64)
    for rows, flat in _chunks(column):
        if least is not None:
            count[rows] += (flat < least).sum(axis=1)
        if greatest is not None:
            count[rows] += (flat > greatest).sum(axis=1)
    return count


def _digests(inputs: Sequence[NDArray[Any]]) -> list[str]:
    """Each row's inputs as 16 hexadecimal digits: 64 bits, which a million rows share with a chance of 1 in 10^7."""
    count = len(inputs[0])
    rows = [hashlib.blake2b(digest_size=8) for _ in range(count)]
    for column in inputs:
        if column.dtype.kind in "OUS":
            for row, values in zip(rows, column.reshape(count, -1), strict=True):
                row.update("\0".join(map(str, values)).encode())
            continue
        for taken, flat in _chunks(column):
            for row, values in zip(rows[taken], np.ascontiguousarray(flat), strict=True):
                row.update(values)
    return [row.hexdigest() for row in rows]


def _one_each(values: NDArray[Any]) -> Any:
    """A label as one value a row: itself, or where it has more a digest of them."""
    if values.ndim > 1 and values.size == len(values):
        values = values.reshape(len(values))
    return values if values.ndim == 1 else _digests([values])


@dataclass(frozen=True, slots=True)
class _Spread:
    positions: int
    constant: int
    stand_ins: int


def _spread(column: NDArray[Any]) -> _Spread:
    """How many positions of a row hold the same value in every row, and how many a stand-in for a missing value."""
    flat = column.reshape(len(column), -1)
    if column.dtype.kind not in "biuf":
        constant = sum(bool((flat[:, place] == flat[0, place]).all()) for place in range(flat.shape[1]))
        return _Spread(flat.shape[1], constant, 0)
    low, high = flat[0].copy(), flat[0].copy()
    for _, part in _chunks(column):
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
    extreme = np.isin(low, SENTINELS) | np.isin(high, SENTINELS)
    stand_ins = sum(_is_stand_in(flat[:, place]) for place in np.flatnonzero(extreme & (low != high)))
    return _Spread(flat.shape[1], int((low == high).sum()), stand_ins)


def _is_stand_in(values: NDArray[Any]) -> bool:
    """Whether a sentinel stands there more than once, further from all other values than they are from each other."""
    values = values.astype(np.float64)
    for sentinel in SENTINELS:
        there = values == sentinel
        others = values[~there & np.isfinite(values)]
        if there.sum() > 1 and len(others) and np.abs(others - sentinel).min() > np.ptp(others):
            return True
    return False


def _chunks(column: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The column as (rows, values of a row), a few rows at a time."""
    values = max(int(np.prod(column.shape[1:])), 1)
    step = max(_CHUNK_VALUES // values, 1)
    for start in range(0, len(column), step):
        rows = slice(start, min(start + step, len(column)))
        yield rows, column[rows].reshape(rows.stop - start, values)


def _dtype(column: NDArray[Any]) -> str:
    return "string" if column.dtype.kind in "OUS" else column.dtype.name


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(["rows", *map(str, shape[1:])]) + "]"


def _declared(shape: Sequence[int], tensor: TensorSpec) -> str:
    """What is declared, where dynamic dimensions are as they were found."""
    if len(shape) != len(tensor.shape):
        return f"[{', '.join(map(str, tensor.shape))}]"
    return _shape([found if isinstance(size, str) else size for found, size in zip(shape, tensor.shape, strict=True)])
