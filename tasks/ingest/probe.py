"""The model is asked once, on its own evaluation data, before anything is built on it.

What only shows when a model runs shows here: outputs that are not as declared, answers that are different every time,
rows that it cannot answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, TensorSpec
from serving.preprocess import apply
from tasks.errors import EvaluationError, SourceError
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
) -> None:
    """Ask twice for a few rows, and for the rows with missing values where there are any; `metrics` about the first.

    Raises:
        SourceError: the model cannot answer, answers differently every time, or not as declared; or a metric of the
            user's cannot be computed from its answers.
        EvaluationError: rows hold values that are not finite, and the model gives nothing finite for them.
    """
    inputs = {tensor.name: columns[tensor.name] for tensor in spec.inputs}
    broken = _rows_not_finite(inputs)
    whole = np.flatnonzero(~broken)
    if not len(whole):
        raise EvaluationError("the evaluation data has no row whose inputs are all finite; the model can answer none")
    rows = np.resize(whole, max(_ROWS, _least_batch(spec)))[: max(_ROWS, _least_batch(spec))]
    first = _ask(model, spec, {name: column[rows] for name, column in inputs.items()})
    _check_declared(first, spec, len(rows))
    second = _ask(model, spec, {name: column[rows] for name, column in inputs.items()})
    for name, answer in first.items():
        if not _same(answer, second[name]):
            raise SourceError(
                f"output {name!r} is different each time the same input is asked: expected a model in inference mode, "
                "found something that draws at random (dropout?); save it as it is meant to be served"
            )
    probe_metrics(spec.evaluation, metrics or {}, first, {name: column[rows] for name, column in columns.items()})
    if broken.any():
        _check_missing_values(model, spec, inputs, np.flatnonzero(broken))


def _ask(model: SourceModel, spec: ModelSpec, raw: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    try:
        return model.predict(apply(spec.preprocess, raw, spec.signature))
    except SourceError:
        raise
    except Exception as error:  # a trained model is foreign code: any of its errors means that it cannot answer
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


def _check_missing_values(
    model: SourceModel, spec: ModelSpec, inputs: Mapping[str, NDArray[Any]], broken: NDArray[Any]
) -> None:
    some = np.resize(broken, max(min(len(broken), _ROWS), _least_batch(spec)))
    answers = _ask(model, spec, {name: column[some] for name, column in inputs.items()})
    silent = [name for name, answer in answers.items() if answer.dtype.kind == "f" and not np.isfinite(answer).all()]
    if silent:
        shown = ", ".join(map(str, broken[:5]))
        raise EvaluationError(
            f"{len(broken)} rows of the evaluation data have inputs that are not finite (rows {shown}"
            f"{', …' if len(broken) > 5 else ''}), and the model gives nothing finite for them in {', '.join(silent)}; "
            "remove the rows, or impute them before the model"
        )


def _rows_not_finite(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    rows = len(next(iter(inputs.values())))
    broken = np.zeros(rows, dtype=bool)
    for column in inputs.values():
        if column.dtype.kind == "f":
            broken |= ~np.isfinite(column.reshape(rows, -1)).all(axis=1)
    return broken


def _least_batch(spec: ModelSpec) -> int:
    batch = spec.signature.batch
    return spec.dynamic[batch].min if batch is not None else 1
