"""Why an input differs: what the training code did otherwise, where that can be told.

A cause is only named when it explains every value: the steps are run again as the training code may have had them, and
what comes out is what it fed the model, up to rounding. Where nothing explains it, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PreprocessStep
from serving.preprocess import Preprocessing, problems
from serving.tensors import BadRequest
from tasks.contracts import Owner
from tasks.parity.skew.compare import Case, close, rounding

#: Rows on which a cause is tried first, being one of dozens; what holds there is then held against all of them.
_FEW = 1
#: Places of a row that are compared before the rest of it.
_PLACES = 16


@dataclass(frozen=True, slots=True)
class Cause:
    """`name` is stable, for machines; `sentence` says what training did, and what the steps do."""

    name: str
    sentence: str
    owner: Owner = Owner.MODEL


@dataclass(frozen=True, slots=True)
class Variant:
    """Other steps for one input, as training may have had them, and what to say if that is so."""

    cause: Cause
    steps: tuple[PreprocessStep, ...]


#: Each looks at a case that differs, and yields what explains it, the likeliest first.
Explanation = Callable[[Case], Iterator[Cause]]


def cause_of(case: Case) -> Cause | None:
    """The first cause that explains the difference."""
    from tasks.parity.skew import constants, ids, pictures

    few = case.only(_FEW)
    ops = {step.op for step in case.steps}
    tried: list[Iterator[Cause]] = [_rows(case)]
    if "decode_image" in ops:
        tried += [_explained(case, few, pictures.variants(few)), pictures.explain(case)]
    if ops & {"tokenize", "vocabulary"} or not case.steps:
        tried.append(ids.explain(case))
    if case.steps:
        tried += [_explained(case, few, _left_out(case)), constants.explain(case)]
    if "decode_image" in ops:
        tried.append(pictures.level(case))
    return next((cause for causes in tried for cause in causes), None)


def made_by(case: Case, steps: Sequence[PreprocessStep]) -> NDArray[Any] | None:
    """What other steps for this input give; None where they cannot run."""
    others = tuple(step for step in case.preprocessing.steps if step.input != case.name)
    signature = case.preprocessing.signature
    if problems(signature, (*others, *steps)):
        return None
    try:
        return Preprocessing((*others, *steps), signature, case.preprocessing.folder)(case.raw)[case.name]
    except (BadRequest, ValueError):
        return None


def _explained(case: Case, few: Case, variants: Iterator[Variant]) -> Iterator[Cause]:
    """The causes of those variants that give what training fed the model: for a few rows, then for all."""
    for variant in variants:
        if all(_gives(rows, variant.steps) for rows in (few, case)):
            yield variant.cause


def _gives(case: Case, steps: Sequence[PreprocessStep]) -> bool:
    made = made_by(case, steps)
    return made is not None and made.shape == case.expected.shape and bool(close(case, made, case.expected).all())


def _left_out(case: Case) -> Iterator[Variant]:
    """Training did not take one of the steps."""
    for step in case.steps:
        rest = tuple(other for other in case.steps if other is not step)
        if step.op not in ("decode_image", "tokenize", "vocabulary"):
            yield Variant(Cause("step_left_out", f"training did not take the step {step.op}"), rest)


def _rows(case: Case) -> Iterator[Cause]:
    """The same rows in another order: not preprocessing is wrong, but which rows were saved.

    Rows of a single id tell nothing: other ids are another vocabulary just as well.
    """
    made, expected = case.made[case.name], case.expected
    if made.shape != expected.shape or len(made) < 2 or made[0].size < 2 or expected.dtype.kind not in "biuf":
        return
    near = float(rounding(case, expected).max()) if expected.dtype.kind == "f" else 0.0
    ours, theirs = (array.reshape(len(array), -1).astype(np.float64) for array in (made, expected))
    places = np.linspace(0, ours.shape[1] - 1, min(ours.shape[1], _PLACES)).astype(np.int64)
    order: list[int] = []
    for row in theirs:
        # A few places leave few rows to be looked at as a whole.
        likely = np.flatnonzero((np.abs(ours[:, places] - row[places]) <= near).all(axis=1))
        here = next((int(other) for other in likely if (np.abs(ours[other] - row) <= near).all()), None)
        if here is None or here in order:
            return
        order.append(here)
    sentence = f"training's rows are the same in another order: its first is row {order[0]} of the evaluation data"
    yield Cause("rows_in_another_order", sentence, Owner.DATA)
