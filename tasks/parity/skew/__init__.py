"""Training/serving skew: what the declared steps make of raw rows, against what training really fed the model.

    compare.py     which elements differ by more than rounding
    causes.py      what the training code did otherwise, where it can be told
    pictures.py    of images: channels, interpolation, size, crop, axes
    constants.py   of numbers: scale, mean, standard deviation, fill
    ids.py         of categories and texts: other ids, shifted ids, other padding

In: the steps, the raw rows, and the model's inputs as the training code saved them (`evaluation.preprocessed`). Out: a
finding for each input that differs. All of parity is asked through the declared steps, so that a step which training
did not take would be wrong on both sides alike, and nobody would see it. This is where it is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from serving.preprocess import Preprocessing
from tasks.contracts import Finding, Owner
from tasks.parity.skew.causes import Cause, cause_of
from tasks.parity.skew.compare import Case, Difference, difference
from tasks.spec import PreprocessedSpec

Arrays = Mapping[str, NDArray[Any]]


def skew_findings(
    preprocessing: Preprocessing, columns: Arrays, fed: Arrays | None, wanted: PreprocessedSpec | None
) -> tuple[Finding, ...]:
    """What differs; empty where nothing does, or where training's own inputs are not known.

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
    found = []
    for name, expected in fed.items():
        case = Case(name, raw, made, fed, preprocessing, wanted.atol if wanted else 0.0)
        apart = difference(case, made[name], expected)
        if apart is not None:
            found.append(_finding(case, apart, cause_of(case)))
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


__all__ = ["skew_findings"]
