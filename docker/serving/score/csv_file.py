"""`.csv`: a header, and a line per row (RFC 4180); see `serving.score.columns` for the columns.

An empty cell of a floating-point input is NaN; an image is base64. Numbers are written so that reading them gives the
same number again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import prod
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.contract import DType, EncodedImages, Signature
from serving.score.columns import Place, expanded, places
from serving.score.rows import Rows, Unscorable
from serving.tensors import BadRequest, from_values

#: Longest cell: an image of some megabytes in base64, with room. Python's own limit is 128 KiB, for the whole process.
csv.field_size_limit(1 << 26)

_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_WANTED = {"bool": "true or false", "int": "a whole number", "float": "a number"}


class CsvReader:
    """See `serving.score.rows.Reader`."""

    def __init__(self, stream: IO[bytes], raw: Signature) -> None:
        self._stream = stream
        # A spreadsheet's mark of UTF-8 is no part of the first column's name.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        for spec in raw.inputs:
            if isinstance(spec, EncodedImages):
                csv.field_size_limit(max(csv.field_size_limit(), (spec.max_bytes + 2) * 4 // 3))
        self._rows = csv.reader(text, strict=True)
        self.total: int | None = None
        try:
            header = next(self._rows, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unscorable(f"the header cannot be read: {error}") from error
        if header is None:
            raise Unscorable("the file is empty: its first line must name the columns")
        self._width = len(header)
        self._places = places([name.strip() for name in header], raw)

    def batches(self, rows: int) -> Iterator[Rows]:
        first = 1
        while table := self._next(rows, first):
            yield {place.spec.name: _column(place, table, first) for place in self._places}
            first += len(table)

    def close(self) -> None:
        self._stream.close()

    def _next(self, rows: int, first: int) -> list[list[str]]:
        table: list[list[str]] = []
        try:
            for cells in islice(self._rows, rows):
                if len(cells) != self._width:
                    raise Unscorable(
                        f"row {first + len(table)} (line {self._rows.line_num}): expected {self._width} cells, "
                        f"found {len(cells)}"
                    )
                table.append(cells)
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unscorable(f"row {first + len(table)} (line {self._rows.line_num}): {error}") from error
        return table


class CsvWriter:
    """See `serving.score.rows.Writer`."""

    def __init__(self, stream: IO[bytes], signature: Signature) -> None:
        self._stream = stream
        self._specs = signature.outputs
        self._shapes: list[tuple[int, ...]] | None = None

    def append(self, answers: Rows) -> None:
        shapes = [answers[spec.name].shape[1:] for spec in self._specs]
        if self._shapes is None:
            self._begin(shapes)
        elif shapes != self._shapes:
            raise Unscorable(
                f"answers of another shape than before ({shapes} after {self._shapes}), which a table's columns cannot "
                "hold: give a .parquet file for the output, or score them apart"
            )
        if not len(answers[self._specs[0].name]):
            return  # the header is all there is to no rows
        columns = [column for spec in self._specs for column in _cells(answers[spec.name])]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
        self._stream.write(text.getvalue().encode())

    def finish(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        pass  # the stream is the caller's

    def _begin(self, shapes: list[tuple[int, ...]]) -> None:
        self._shapes = shapes
        header = [name for spec, shape in zip(self._specs, shapes, strict=True) for name in expanded(spec.name, shape)]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(header)
        self._stream.write(text.getvalue().encode())


def _column(place: Place, table: Sequence[Sequence[str]], first: int) -> NDArray[Any]:
    """The array of a tensor's cells."""
    dtype = place.spec.dtype
    flat = [row[number] for row in table for number in place.columns]
    shape = (len(table), *place.shape)
    if isinstance(place.spec, EncodedImages):
        try:
            return from_values(place.spec, shape, flat)
        except BadRequest as error:
            raise Unscorable(f"rows {first} to {first + len(table) - 1}: {error}") from error
    if dtype is DType.STRING:
        array: NDArray[Any] = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array.reshape(shape)
    kind = "bool" if dtype is DType.BOOL else "float" if dtype.is_float else "int"
    parse = _PARSERS[kind]
    try:
        values = list(map(parse, flat))
        if kind == "int":
            return np.array(values, dtype=dtype.numpy).reshape(shape)  # out of range raises
    except (ValueError, KeyError, OverflowError) as error:
        raise Unscorable(_culprit(place, flat, first, parse, _WANTED[kind])) from error
    with np.errstate(over="ignore"):  # what is beyond float16 or float32 becomes infinite, which the check refuses
        return np.array(values, dtype=np.float64 if kind == "float" else np.bool_).astype(dtype.numpy).reshape(shape)


def _float(cell: str) -> float:
    if "_" in cell:  # Python's own way to group digits
        raise ValueError(cell)
    return float(cell) if cell else float("nan")


def _int(cell: str) -> int:
    if "_" in cell:
        raise ValueError(cell)
    return int(cell)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": lambda cell: _TRUTH[cell.strip().lower()],
    "int": _int,
    "float": _float,
}


def _culprit(place: Place, flat: Sequence[str], first: int, parse: Callable[[str], Any], wanted: str) -> str:
    """The sentence about the first cell that is not what its column should be."""
    width = len(place.columns)
    dtype = place.spec.dtype
    for index, cell in enumerate(flat):
        try:
            np.array(parse(cell), dtype=dtype.numpy)
        except (ValueError, KeyError, OverflowError):
            where = f"row {first + index // width}, column {place.names[index % width]}"
            return f"{where}: expected {wanted} ({dtype.value}), found {cell!r}"
    raise AssertionError("every cell can be read")


def _cells(array: NDArray[Any]) -> Iterator[list[str]]:
    """Columns of text, one for each value of a row."""
    for column in array.reshape(len(array), prod(array.shape[1:])).T:  # of no values, -1 could be anything
        yield _texts(column)


def _texts(column: NDArray[Any]) -> list[str]:
    if column.dtype == object:
        return [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in column.tolist()]
    if column.dtype.kind != "f":
        return [str(item).lower() for item in column.tolist()]
    # orjson writes the shortest digits that give the same number back, float32's own among them, and fast.
    cells = orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")
    for index in np.flatnonzero(~np.isfinite(column)):
        cells[index] = str(float(column[index]))
    return cells
