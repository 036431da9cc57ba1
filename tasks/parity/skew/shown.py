"""Steps about which the saved rows say nothing: a fill where nothing is missing, an end that no value reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from serving.contract import PreprocessStep
from serving.preprocess.categories import ids
from tasks.parity.skew.causes import made_by
from tasks.parity.skew.compare import Case


def not_shown(case: Case) -> Iterator[str]:
    """A clause for each step of this input that has nothing to do in these rows."""
    for step in case.steps:
        if (why := _idle(case, step)) is not None:
            yield f"{step.op} of {case.name!r} ({why})"


def _idle(case: Case, step: PreprocessStep) -> str | None:
    """Why the step has nothing to do here; None where it has, or where it always has."""
    match step.op:
        case "impute" if not np.isnan(case.source).any():
            return "no value is missing"
        case "clip":
            without = made_by(case, tuple(other for other in case.steps if other is not step))
            if without is not None and np.array_equal(without, case.made[case.name]):
                return "no value lies beyond its ends"
        case "vocabulary" if step.unknown is not None:
            table = ids(step, case.tensor, case.preprocessing.folder)
            if all(value in table for value in case.source.ravel()):
                return "no value is unknown"
        case "tokenize" if step.truncate and made_by(case, (replace(step, truncate=None),)) is not None:
            return "no text is cut"
    return None
