"""Evaluation data: columns named after the raw inputs and the labels, from an .npz or a .parquet file.

    .npz       one array per column, rows along the first axis; strings as `astype("U")`, the bytes of encoded images
               as `astype("S")`. Never pickled objects.
    .parquet   one column per input and label; encoded images are binary. A tensor of more than one dimension is a list
               per row, nested or flat (row-major); lists of fixed or equal length. A plain column fits an input of
               shape [batch] or [batch, 1], so a table of features is one input per column.

Inputs are raw, as clients send them: before `preprocess`, in `serving.preprocess.raw_signature`. Where a step imputes,
NaN and missing values are taken. Columns that nobody asks for are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, EncodedImages, PreprocessStep, Signature, TensorSpec
from serving.preprocess import raw_signature
from tasks.contracts import Artifact, EvaluationData
from tasks.errors import EvaluationError
from tasks.ingest.fetch import Location, store_tree
from tasks.ingest.preprocess import read_preprocessed
from tasks.ingest.tables import Columns, Reading, missing_column, read_table
from tasks.spec import ModelSpec
from tasks.store import Store, fetch


def ingest_evaluation(
    spec: ModelSpec, location: Location, store: Store, work: Path, fed: Location | None = None
) -> tuple[EvaluationData, Columns]:
    """Store the evaluation data after its columns were checked against what clients send; the columns themselves too.

    `fed` is what training fed the model for its first rows, where the spec names it.

    Raises:
        EvaluationError: with every problem of the data.
        SourceError: the file cannot be read, or changed while it was.
    """
    if location.is_folder:
        raise EvaluationError(f"{location.uri}: expected one .npz or .parquet file, found a folder")
    [file] = store_tree(location, store).files
    raw = raw_signature(spec.signature, spec.preprocess)
    labels = spec.evaluation.columns
    read = read_table(fetch(store, file, work / "evaluation" / file.path), Reading.of(raw))
    columns = check_columns(read, raw, labels, file.path)
    rows = len(next(iter(columns.values())))
    data = EvaluationData(file=file, rows=rows, columns=tuple(sorted(columns)))
    if fed is None:
        return data, columns
    if fed.is_folder:
        raise EvaluationError(f"{fed.uri}: expected one .npz or .parquet file, found a folder")
    [preprocessed] = store_tree(fed, store).files
    read_preprocessed(fetch(store, preprocessed, work / "preprocessed" / preprocessed.path), spec, rows)
    return data.model_copy(update={"preprocessed": preprocessed}), columns


def load_evaluation(artifact: Artifact, store: Store, work: Path, preprocess: Sequence[PreprocessStep] = ()) -> Columns:
    """Raw columns by name: inputs as clients send them before `preprocess`, and labels, all of as many rows.

    Raises:
        CorruptObject: the store's bytes are not the ones that were ingested.
    """
    file = artifact.evaluation.file
    raw = raw_signature(artifact.signature, preprocess)
    columns = read_table(fetch(store, file, work / "evaluation" / file.path), Reading.of(raw))
    tensors = {tensor.name: tensor for tensor in raw.inputs}
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
            problems.append(missing_column(f"input {tensor.name!r}", tensor.name, columns))
            continue
        wanted[tensor.name] = _shaped(columns[tensor.name], tensor)
        problems += _input_problems(tensor, wanted[tensor.name], raw)
    for label in labels:
        if label not in columns:
            problems.append(missing_column(f"label {label!r}", label, columns))
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


def _input_problems(tensor: TensorSpec, column: NDArray[Any], raw: Signature) -> Iterator[str]:
    found = _dtype_name(column)
    if found != tensor.dtype:
        cast = "" if DType.STRING in (found, tensor.dtype) else f"; save it with astype({tensor.dtype.value!r}), or"
        cast += " declare a cast under `preprocess`" if cast else ""
        yield f"column {tensor.name!r} is {found}, clients send {tensor.dtype}{cast}"
    elif column.dtype.kind == "O":
        wanted, kind = (bytes, "the bytes of images") if isinstance(tensor, EncodedImages) else (str, "text")
        other = next((value for value in column.ravel() if not isinstance(value, wanted)), None)
        if other is not None:
            yield f"column {tensor.name!r} holds {type(other).__name__}, clients send {kind}"
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
