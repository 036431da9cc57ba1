"""The functions behind a spec's own metrics: modules that the user hands over beside model.yaml.

    def profit(answers, labels):      # arrays, one row per evaluation row
        return ...                    # one number per row (their mean is the metric), or one number

Like a state dict's entrypoint this is code that runs here by design. It is stored with the evaluation data that it
belongs to, so that the metric that was judged by is the one that is remembered, and imported from there.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import EvaluationData, FileTree
from tasks.errors import SourceError
from tasks.ingest.code import import_callable, module_files, store_code
from tasks.spec import EvaluationSpec, ModelSpec
from tasks.store import Store, fetch_tree

#: Errors that no other rows would cure: the function does not take what it is given, or its code is not right.
_IN_THE_CODE = (TypeError, NameError, AttributeError, ImportError, SyntaxError, SystemExit)


class NoMetric(ValueError):
    """A function gave nothing that is a metric; the message says what. `in_code` where no other rows would cure it."""

    def __init__(self, message: str, *, in_code: bool) -> None:
        super().__init__(message)
        self.in_code = in_code


@dataclass(frozen=True, slots=True)
class MetricFunction:
    """The user's function, under the name by which the spec names it (`metric:profit`)."""

    callable: str
    function: Callable[[NDArray[Any], NDArray[Any]], Any]

    def ask(self, answers: NDArray[Any], labels: NDArray[Any]) -> float | NDArray[np.float64]:
        """One number, or one per row, all finite. The function gets copies: it cannot alter what others see.

        Raises:
            NoMetric: it raised, or gave something else.
        """
        try:
            given = self.function(answers.copy(), labels.copy())
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise NoMetric(f"{self.callable} raised {_told(error)}", in_code=isinstance(error, _IN_THE_CODE)) from error
        return self._checked(given, len(labels))

    def _checked(self, given: Any, rows: int) -> float | NDArray[np.float64]:
        expected = f"expected one number, or an array of {rows}, one per row"
        try:
            found = np.asarray(given)
        except ValueError as error:
            raise NoMetric(f"{self.callable} gave a list of unequal lists; {expected}", in_code=True) from error
        if found.dtype.kind not in "biuf":
            raise NoMetric(f"{self.callable} gave {type(given).__name__}; {expected}", in_code=True)
        if found.shape == (rows, 1):
            found = found[:, 0]
        if found.shape not in ((), (rows,)):
            raise NoMetric(f"{self.callable} gave an array of shape {list(found.shape)}; {expected}", in_code=True)
        values = found.astype(np.float64)
        broken = np.flatnonzero(~np.isfinite(values))
        if len(broken) and not values.ndim:
            raise NoMetric(f"{self.callable} gave {float(values)}", in_code=False)
        if len(broken):
            message = f"{self.callable} gave {len(broken)} values that are no numbers, the first in row {broken[0]}"
            raise NoMetric(message, in_code=False)
        return values if values.ndim else float(values)


def metric_files(spec: ModelSpec) -> tuple[Path, ...]:
    """The modules of all callables and their local imports, sorted, relative to the spec's folder.

    Raises:
        SourceError: a module is not there, or is not Python.
    """
    found = {path for name in _callables(spec.evaluation) for path in module_files(spec.folder, name)}
    return tuple(sorted(found))


def store_metric_code(spec: ModelSpec, store: Store) -> FileTree | None:
    """Store them; None where no metric has a callable."""
    files = {
        file.path: file for name in _callables(spec.evaluation) for file in store_code(spec.folder, name, store).files
    }
    return FileTree(files=tuple(files[path] for path in sorted(files))) if files else None


def load_metrics(
    wanted: EvaluationSpec, evaluation: EvaluationData, store: Store, work: Path
) -> dict[str, MetricFunction]:
    """The functions by the spec's `callable`, imported from the code that ingest stored.

    Raises:
        SourceError: a module cannot be imported, or has no such function.
    """
    if evaluation.code is None:
        return {}
    fetch_tree(store, evaluation.code, work / "metrics")
    return {name: MetricFunction(name, import_callable(work / "metrics", name)) for name in _callables(wanted)}


def probe_metrics(
    wanted: EvaluationSpec,
    functions: Mapping[str, MetricFunction],
    answers: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[Any]],
) -> None:
    """Ask every function about a few rows, so that a mistake in its code is told before anything is exported.

    What a few rows may lack (a class, anything to divide by) is no mistake: parity asks about all of them.

    Raises:
        SourceError: a function does not take answers and labels, or gives no numbers.
    """
    for metric in wanted.metrics:
        if metric.callable is None:
            continue
        try:
            functions[metric.callable].ask(answers[metric.output], labels[metric.label])
        except NoMetric as problem:
            if problem.in_code:
                raise SourceError(f"evaluation.metrics: {metric.name} on the first rows: {problem}") from problem


def _callables(wanted: EvaluationSpec) -> list[str]:
    return sorted({metric.callable for metric in wanted.metrics if metric.callable is not None})


def _told(error: BaseException) -> str:
    """What the user's code raised, and the line of theirs that it came from (not that of a library beneath it)."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}{place}: {reason}"
