"""Tables of named columns from .npz and .parquet files, as NumPy arrays with one row per example.

Strings come as objects of `str`, and where a column is to hold encoded images as objects of `bytes`. Pickles are never
opened. A missing value in a Parquet column is refused, save where it is floating-point and the column may miss some:
there it is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import EncodedImages, NanPolicy, Signature
from tasks.errors import EvaluationError, SourceError
from tasks.ingest.archives import opened

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """Which columns are more than they seem: those of encoded images, and those that may miss values."""

    images: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()

    @classmethod
    def of(cls, raw: Signature) -> Reading:
        """As clients send them."""
        return cls(
            frozenset(tensor.name for tensor in raw.inputs if isinstance(tensor, EncodedImages)),
            frozenset(tensor.name for tensor in raw.inputs if tensor.nan is NanPolicy.ACCEPT),
        )


def missing_column(what: str, name: str, columns: Mapping[str, NDArray[Any]]) -> str:
    """That there is no column for `what`, and which there are."""
    from tasks.spec_hints import nearest

    return (
        f"there is no column for the {what}; there are {', '.join(sorted(columns)) or 'none'}{nearest(name, columns)}"
    )


def read_table(path: Path, reading: Reading) -> Columns:
    """Every column of the file.

    Raises:
        EvaluationError: with every column that cannot be read.
    """
    if path.suffix.lower() == ".npz":
        return _read_npz(path, reading)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, reading)
    raise EvaluationError(
        f"{path.name}: expected an .npz or .parquet file; a table in another format becomes one with "
        "pandas.read_csv(…).to_parquet('eval.parquet')"
    )


def _read_npz(path: Path, reading: Reading) -> Columns:
    columns: Columns = {}
    try:
        with opened(path, "an .npz file"):
            pass
    except SourceError as error:
        raise EvaluationError(str(error)) from error
    problems = []
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                columns[name] = _plain(archive[name], is_image=name in reading.images)
            except (ValueError, EOFError, OSError, SyntaxError) as error:
                # NumPy says no more than "Object arrays cannot be loaded" for pickles.
                what = "pickled objects, which are not opened" if "bject" in str(error) else f"unreadable ({error})"
                advice = "save numbers, strings with astype('U'), or the bytes of images with astype('S')"
                problems.append(f"{path.name}: column {name!r} is {what}; {advice}")
    if problems:
        raise EvaluationError("\n".join(problems))
    return columns


def _plain(column: NDArray[Any], *, is_image: bool) -> NDArray[Any]:
    """Strings as objects of `str`, images of `bytes`, everything else in the machine's byte order."""
    if column.dtype.kind == "S" and is_image:
        return column.astype(object)
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8")
    if column.dtype.kind == "U":
        return column.astype(object)
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _read_parquet(path: Path, reading: Reading) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EvaluationError(f"{path.name} cannot be read as a Parquet file ({reason}); save it again") from error
    columns: Columns = {}
    problems = []
    for name in table.column_names:
        try:
            columns[name] = _from_arrow(table.column(name).combine_chunks(), may_miss=name in reading.missing)
        except (_Unusable, pa.ArrowException) as error:
            problems.append(f"{path.name}: column {name!r} {error}")
    if problems:
        raise EvaluationError("\n".join(problems))
    return columns


class _Unusable(Exception):
    """A Parquet column that is no tensor; the message says why and what to do."""


def _from_arrow(column: Any, *, may_miss: bool) -> NDArray[Any]:
    """One Arrow array as NumPy: lists of equal length become an axis."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):  # an empty column stays chunked
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count and not (may_miss and _holds_nan(column.type)):
        raise _Unusable(f"has {column.null_count} missing values; remove their rows, or fill them in")
    kind = column.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = set(column.value_lengths().to_pylist()) if not pa.types.is_fixed_size_list(kind) else {kind.list_size}
        if len(lengths) > 1:
            raise _Unusable(
                f"has lists of {min(lengths)} to {max(lengths)} values; expected the same length in each row"
            )
        length = lengths.pop() if lengths else 0
        inner = _from_arrow(column.flatten(), may_miss=may_miss)
        return inner.reshape(len(column), length, *inner.shape[1:])
    if any(each(kind) for each in (pa.types.is_string, pa.types.is_large_string, *_binary_kinds())):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.ascontiguousarray(column.to_numpy(zero_copy_only=False))
    raise _Unusable(f"is {kind}; expected numbers, booleans, strings or lists of them: save it as one of those")


def _holds_nan(kind: Any) -> bool:
    """Whether a missing value of this Arrow type can become NaN: in floating-point columns, not in the lists around."""
    import pyarrow as pa

    return bool(pa.types.is_floating(kind))


def _binary_kinds() -> tuple[Any, ...]:
    import pyarrow as pa

    return pa.types.is_binary, pa.types.is_large_binary
