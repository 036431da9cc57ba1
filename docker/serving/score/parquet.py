"""`.parquet`, where pyarrow is: on the host of `slipway score`, not in the images (it is larger than all else in them).

A tensor is a column of lists, nested or flat (row-major), or a plain column for one value per row, or the columns of
`serving.score.columns`. Lists of different lengths are scored in turn, equal ones together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec
from serving.score.columns import Place, place
from serving.score.rows import Rows, Unscorable


class ParquetReader:
    """See `serving.score.rows.Reader`."""

    def __init__(self, path: Path, raw: Signature) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise Unscorable(f"it is no Parquet file: {str(error).splitlines()[0]}") from error
        self.total: int | None = self._file.metadata.num_rows
        names = self._file.schema_arrow.names
        self._specs = raw.inputs
        self._places: dict[str, Place] = {
            spec.name: place(spec, names, raw) for spec in raw.inputs if spec.name not in names
        }
        self._columns = [spec.name for spec in raw.inputs if spec.name in names]
        self._columns += [names[number] for each in self._places.values() for number in each.columns]

    def batches(self, rows: int) -> Iterator[Rows]:
        import pyarrow as pa

        first = 1
        try:
            for batch in self._file.iter_batches(batch_size=rows, columns=self._columns):
                for run in _runs(batch):
                    yield {spec.name: self._array(run, spec, first) for spec in self._specs}
                    first += run.num_rows
        except (pa.ArrowException, OSError) as error:
            raise Unscorable(f"after row {first - 1}: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        self._file.close()

    def _array(self, batch: Any, spec: TensorSpec, first: int) -> NDArray[Any]:
        found = self._places.get(spec.name)
        if found is None:
            return _values(batch.column(spec.name), spec, first)
        columns = [_plain(batch.column(name), f"column {name}", first) for name in found.names]
        return np.stack(columns, axis=1).reshape(batch.num_rows, *found.shape)


class ParquetWriter:
    """See `serving.score.rows.Writer`."""

    def __init__(self, path: Path, signature: Signature) -> None:
        self._path = path
        self._specs = signature.outputs
        self._writer: Any = None

    def append(self, answers: Rows) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [_lists(answers[spec.name], spec.shape[1:]) for spec in self._specs]
        table = pa.table(columns, names=[spec.name for spec in self._specs])
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _runs(batch: Any) -> Iterator[Any]:
    """Neighbouring rows whose lists are equally long, together."""
    import pyarrow as pa

    ends = np.zeros(batch.num_rows, np.bool_)
    for column in batch.columns:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
            ends[:-1] |= lengths[1:] != lengths[:-1]
    start = 0
    for end in (*np.flatnonzero(ends[:-1]).tolist(), batch.num_rows - 1):
        yield batch.slice(start, end + 1 - start)
        start = end + 1


def _values(column: Any, spec: TensorSpec, first: int) -> NDArray[Any]:
    """A column as the array of a tensor: lists become axes."""
    import pyarrow as pa

    rows, shape = len(column), [len(column)]
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or _is_fixed(column.type):
        if column.null_count:
            raise Unscorable(f"row {first}, column {spec.name}: a list is missing")
        if not len(column):
            shape.append(0)
        elif _is_fixed(column.type):
            shape.append(column.type.list_size)
        else:
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            if (lengths != lengths[0]).any():
                raise Unscorable(f"row {first}, column {spec.name}: lists within a row must be equally long")
            shape.append(int(lengths[0]))
        column = column.flatten()
    array = _plain(column, f"column {spec.name}", first, prod(shape[1:]))
    declared = spec.shape[1:]
    fixed = [size for size in declared if isinstance(size, int)]
    if len(shape) in (1, 2) and len(fixed) == len(declared) and prod(shape[1:]) == prod(fixed):
        return array.reshape(rows, *fixed)
    return array.reshape(shape)


def _plain(column: Any, what: str, first: int, per_row: int = 1) -> NDArray[Any]:
    """A column of single values; what is missing is NaN where there is NaN."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count and not pa.types.is_floating(column.type):
        index = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise Unscorable(f"row {first + index // per_row}, {what}: a value is missing")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_binary(column.type):
        array: NDArray[Any] = np.empty(len(column), dtype=object)
        array[:] = column.to_pylist()
        return array
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if found.dtype.kind not in "biuf":
        raise Unscorable(f"{what} is of type {column.type}: expected numbers, booleans or strings")
    return found


def _is_fixed(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind))


def _lists(array: NDArray[Any], declared: Sequence[int | str]) -> Any:
    """An array as a column: each axis beyond the first is a list, of fixed size where the signature's is."""
    import pyarrow as pa

    flat = array.reshape(-1)
    column = pa.array(flat.tolist(), pa.string()) if array.dtype == object else pa.array(flat)
    for axis in reversed(range(1, array.ndim)):
        size = array.shape[axis]
        if isinstance(declared[axis - 1], int):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        else:
            count = prod(array.shape[:axis])
            column = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * size, column)
    return column
