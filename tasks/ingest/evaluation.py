"""Evaluation data: columns named after the raw inputs and the labels, from an .npz or a .parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PackagedFile
from tasks.contracts import Artifact, EvaluationData
from tasks.errors import EvaluationError
from tasks.ingest.fetch import locate, store_tree
from tasks.spec import ModelSpec
from tasks.store import Store, fetch


def ingest_evaluation(spec: ModelSpec, store: Store, work: Path) -> EvaluationData:
    """Store the evaluation data after its columns were checked against what clients would send."""
    tree, _ = store_tree(locate(spec.evaluation.data, spec.folder), store)
    columns = read_columns(fetch(store, tree.files[0], work / tree.files[0].path), spec)
    return EvaluationData(file=tree.files[0], rows=len(next(iter(columns.values()))), columns=tuple(sorted(columns)))


def load_evaluation(artifact: Artifact, store: Store, work: Path) -> dict[str, NDArray[Any]]:
    """Raw columns by name: inputs as clients send them, and labels."""
    file: PackagedFile = artifact.evaluation.file
    return _read(fetch(store, file, work / "evaluation" / Path(file.path).name))


def read_columns(path: Path, spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """The columns that the spec asks for."""
    columns = _read(path)
    wanted = [tensor.name for tensor in spec.inputs] + [metric.label for metric in spec.evaluation.metrics]
    if missing := [name for name in wanted if name not in columns]:
        raise EvaluationError(f"{path.name}: no column {', '.join(missing)}; it has {', '.join(sorted(columns))}")
    return columns


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if path.suffix == ".parquet":
        import pandas as pd

        frame = pd.read_parquet(path)
        return {name: np.stack([np.asarray(value) for value in frame[name]]) for name in frame.columns}
    raise EvaluationError(f"{path.name}: evaluation data is .npz or .parquet")
