"""What training did otherwise with ids: a vocabulary in another order or shifted, other padding, an inverted mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.preprocess.categories import ids as vocabulary_ids
from tasks.parity.skew.causes import Cause, made_by
from tasks.parity.skew.compare import Case

#: Categories that are named, where several have other ids.
_NAMED = 3
#: Letters of a text that are shown.
_SHOWN = 60
#: Tokens that a text must have to be compared by its beginning: two special ones at either end, and two between.
_TELLING = 6


def explain(case: Case) -> Iterator[Cause]:
    """What is told from the ids, the likeliest first."""
    made, expected = case.made[case.name], case.expected
    step = next((step for step in case.steps if step.op in ("vocabulary", "tokenize")), None)
    if step is None:
        yield from _inverted(made, expected)
        return
    yield from _vocabulary(case) if step.op == "vocabulary" else _tokens(case)


def _vocabulary(case: Case) -> Iterator[Cause]:
    made, expected, raw = case.made[case.name].ravel(), case.expected.ravel(), case.source.ravel()
    if made.shape != expected.shape:
        return
    step = case.steps[0]
    table = vocabulary_ids(step, case.tensor, case.preprocessing.folder)
    known = np.array([value in table for value in raw], dtype=bool)
    apart = np.unique(expected[known].astype(np.int64) - made[known].astype(np.int64))
    unknown = np.unique(expected[~known]).tolist()
    if known.any() and apart.tolist() == [0]:
        said = f"id {unknown[0]}" if len(unknown) == 1 else f"the ids {', '.join(map(str, unknown[:_NAMED]))}"
        word = raw[~known][0]
        yield Cause("unknown_id", f"training gave values that are not in the vocabulary ({word!r}) {said}")
        return
    if known.any() and len(apart) == 1:
        yield Cause("vocabulary_shifted", f"training's ids are shifted by {int(apart[0]):+d} against the declared ones")
        return
    seen: dict[str, set[int]] = {}
    for value, there in zip(raw[known], expected[known].tolist(), strict=True):
        seen.setdefault(value, set()).add(int(there))
    if all(len(found) == 1 for found in seen.values()) and seen:
        moved = {value: next(iter(found)) for value, found in seen.items() if found != {table[value]}}
        named = ", ".join(
            f"{value!r} is {there} in training and {table[value]} here" for value, there in list(moved.items())[:_NAMED]
        )
        yield Cause("vocabulary", f"training had another vocabulary: {named}")


def _tokens(case: Case) -> Iterator[Cause]:
    made, expected, step = case.made[case.name], case.expected, case.steps[0]
    if made.shape != expected.shape:
        return
    present = _present(case, made)
    apart = np.unique((expected.astype(np.int64) - made.astype(np.int64))[present])
    padding = np.unique(expected[~present])
    whole = present.sum(axis=1) < made.shape[1]
    if not apart.any() and len(padding) == 1:
        yield Cause("padding_id", f"training padded with the id {padding[0]}, the declared step {made[~present][0]}")
    elif _moved(made, expected, present):
        yield Cause("padding_side", "training padded on the other side")
    elif len(apart) == 1:
        yield Cause("vocabulary_shifted", f"training's token ids are shifted by {int(apart[0]):+d}")
    elif whole.any() and not (made != expected)[whole].any():
        yield Cause("truncation", "only texts that fill the whole length differ: training cut them otherwise")
    elif (said := _special_tokens(made, expected, present)) is not None:
        yield Cause("special_tokens", said)
    else:
        row, place = (int(index) for index in np.argwhere(made != expected)[0])
        there = f"at place {place} it has {expected[row, place]}, {step.file} gives {made[row, place]}"
        yield Cause("tokenizer", f"training cut {str(case.source[row])[:_SHOWN]!r} into other tokens: {there}")


def _present(case: Case, made: NDArray[Any]) -> NDArray[np.bool_]:
    """Where tokens are: what does not change when the padding has another id."""
    other = replace(case.steps[0], pad_id=int(made.max()) + 1)
    again = made_by(case, (other, *case.steps[1:]))
    return np.ones(made.shape, dtype=bool) if again is None else np.asarray(again == made)


def _moved(made: NDArray[Any], expected: NDArray[Any], present: NDArray[np.bool_]) -> bool:
    """Whether the tokens are the same at the other end of each row."""
    left = bool(present[:, -1].all()) and not present[:, 0].all()
    for here, there, mask in zip(made, expected, present, strict=True):
        count = int(mask.sum())
        other = there[:count] if left else there[len(there) - count :]
        if not np.array_equal(here[mask], other):
            return False
    return not present.all()


def _special_tokens(made: NDArray[Any], expected: NDArray[Any], present: NDArray[np.bool_]) -> str | None:
    """Whether one begins like the other some tokens further on, in the texts that are long enough to tell."""
    long = present.sum(axis=1) >= min(_TELLING, made.shape[1])
    made, expected = made[long], expected[long]
    for ahead in (1, 2) if long.any() else ():
        if _starts(made, expected, ahead):
            return f"training's texts lack the {ahead} special tokens in front that the declared step puts there"
        if _starts(expected, made, ahead):
            return f"training's texts begin with {ahead} special tokens that the declared step does not put there"
    return None


def _starts(longer: NDArray[Any], shorter: NDArray[Any], ahead: int) -> bool:
    """Whether `longer` goes on some tokens further on as `shorter` begins."""
    part = _TELLING - 2 * ahead
    return np.array_equal(longer[:, ahead : ahead + part], shorter[:, :part])


def _inverted(made: NDArray[Any], expected: NDArray[Any]) -> Iterator[Cause]:
    """A mask or an indicator the other way round."""
    if made.shape != expected.shape or not set(np.unique(made).tolist()) <= {0, 1}:
        return
    if np.array_equal(expected.astype(np.int64), 1 - made.astype(np.int64)):
        yield Cause("mask_inverted", "training's is the other way round: 1 where the declared step says 0")
