"""The export's answers, batch by batch, held against the source's: from what was asked to `Outcome`s.

In: what both were asked, what the export answered, what the source says. Out: an `Outcome` per batch for the judge, and
the export's own answers to whole pools for the task metrics. Rows that stand on an edge of the source are compared with
what the source answers beside them (`tasks.parity.edges`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec
from tasks.parity.compare import Comparison, Mismatch, compare
from tasks.parity.edges import excused, may_be_edges
from tasks.parity.exported import AskedExport
from tasks.parity.inputs import Batch, Batching, Part, Pool
from tasks.parity.reference import Reference

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one batch.

    `rows` are the pool's rows that were compared. `against_source` compares its outputs with the source model's,
    `against_itself` with what the export said of the same rows before; `looks_like` names, for an output that is
    wrong, another one whose values it has. A batch with an `error` has none of them.
    """

    batch: Batch
    pool: Pool
    rows: NDArray[np.int64]
    error: str | None = None
    against_source: Mapping[str, Comparison] = field(default_factory=dict)
    against_itself: Mapping[str, Comparison] = field(default_factory=dict)
    looks_like: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it was seen, as words."""
        return f"a batch of {self.batch.size} {self.pool.name} rows"


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that both models are asked: pools with their model inputs, and the plan of batches."""

    signature: Signature
    sizes: Batching
    pools: tuple[Pool, ...]
    inputs: tuple[Arrays, ...]
    plan: tuple[Batch, ...]


def outcomes_of(
    answered: AskedExport, asked: Asked, references: Sequence[Reference]
) -> tuple[tuple[Outcome, ...], tuple[Arrays | None, ...]]:
    """Every batch that was answered, compared; and the export's own answers to each whole pool, where complete."""
    outcomes: list[Outcome] = []
    own: list[dict[str, NDArray[Any]] | None] = [
        {name: np.empty_like(array, dtype=_dtype(name, asked.signature)) for name, array in found.answers.items()}
        for found in references
    ]
    for number, batch in enumerate(asked.plan):
        found = answered.answer(number)
        if found is None:
            if batch.part is Part.WHOLE:
                own[batch.pool] = None
            continue
        status, answers = found
        pool, rows = asked.pools[batch.pool], batch.rows(asked.pools[batch.pool].rows)
        mine = own[batch.pool]
        if status.error is not None:
            outcomes.append(Outcome(batch, pool, rows, error=status.error))
            if batch.part is Part.WHOLE:
                own[batch.pool] = None
            continue
        answers |= {name: np.empty(0, dtype=object) for name in status.unreadable}
        outcome = _compared(batch, pool, answers, rows, references[batch.pool], mine, asked.signature)
        outcomes.append(outcome)
        if batch.part is Part.WHOLE and mine is not None:
            shaped = (Mismatch.DTYPE, Mismatch.SHAPE)
            if any(comparison.mismatch in shaped for comparison in outcome.against_source.values()):
                own[batch.pool] = None
            else:
                for name, array in mine.items():
                    array[rows[: batch.kept]] = answers[name][: batch.kept]
    return tuple(outcomes), tuple(own)


def _compared(
    batch: Batch,
    pool: Pool,
    answers: Arrays,
    rows: NDArray[np.int64],
    source: Reference,
    own: Arrays | None,
    signature: Signature,
) -> Outcome:
    against_source = {tensor.name: _compare(answers[tensor.name], tensor, source, rows) for tensor in signature.outputs}
    against_itself = {}
    if own is not None and batch.part is not Part.WHOLE:
        steady = source.steady if batch.part is Part.AGAIN else None
        against_itself = {
            tensor.name: compare(
                own[tensor.name][rows],
                answers[tensor.name],
                tensor,
                source.allowance(tensor.name, rows) if steady is None else steady[tensor.name].allowance,
            )
            for tensor in signature.outputs
        }
    wrong = [tensor for tensor in signature.outputs if against_source[tensor.name].mismatch is not None]
    looks_like = {}
    for tensor in wrong:
        for other in signature.outputs:
            if other is not tensor and _compare(answers[tensor.name], other, source, rows).mismatch is None:
                looks_like[tensor.name] = other.name
                break
    return Outcome(batch, pool, rows, None, against_source, against_itself, looks_like)


def _compare(answer: NDArray[Any], tensor: TensorSpec, source: Reference, rows: NDArray[np.int64]) -> Comparison:
    return compare(source.answers[tensor.name][rows], answer, tensor, source.allowance(tensor.name, rows))


def _dtype(name: str, signature: Signature) -> np.dtype[Any]:
    return next(tensor.dtype.numpy for tensor in signature.outputs if tensor.name == name)


def excuse_edges(
    outcomes: tuple[Outcome, ...],
    answered: AskedExport,
    asked: Asked,
    references: Sequence[Reference],
    neighbours_of: Callable[[Arrays], tuple[Arrays, ...]],
) -> tuple[tuple[Outcome, ...], dict[int, int]]:
    """Compare again without the rows on which the source itself jumps; how many of them there are in each pool.

    `neighbours_of` answers some rows as the source does right beside them, several times.
    """
    judged, on_edge = list(outcomes), {}
    numbers = {batch: number for number, batch in enumerate(asked.plan)}
    for pool in range(len(asked.pools)):
        wrong = _wrong_rows([outcome for outcome in outcomes if outcome.batch.pool == pool])
        if wrong is None or not may_be_edges(len(wrong), asked.pools[pool].rows):
            continue
        inputs = {name: array[wrong] for name, array in asked.inputs[pool].items()}
        neighbours = neighbours_of(inputs)
        excused_rows: set[int] = set()
        for place, outcome in enumerate(outcomes):
            if outcome.batch.pool != pool or not _is_value_only(outcome):
                continue
            found = answered.answer(numbers[outcome.batch])
            if found is None:
                raise ValueError(f"batch {numbers[outcome.batch]} was compared and is gone")
            rows = outcome.batch.rows(asked.pools[pool].rows)
            here = np.flatnonzero(np.isin(rows, wrong))
            beside = np.searchsorted(wrong, rows[here])
            expected = {name: array[rows[here]] for name, array in references[pool].answers.items()}
            fine = excused(
                {name: array[here] for name, array in found[1].items()},
                expected,
                tuple({name: array[beside] for name, array in answers.items()} for answers in neighbours),
                asked.signature.outputs,
                {name: references[pool].allowance(name, rows[here]) for name in expected},
                {name: noise.beside for name, noise in references[pool].noise.items()},
            )
            excused_rows.update(int(row) for row in rows[here[fine]])
            kept = np.setdiff1d(np.arange(len(rows)), here[fine])
            judged[place] = _without(outcome, found[1], rows, kept, references[pool], asked.signature)
        if excused_rows:
            on_edge[pool] = len(excused_rows)
    return tuple(judged), on_edge


def _is_value_only(outcome: Outcome) -> bool:
    kinds = {found.mismatch for found in outcome.against_source.values()} - {None}
    return bool(kinds) and kinds <= {Mismatch.VALUE, Mismatch.NON_FINITE}


def _wrong_rows(outcomes: Sequence[Outcome]) -> NDArray[np.int64] | None:
    """Rows of the pool with a wrong value in any batch; None where none is, or something else than values is wrong."""
    wrong: set[int] = set()
    for outcome in outcomes:
        if outcome.error is not None or not any(found.mismatch for found in outcome.against_source.values()):
            continue
        if not _is_value_only(outcome):
            return None
        rows = outcome.batch.rows(outcome.pool.rows)
        for found in outcome.against_source.values():
            wrong.update(int(row) for row in rows[found.wrong_rows])
    return np.array(sorted(wrong), dtype=np.int64) if wrong else None


def _without(
    outcome: Outcome,
    answers: Arrays,
    rows: NDArray[np.int64],
    kept: NDArray[np.int64],
    source: Reference,
    signature: Signature,
) -> Outcome:
    return replace(
        outcome,
        rows=rows[kept],
        against_source={
            tensor.name: _compare(answers[tensor.name][kept], tensor, source, rows[kept])
            for tensor in signature.outputs
        },
        looks_like={},
    )
