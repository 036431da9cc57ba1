"""What preprocessing brings along: the files that its steps name, and what the training code really fed the model.

Files such as a vocabulary or a tokenizer.json are stored by digest like the model's own bytes, and the steps always run
from there. `evaluation.preprocessed` is the trainer's own word on preprocessing: the model's inputs for the first rows
of the evaluation data, as its code made them. Parity holds the declared steps against it (`tasks.parity.skew`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, PreprocessStep, Signature, TensorSpec
from serving.preprocess import BadRow, Preprocessing, step_files
from tasks.contracts import Artifact, FileTree
from tasks.errors import EvaluationError, SourceError
from tasks.ingest.tables import Columns, Reading, missing_column, read_table
from tasks.spec import ModelSpec
from tasks.store import Store, fetch, fetch_tree, put_file

#: Rows that are preprocessed at once to see that they can be: few enough to hold, enough to be no detour.
_AT_ONCE = 64


def store_step_files(spec: ModelSpec, store: Store) -> FileTree | None:
    """Store the files that steps name; None where none does.

    Raises:
        SourceError: one cannot be read.
    """
    try:
        files = tuple(put_file(store, spec.folder / name, name) for name in step_files(spec.preprocess))
    except OSError as error:
        raise SourceError(f"preprocess: {error.filename} cannot be read: {error.strerror}") from error
    return FileTree(files=files) if files else None


def load_preprocessing(artifact: Artifact, steps: Sequence[PreprocessStep], store: Store, work: Path) -> Preprocessing:
    """The steps, ready to run from the files that were ingested.

    Raises:
        CorruptObject: the store's bytes are not the ones that were ingested.
        SourceError: a file is not what its step needs.
    """
    folder = work / "preprocess"
    if artifact.preprocess is not None:
        fetch_tree(store, artifact.preprocess, folder)
    try:
        return Preprocessing(steps, artifact.signature, folder)
    except ValueError as error:
        raise SourceError(f"preprocess: {error}") from error


def check_rows(columns: Mapping[str, NDArray[Any]], preprocessing: Preprocessing, file: str) -> None:
    """Every row that is more than numbers can be preprocessed.

    Raises:
        EvaluationError: names the first that cannot.
    """
    declared = {tensor.name: tensor for tensor in preprocessing.signature.inputs}
    if all(raw.dtype is not DType.STRING or declared.get(raw.name) == raw for raw in preprocessing.raw.inputs):
        return
    raw = {tensor.name: columns[tensor.name] for tensor in preprocessing.raw.inputs}
    for start in range(0, len(next(iter(raw.values()))), _AT_ONCE):
        try:
            preprocessing({name: column[start : start + _AT_ONCE] for name, column in raw.items()})
        except BadRow as error:
            place = f"column {error.input!r}, row {start + error.row}"
            raise EvaluationError(f"{file}: {place}: {error.complaint}; clients would be answered with 400") from error


def read_preprocessed(path: Path, spec: ModelSpec, rows: int) -> Columns:
    """What training fed the model, by the model's inputs.

    Raises:
        EvaluationError: with every way in which it is not what the model takes.
    """
    columns = read_table(path, Reading())
    problems = list(_fed_problems(columns, spec.signature, spec.preprocess, rows))
    if problems:
        raise EvaluationError("\n".join(f"evaluation.preprocessed: {path.name}: {problem}" for problem in problems))
    return {tensor.name: columns[tensor.name] for tensor in spec.inputs if tensor.name in columns}


def load_preprocessed(artifact: Artifact, store: Store, work: Path) -> Columns | None:
    """What training fed the model, as ingest checked it; None where the spec names none."""
    file = artifact.evaluation.preprocessed
    if file is None:
        return None
    columns = read_table(fetch(store, file, work / "preprocessed" / file.path), Reading())
    return {tensor.name: columns[tensor.name] for tensor in artifact.signature.inputs if tensor.name in columns}


def _fed_problems(columns: Columns, signature: Signature, steps: Sequence[PreprocessStep], rows: int) -> Iterator[str]:
    stepped = {step.input for step in steps}
    for tensor in signature.inputs:
        if tensor.name in columns:
            yield from _column_problems(tensor, columns[tensor.name], rows)
        elif tensor.name in stepped:
            yield missing_column(f"input {tensor.name!r}", tensor.name, columns)
    counts = {name: len(column) for name, column in columns.items() if column.ndim}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield f"all columns must have the same number of rows; found {said}"


def _column_problems(tensor: TensorSpec, column: NDArray[Any], rows: int) -> Iterator[str]:
    found = "string" if column.dtype.kind == "O" else column.dtype.name
    if found != tensor.dtype:
        yield f"column {tensor.name!r} is {found}, the model takes {tensor.dtype}: save what it was really fed"
    fits = column.ndim == len(tensor.shape) and all(
        isinstance(size, str) or size == there for size, there in zip(tensor.shape[1:], column.shape[1:], strict=True)
    )
    if not fits:
        expected = "[" + ", ".join(map(str, ("rows", *tensor.shape[1:]))) + "]"
        yield f"column {tensor.name!r} has the shape {list(column.shape)}, expected {expected}"
    elif not 0 < len(column) <= rows:
        yield f"column {tensor.name!r} has {len(column)} rows; expected those of the first rows of the {rows} there are"
    elif column.dtype.kind == "f" and np.isnan(column).any():
        yield f"column {tensor.name!r} holds NaN, which no model was fed"
