"""One batch that shows what is wrong with an export: the fewest rows that do.

In: what both models were asked and answered. Out: a `Case`, or none where no batch shows it (a task metric that drops
while every value is within its allowance). Where a larger batch is wrong, its wrong rows are asked for again, alone: if
they are wrong alone too, they are the case, and otherwise the whole batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.contracts import Finding, Verdict
from tasks.parity.compare import compare
from tasks.parity.exported import AskedExport
from tasks.parity.inputs import Batch, Part
from tasks.parity.outcomes import Arrays, Asked, Outcome
from tasks.parity.reference import Reference

#: Findings about what the file declares: other names, a size that is fixed. A server that goes by them refuses a batch.
_DECLARED = ("PARITY_INPUT_", "PARITY_OUTPUT_", "PARITY_BATCH_FROZEN", "PARITY_LENGTH_FROZEN")
#: Asks the export in a process of its own for one batch of model inputs.
Ask = Callable[[Arrays, Batch], AskedExport]


@dataclass(frozen=True, slots=True)
class Case:
    """Model inputs, the source's answers, how far an answer may lie from them, and what the export said.

    `allowed` has the shapes of `expected`, 0 where values must be equal. `actual` is empty where there was an `error`.
    """

    place: str
    inputs: Arrays
    expected: Arrays
    allowed: Arrays
    actual: Arrays
    error: str | None = None


def failing_case(
    answered: AskedExport,
    asked: Asked,
    outcomes: Sequence[Outcome],
    references: Sequence[Reference],
    findings: Sequence[Finding],
    ask: Ask,
) -> Case | None:
    """The case to reproduce, of an export about which `findings` were made."""
    codes = [finding.code for finding in findings if finding.verdict is not Verdict.PASSED]
    if not codes:
        return None
    wrong = [outcome for outcome in outcomes if _is_wrong(outcome)]
    if not wrong:
        stopped = answered.load_error is not None or answered.ended is not None
        if not stopped and not any(code.startswith(_DECLARED) for code in codes):
            return None
        return _never_answered(answered, asked, references)
    worst = min(wrong, key=lambda outcome: (outcome.batch.size, -_margin(outcome)))
    pool = worst.batch.pool
    if worst.error is None and worst.batch.size > asked.sizes.sizes[0]:
        rows = _wrong_rows(worst)
        # Filled up to the least size that the signature allows.
        fewest = np.resize(rows, max(asked.sizes.sizes[0], min(len(rows), 1)))
        alone = _asked_alone(fewest, pool, asked, references, ask)
        if alone is not None:
            return alone
    number = asked.plan.index(worst.batch)
    found = answered.answer(number)
    rows = worst.batch.rows(asked.pools[pool].rows)
    actual = {} if found is None or worst.error is not None else found[1]
    place = worst.place if len(rows) > 1 else _said(rows, worst.pool.name)
    return _case(place, rows, pool, asked, references, actual, worst.error)


def _asked_alone(
    rows: NDArray[np.int64], pool: int, asked: Asked, references: Sequence[Reference], ask: Ask
) -> Case | None:
    """These rows by themselves, if the export is wrong about them then too."""
    inputs = {name: array[rows] for name, array in asked.inputs[pool].items()}
    again = ask(inputs, Batch(0, 0, len(rows), len(rows), Part.WHOLE)).answer(0)
    if again is None or again[0].error is not None or again[0].unreadable:
        return None
    case = _case(_said(rows, asked.pools[pool].name), rows, pool, asked, references, again[1], None)
    source = references[pool]
    right = all(
        compare(case.expected[tensor.name], again[1][tensor.name], tensor, source.allowance(tensor.name, rows)).mismatch
        is None
        for tensor in asked.signature.outputs
    )
    return None if right else case


def _said(rows: NDArray[np.int64], pool: str) -> str:
    which = f"row {rows[0]}" if len(set(rows.tolist())) == 1 else f"rows {', '.join(map(str, rows[:4]))}"
    return f"{which} of the {pool} rows"


def _never_answered(answered: AskedExport, asked: Asked, references: Sequence[Reference]) -> Case | None:
    """The batch at which it ended, or the first one where it could not be loaded or declares something else."""
    number = answered.ended.batch or 0 if answered.ended is not None else 0
    batch = asked.plan[number]
    found = answered.answer(number)
    rows = batch.rows(asked.pools[batch.pool].rows)
    error = answered.load_error or (answered.ended.how if answered.ended is not None else None)
    place = f"a batch of {batch.size} {asked.pools[batch.pool].name} rows"
    return _case(place, rows, batch.pool, asked, references, {} if found is None else found[1], error)


def _case(
    place: str,
    rows: NDArray[np.int64],
    pool: int,
    asked: Asked,
    references: Sequence[Reference],
    actual: Arrays,
    error: str | None,
) -> Case:
    source = references[pool]
    expected = {name: array[rows] for name, array in source.answers.items()}
    return Case(
        place=place,
        inputs={name: array[rows] for name, array in asked.inputs[pool].items()},
        expected=expected,
        allowed=_allowed(expected, source, rows, asked.signature),
        actual=actual,
        error=error,
    )


def _allowed(
    expected: Arrays, source: Reference, rows: NDArray[np.int64], signature: Signature
) -> Mapping[str, NDArray[Any]]:
    return {
        tensor.name: source.allowance(tensor.name, rows).of(expected[tensor.name].astype(np.float64))
        if tensor.dtype.is_float or tensor.name in source.whole
        else np.zeros(expected[tensor.name].shape)
        for tensor in signature.outputs
    }


def _is_wrong(outcome: Outcome) -> bool:
    return outcome.error is not None or any(
        found.mismatch is not None for found in (*outcome.against_source.values(), *outcome.against_itself.values())
    )


def _margin(outcome: Outcome) -> float:
    return max((found.worst_margin or 0.0 for found in outcome.against_source.values()), default=0.0)


def _wrong_rows(outcome: Outcome) -> NDArray[np.int64]:
    """The pool's rows that are wrong in any output, the worst one first; all where it is only unlike itself."""
    marked = np.zeros(len(outcome.rows), dtype=bool)
    first: list[int] = []
    for found in outcome.against_source.values():
        if found.mismatch is not None:
            marked |= found.wrong_rows
            first += [found.worst.row] if found.worst is not None else []
    places = [*first, *np.flatnonzero(marked).tolist()] or list(range(len(outcome.rows)))
    return outcome.rows[list(dict.fromkeys(places))]
