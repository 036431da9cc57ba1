"""Task metrics: answers and labels → one number that says how good the model is at its task.

In: one output of a model over the evaluation rows, and the label column. Out: a float and what each row contributes
to it, or the reason why there is none. What cannot be computed (NaN, missing labels, one class only) is never a number,
so it can never be a pass.

`METRICS` is the table; adding one is a function in `tasks.parity.scores` and a line here. This module imports nothing
heavy: spec validation reads the names and `Metric.problem`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.contract import DType, TensorSpec
from tasks.spec import Direction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.parity.noninferiority import Floats
    from tasks.parity.reading import Reading


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric's value, or `None` with the reason why there is none.

    `contributions` and `worst` are those of `tasks.parity.scores.Scored`; None where the rows are too few.
    """

    value: float | None
    reason: str | None = None
    contributions: Floats | None = None
    worst: float | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One task metric.

    `problem` answers why an output cannot be measured with it (for spec validation), or None. `function` is its name
    in `tasks.parity.scores`, `arguments` what it takes beside answers and truth. `of_classes` says whether
    labels name classes, `ranks` whether rows may be grouped into queries.
    """

    direction: Direction
    problem: Callable[[TensorSpec], str | None]
    function: str
    arguments: tuple[int | None, ...] = ()
    of_classes: bool = False
    ranks: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1, so that no export can lose more than 1 of it."""
        return self.direction is Direction.HIGHER and self.function != "r2"

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean of its rows' scores; others are linearised by the jackknife."""
        return self.function not in ("macro_f1", "roc_auc", "rmse", "r2")

    def measure(
        self,
        answers: NDArray[Any],
        labels: NDArray[Any],
        reading: Reading,
        queries: NDArray[Any] | None = None,
    ) -> Measured:
        """The metric over all rows. Never raises for what is in the data: the reason stands in the result."""
        from tasks.parity import scores

        if len(answers) != len(labels):
            return Measured(None, f"{len(answers)} answers for {len(labels)} labels")
        if not len(labels):
            return Measured(None, "no rows")
        try:
            truth = scores.Truth(labels, reading, queries)
            scored: scores.Scored = getattr(scores, self.function)(answers, truth, *self.arguments)
        except ValueError as error:
            return Measured(None, str(error).strip().splitlines()[0])
        if not math.isfinite(scored.value):
            return Measured(None, f"its value is {scored.value} on these rows")
        return Measured(scored.value, None, scored.contributions, scored.worst)

    def drop(self, source: float | None, export: float | None) -> float | None:
        """How much worse the export is, in the metric's own unit; negative when it is better."""
        if source is None or export is None:
            return None
        drop = (source - export) * self.direction.sign
        return drop if math.isfinite(drop) else None


# --- what an output must be like ----------------------------------------------------------------------------------


def _problem_classes(output: TensorSpec) -> str | None:
    if not output.shape:
        return "needs one answer per row, and this output is a single number"
    return None


def _problem_scores(output: TensorSpec) -> str | None:
    if not output.dtype.is_float:
        return f"needs scores or probabilities (a float output), and this output is {output.dtype}"
    return _problem_classes(output)


def _problem_numbers(output: TensorSpec) -> str | None:
    if output.dtype is DType.STRING:
        return "needs numbers, and this output holds strings"
    return _problem_classes(output)


def _problem_top(k: int) -> Callable[[TensorSpec], str | None]:
    def problem(output: TensorSpec) -> str | None:
        classes = output.shape[-1] if len(output.shape) > 1 else 1
        if isinstance(classes, int) and classes <= k:
            return f"needs more than {k} classes on the last axis, and this output has {classes}"
        return _problem_scores(output)

    return problem


#: Name in model.yaml → metric.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(Direction.HIGHER, _problem_classes, "accuracy", of_classes=True),
    "top2": Metric(Direction.HIGHER, _problem_top(2), "top", (2,), of_classes=True),
    "top3": Metric(Direction.HIGHER, _problem_top(3), "top", (3,), of_classes=True),
    "top5": Metric(Direction.HIGHER, _problem_top(5), "top", (5,), of_classes=True),
    "top10": Metric(Direction.HIGHER, _problem_top(10), "top", (10,), of_classes=True),
    "macro_f1": Metric(Direction.HIGHER, _problem_classes, "macro_f1", of_classes=True),
    "roc_auc": Metric(Direction.HIGHER, _problem_scores, "roc_auc", of_classes=True),
    "log_loss": Metric(Direction.LOWER, _problem_scores, "log_loss", of_classes=True),
    "rmse": Metric(Direction.LOWER, _problem_numbers, "rmse"),
    "mae": Metric(Direction.LOWER, _problem_numbers, "mae"),
    "r2": Metric(Direction.HIGHER, _problem_numbers, "r2"),
    "ndcg": Metric(Direction.HIGHER, _problem_numbers, "ndcg", (None,), ranks=True),
    "ndcg5": Metric(Direction.HIGHER, _problem_numbers, "ndcg", (5,), ranks=True),
    "ndcg10": Metric(Direction.HIGHER, _problem_numbers, "ndcg", (10,), ranks=True),
}
