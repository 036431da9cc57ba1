"""The model is asked once, on its own evaluation data, before anything is built on it.

What only shows when a model runs shows here: outputs that are not as declared, answers that are different every time,
rows that it cannot answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, NanPolicy, Signature, TensorSpec
from serving.preprocess import Preprocessing
from tasks.errors import SourceError
from tasks.ingest.metric_code import MetricFunction, probe_metrics
from tasks.ingest.sources import SourceModel
from tasks.spec import Framework, ModelSpec

_ROWS = 4
#: Answers to the same input that lie further apart than this are no rounding: something is drawn at random.
_SAME = {"rtol": 1e-3, "atol": 1e-5}


def probe(
    model: SourceModel,
    spec: ModelSpec,
    columns: Mapping[str, NDArray[Any]],
    metrics: Mapping[str, MetricFunction] | None = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Ask twice for a few rows whose inputs are all finite; `metrics` about the first answers.

    Other rows are the data's own problem (`DATA_MISSING_VALUES`), and a model need not answer them. `preprocessing`
    runs the spec's steps; made here unless given, for steps that need no file.

    Raises:
        SourceError: the model cannot answer, answers differently every time, or not as declared; or a metric of the
            user's cannot be computed from its answers.
    """
    prepare = preprocessing or Preprocessing(spec.preprocess, spec.signature)
    inputs = {tensor.name: columns[tensor.name] for tensor in prepare.raw.inputs}
    whole = np.flatnonzero(~_rows_not_finite(inputs, prepare.raw))
    if not len(whole):
        return
    rows = np.resize(whole, max(_ROWS, _least_batch(spec)))[: max(_ROWS, _least_batch(spec))]
    first = _ask(model, prepare, {name: column[rows] for name, column in inputs.items()})
    _check_declared(first, spec, len(rows))
    second = _ask(model, prepare, {name: column[rows] for name, column in inputs.items()})
    for name, answer in first.items():
        if not _same(answer, second[name]):
            raise SourceError(
                f"output {name!r} is different each time the same input is asked: expected a model in inference mode, "
                "found something that draws at random (dropout?); save it as it is meant to be served"
            )
    probe_metrics(spec.evaluation, metrics or {}, first, {name: column[rows] for name, column in columns.items()})


def _ask(model: SourceModel, prepare: Preprocessing, raw: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    try:
        return model.predict(prepare(raw))
    except SourceError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # a trained model is foreign code: any of its errors means that it cannot answer
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        shapes = ", ".join(f"{name} {column.dtype}{list(column.shape)}" for name, column in raw.items())
        raise SourceError(
            f"the model cannot answer the first rows of its evaluation data ({shapes}): {reason}; "
            "compare inputs in the spec with what the model was trained on"
        ) from error


def _check_declared(answers: Mapping[str, NDArray[Any]], spec: ModelSpec, rows: int) -> None:
    problems = []
    for tensor in spec.outputs:
        answer = answers[tensor.name]
        if not _kind_fits(tensor, answer, spec):
            problems.append(f"output {tensor.name!r} is declared {tensor.dtype}, the model gives {answer.dtype}")
        expected = "[" + ", ".join(map(str, tensor.shape)) + "]"
        sizes = [size if isinstance(size, int) else None for size in tensor.shape]
        sizes[0] = rows
        fits = answer.ndim == len(sizes) and all(
            size is None or size == found for size, found in zip(sizes, answer.shape, strict=True)
        )
        if not fits:
            shown = list(answer.shape)
            problems.append(f"output {tensor.name!r} is declared {expected}, the model gives {shown} for {rows} rows")
    if problems:
        raise SourceError("the model does not fit the spec: " + "; ".join(problems) + "; correct outputs in the spec")


def _kind_fits(tensor: TensorSpec, answer: NDArray[Any], spec: ModelSpec) -> bool:
    """scikit-learn computes in float64 where its exports give float32: only there may the width differ."""
    if tensor.dtype is DType.STRING:
        return answer.dtype.kind in "OUS"
    if spec.source.framework is Framework.SKLEARN:
        kind = answer.dtype.kind.replace("u", "i")
        return kind == tensor.dtype.numpy.kind.replace("u", "i")
    return bool(answer.dtype == tensor.dtype.numpy)


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if first.dtype.kind == "f":
        return bool(np.allclose(first.astype(np.float64), second.astype(np.float64), equal_nan=True, **_SAME))
    return bool(np.array_equal(first, second))


def _rows_not_finite(inputs: Mapping[str, NDArray[Any]], raw: Signature) -> NDArray[np.bool_]:
    rows = len(next(iter(inputs.values())))
    broken = np.zeros(rows, dtype=bool)
    for tensor in raw.inputs:
        column = inputs[tensor.name]
        if column.dtype.kind == "f":
            fine = np.isfinite(column) | (np.isnan(column) & (tensor.nan is NanPolicy.ACCEPT))
            broken |= ~fine.reshape(rows, -1).all(axis=1)
    return broken


def _least_batch(spec: ModelSpec) -> int:
    batch = spec.signature.batch
    return spec.dynamic[batch].min if batch is not None else 1
