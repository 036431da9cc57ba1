"""Training/serving skew: what the declared steps make of raw rows, against what training really fed the model.

    compare.py     which elements differ by more than rounding
    causes.py      what the training code did otherwise, where it can be told
    pictures.py    of images: channels, interpolation, size, crop, axes
    constants.py   of numbers: scale, mean, standard deviation, fill
    ids.py         of categories and texts: other ids, shifted ids, other padding
    shown.py       steps about which these rows say nothing

In: the steps, the raw rows, and the model's inputs as the training code saved them (`evaluation.preprocessed`). Out: a
finding for each input that differs. All of parity is asked through the declared steps, so that a step which training
did not take would be wrong on both sides alike, and nobody would see it. This is where it is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from serving.preprocess import Preprocessing
from tasks.contracts import Finding, Owner, Verdict
from tasks.parity.skew.causes import Cause, cause_of
from tasks.parity.skew.compare import Case, Difference, difference
from tasks.parity.skew.shown import not_shown
from tasks.spec import PreprocessedSpec

Arrays = Mapping[str, NDArray[Any]]


def skew_findings(
    preprocessing: Preprocessing, columns: Arrays, fed: Arrays | None, wanted: PreprocessedSpec | None
) -> tuple[Finding, ...]:
    """What differs, or else a remark where the rows leave steps unshown; empty where training's inputs are not known.

    Args:
        preprocessing: the declared steps.
        columns: raw rows, as clients send them.
        fed: the model's inputs for the first of these rows, as training made them.
        wanted: which differences are allowed beside rounding.
    """
    if not fed:
        return ()
    rows = len(next(iter(fed.values())))
    raw = {tensor.name: columns[tensor.name][:rows] for tensor in preprocessing.raw.inputs}
    made = preprocessing(raw)
    found, idle = [], []
    for name, expected in fed.items():
        case = Case(name, raw, made, fed, preprocessing, wanted.atol if wanted else 0.0)
        apart = difference(case, made[name], expected)
        if apart is not None:
            found.append(_finding(case, apart, cause_of(case)))
        idle += [] if found else list(not_shown(case))
    if not found and idle:
        found.append(_remark(rows, idle))
    return tuple(found)


def _finding(case: Case, apart: Difference, cause: Cause | None) -> Finding:
    what = f"{apart.what}; {cause.sentence}" if cause else apart.what
    return Finding(
        code="PARITY_PREPROCESS_DIFFERS",
        owner=cause.owner if cause else Owner.MODEL,
        message=f"input {case.name!r} is not what training fed the model: {what}",
        advice="declare under `preprocess` what training did, or train with what is declared: the model would be "
        "served inputs that it was not trained on",
        evidence={"input": case.name, **apart.evidence, **({"cause": cause.name} if cause else {})},
    )


def _remark(rows: int, idle: list[str]) -> Finding:
    return Finding(
        code="PARITY_PREPROCESS_NOT_SHOWN",
        owner=Owner.DATA,
        verdict=Verdict.PASSED,
        message=f"the {rows} rows of evaluation.preprocessed do not show what training does in {', '.join(idle)}",
        advice="save what training fed the model for more rows, some of which give these steps something to do",
        evidence={"rows": rows, "steps": len(idle)},
    )


__all__ = ["skew_findings"]
