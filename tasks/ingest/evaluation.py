"""Evaluation data: columns named after the raw inputs and the labels, from an .npz or a .parquet file.

    .npz       one array per column, rows along the first axis; strings as `astype("U")`. Never pickled objects.
    .parquet   one column per input and label. A tensor of more than one dimension is a list per row, nested or flat
               (row-major); lists of fixed or equal length. A plain column fits an input of shape [batch] or [batch, 1],
               so a table of features is one input per column.

Inputs are raw, as clients send them: before `preprocess`, in `serving.preprocess.raw_signature`. Columns that nobody
asks for are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from serving.preprocess import raw_signature
from tasks.contracts import Artifact, EvaluationData
from tasks.errors import EvaluationError, SourceError
from tasks.ingest.archives import opened
from tasks.ingest.fetch import Location, store_tree
from tasks.spec import ModelSpec
from tasks.store import Store, fetch

Columns = dict[str, NDArray[Any]]


def ingest_evaluation(spec: ModelSpec, location: Location, store: Store, work: Path) -> tuple[EvaluationData, Columns]:
    """Store the evaluation data after its columns were checked against what clients send; the columns themselves too.

    Raises:
        EvaluationError: with every problem of the data.
        SourceError: the file cannot be read, or changed while it was.
    """
    if location.is_folder:
        raise EvaluationError(f"{location.uri}: expected one .npz or .parquet file, found a folder")
    [file] = store_tree(location, store).files
    raw = raw_signature(spec.signature, spec.preprocess)
    labels = spec.evaluation.columns
    columns = check_columns(_read(fetch(store, file, work / "evaluation" / file.path)), raw, labels, file.path)
    rows = len(next(iter(columns.values())))
    return EvaluationData(file=file, rows=rows, columns=tuple(sorted(columns))), columns


def load_evaluation(artifact: Artifact, store: Store, work: Path) -> Columns:
    """Raw columns by name: inputs as clients send them, and labels, all of the same number of rows.

    Raises:
        CorruptObject: the store's bytes are not the ones that were ingested.
    """
    file = artifact.evaluation.file
    columns = _read(fetch(store, file, work / "evaluation" / file.path))
    tensors = {tensor.name: tensor for tensor in artifact.signature.inputs}
    return {
        name: _shaped(columns[name], tensors[name]) if name in tensors else columns[name]
        for name in artifact.evaluation.columns
    }


def check_columns(columns: Mapping[str, NDArray[Any]], raw: Signature, labels: Sequence[str], file: str) -> Columns:
    """The columns that are asked for, in the shapes of the raw signature.

    Raises:
        EvaluationError: with every problem.
    """
    problems: list[str] = []
    wanted: Columns = {}
    for tensor in raw.inputs:
        if tensor.name not in columns:
            problems.append(_missing(f"input {tensor.name!r}", tensor.name, columns))
            continue
        wanted[tensor.name] = _shaped(columns[tensor.name], tensor)
        problems += _input_problems(tensor, wanted[tensor.name], raw)
    for label in labels:
        if label not in columns:
            problems.append(_missing(f"label {label!r}", label, columns))
            continue
        wanted[label] = wanted.get(label, columns[label])
        problems += _label_problems(label, columns[label])
    rows = {name: len(column) for name, column in wanted.items() if column.ndim}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        problems.append(f"all columns must have the same number of rows; found {counts}")
    elif rows and 0 in rows.values():
        problems.append("there are no rows; give the data that the model is to be measured on")
    if problems:
        raise EvaluationError("\n".join(f"{file}: {problem}" for problem in problems))
    return wanted


# --- problems of columns ------------------------------------------------------------------------------------------


def _missing(what: str, name: str, columns: Mapping[str, NDArray[Any]]) -> str:
    from tasks.spec_keys import nearest

    return (
        f"there is no column for the {what}; there are {', '.join(sorted(columns)) or 'none'}{nearest(name, columns)}"
    )


def _input_problems(tensor: TensorSpec, column: NDArray[Any], raw: Signature) -> Iterator[str]:
    found = _dtype_name(column)
    if found != tensor.dtype:
        cast = "" if DType.STRING in (found, tensor.dtype) else f"; save it with astype({tensor.dtype.value!r}), or"
        cast += " declare a cast under `preprocess`" if cast else ""
        yield f"column {tensor.name!r} is {found}, clients send {tensor.dtype}{cast}"
    expected = "[" + ", ".join(map(str, ("rows", *tensor.shape[1:]))) + "]"
    if column.ndim != len(tensor.shape):
        yield f"column {tensor.name!r} has the shape {list(column.shape)}, expected {expected}"
        return
    for axis, (size, there) in enumerate(zip(tensor.shape[1:], column.shape[1:], strict=True), start=1):
        span = raw.dynamic.get(size) if isinstance(size, str) else None
        if isinstance(size, int) and size != there:
            yield f"column {tensor.name!r} has the shape {list(column.shape)}, expected {expected} (axis {axis})"
        elif span is not None and not span.min <= there <= span.max:
            yield f"column {tensor.name!r}: {size} is {there}, outside its range {span.min} to {span.max}"


def _label_problems(name: str, column: NDArray[Any]) -> Iterator[str]:
    if not column.ndim:
        yield f"label {name!r} is a single value, expected one per row"
    elif column.dtype.kind == "f" and not np.isfinite(column).all():
        count = int((~np.isfinite(column)).sum())
        yield f"label {name!r} has {count} values that are missing or not finite; remove their rows"
    elif column.dtype.kind not in "biufO":
        yield f"label {name!r} is {column.dtype}, expected numbers, booleans or strings"


def _dtype_name(column: NDArray[Any]) -> str:
    return "string" if column.dtype.kind == "O" else column.dtype.name


def _shaped(column: NDArray[Any], tensor: TensorSpec) -> NDArray[Any]:
    """A flat or one-dimensional column in the tensor's rank, where exactly one such shape exists; else as it is."""
    rest = tensor.shape[1:]
    if column.ndim == len(tensor.shape) or not column.ndim or not rest:
        return column
    sizes = [size for size in rest if isinstance(size, int)]
    if len(sizes) == len(rest) and column.ndim < len(tensor.shape) and column[0:1].size == int(np.prod(sizes)):
        return column.reshape(len(column), *sizes)
    return column


# --- files --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Columns:
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    raise EvaluationError(
        f"{path.name}: expected an .npz or .parquet file; a table in another format becomes one with "
        "pandas.read_csv(…).to_parquet('eval.parquet')"
    )


def _read_npz(path: Path) -> Columns:
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
                columns[name] = _plain(archive[name])
            except (ValueError, EOFError, OSError, SyntaxError) as error:
                # NumPy says no more than "Object arrays cannot be loaded" for pickles.
                what = "pickled objects, which are not opened" if "bject" in str(error) else f"unreadable ({error})"
                advice = "save numbers, or strings with astype('U')"
                problems.append(f"{path.name}: column {name!r} is {what}; {advice}")
    if problems:
        raise EvaluationError("\n".join(problems))
    return columns


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """Strings as objects of `str`, everything else in the machine's byte order."""
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8")
    if column.dtype.kind == "U":
        return column.astype(object)
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _read_parquet(path: Path) -> Columns:
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
            columns[name] = _from_arrow(table.column(name).combine_chunks())
        except (_Unusable, pa.ArrowException) as error:
            problems.append(f"{path.name}: column {name!r} {error}")
    if problems:
        raise EvaluationError("\n".join(problems))
    return columns


class _Unusable(Exception):
    """A Parquet column that is no tensor; the message says why and what to do."""


def _from_arrow(column: Any) -> NDArray[Any]:
    """One Arrow array as NumPy: lists of equal length become an axis."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):  # an empty column stays chunked
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        raise _Unusable(f"has {column.null_count} missing values; remove their rows, or fill them in")
    kind = column.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = set(column.value_lengths().to_pylist()) if not pa.types.is_fixed_size_list(kind) else {kind.list_size}
        if len(lengths) > 1:
            raise _Unusable(
                f"has lists of {min(lengths)} to {max(lengths)} values; expected the same length in each row"
            )
        length = lengths.pop() if lengths else 0
        inner = _from_arrow(column.flatten())
        return inner.reshape(len(column), length, *inner.shape[1:])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.ascontiguousarray(column.to_numpy(zero_copy_only=False))
    raise _Unusable(f"is {kind}; expected numbers, booleans, strings or lists of them: save it as one of those")
