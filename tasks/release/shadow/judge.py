"""Recorded pairs → shadow's verdict. Pure: the same pairs give the same report.

    equivalent    every row within what parity allows both packages of one model
    retrained     the spec's metrics on labelled rows not worse than before (by `max_drop`, at `evaluation.confidence`:
                  the rule of `tasks.parity.noninferiority`), and the agreement that the spec declares
    first         golden samples and metrics as the package's own evidence has them

Whatever is missing blocks: a request that was not answered, a NaN, a metric without a value, fewer pairs than asked
for. Rows are counted once, however often they were sent.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.golden import differences
from tasks.contracts import Finding, Verdict
from tasks.load.objective import Held, held
from tasks.release.contracts import ShadowReport
from tasks.release.shadow import findings as say
from tasks.release.shadow.answers import Measure, measures, nan_rows, same_rows
from tasks.release.shadow.expectations import Expectations
from tasks.release.shadow.quality import quality_of
from tasks.release.shadow.replay import Fault, Pair, Replay
from tasks.release.shadow.requests import Arrays, Origin, distinct

#: Values of an input or output that evidence shows.
_SHOWN = 8


def judge(seen: Replay, wanted: Expectations, source: str = "") -> ShadowReport:
    """The report. `source` says for people where the requests are from."""
    if not seen.pairs and any(finding.verdict is not Verdict.PASSED for finding in wanted.remarks):
        # Nothing was sent, for reasons that say it all.
        verdict = Verdict.worst(finding.verdict for finding in wanted.remarks)
        return ShadowReport(verdict=verdict, findings=wanted.remarks, kind=wanted.kind, source=source)
    # (a pair without the old version's answer shows nothing where there is an old version)
    compared = [pair for pair in seen.pairs if pair.is_complete and (pair.old is None) is (wanted.old is None)]
    agreement = _agreement(compared, wanted)
    quality = quality_of(compared, wanted)
    found = [
        *wanted.remarks,
        *_unanswered(seen.pairs),
        *_slow(seen.pairs, wanted.p99_ms),
        *_nan(compared),
        *_golden(compared, wanted),
        *(_equal(compared, wanted) if wanted.kind == "equivalent" else ()),
        *(_agrees(agreement, wanted) if wanted.kind == "retrained" else ()),
        *quality.findings,
        *_enough(seen, len(compared), wanted),
    ]
    return ShadowReport(
        verdict=Verdict.worst([Verdict.PASSED, *(finding.verdict for finding in found)]),
        findings=tuple(found),
        requests=len(seen.pairs),
        distinct=distinct([pair.request for pair in seen.pairs]),
        rows=sum(pair.request.rows for pair in seen.pairs),
        errors=len(_failed(seen.pairs)),
        slow=sum(pair.new.took_ms > wanted.p99_ms for pair in seen.pairs),
        kind=wanted.kind,
        agreement=None if agreement is None else agreement.share,
        metrics=quality.values,
        source=source,
    )


# --- whether they were answered -----------------------------------------------------------------------------------


def _failed(pairs: Sequence[Pair]) -> list[Pair]:
    """What the new version did not answer and the old one did, or would have."""
    return [pair for pair in pairs if pair.new.fault and (pair.old is None or pair.old.fault is None)]


def _unanswered(pairs: Sequence[Pair]) -> Iterator[Finding]:
    failed = _failed(pairs)
    refused = [pair for pair in failed if pair.new.fault is Fault.REFUSED]
    others = [pair for pair in failed if pair.new.fault is not Fault.REFUSED]
    if refused:
        first = refused[0]
        named = next((name for name in first.request.inputs if repr(name) in first.new.said), None)
        yield say.refused(len(refused), len(pairs), _place(first) | {"said": first.new.said}, named)
    if others:
        first = others[0]
        kind = first.new.fault.value if first.new.fault is not None else ""
        yield say.not_answered(len(others), len(pairs), _place(first) | {"said": first.new.said, "fault": kind})


def _enough(seen: Replay, compared: int, wanted: Expectations) -> Iterator[Finding]:
    if compared >= wanted.asked:
        return
    silent = sum(pair.old is not None and pair.old.fault is not None for pair in seen.pairs)
    failed = sum(pair.new.fault is not None for pair in seen.pairs)
    whose = (("the old version left {} without an answer", silent), ("the new version left {} without one", failed))
    reasons = [seen.stopped, *(text.format(count) for text, count in whose if count)]
    yield say.too_few(compared, wanted.asked, "; ".join(filter(None, reasons)) or "there were no more")


def _slow(pairs: Sequence[Pair], limit_ms: float) -> Iterator[Finding]:
    """More slow requests than the objective leaves room for is the new version's fault, unless the old one shows the
    same. What was recorded earlier has no time."""
    times = [pair.new.took_ms for pair in pairs]
    late = sum(took > limit_ms for took in times)
    if held(len(times), late) is not Held.BROKEN:
        return
    before = [pair.old.took_ms for pair in pairs if pair.old is not None and pair.request.recorded is None]
    late_before = sum(took > limit_ms for took in before)
    if before and held(len(before), late_before) is Held.BROKEN:
        yield say.both_slow(late, late_before, len(times), limit_ms)
    else:
        yield say.slow(late, len(times), limit_ms, max(times))


# --- what they were answered --------------------------------------------------------------------------------------


def _nan(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Rows that are NaN now and were not before; of a first version, any."""
    rows, first = 0, None
    fresh = _Fresh()
    for pair in pairs:
        new = pair.new.outputs or {}
        wrong = nan_rows(new, pair.request.rows)
        if pair.old is not None:
            wrong &= ~nan_rows(pair.old.outputs or {}, pair.request.rows)
        rows += int((wrong & fresh.rows(pair)).sum())
        if first is None and wrong.any():
            output = next(name for name, array in new.items() if array.dtype.kind == "f" and np.isnan(array).any())
            first = _place(pair, int(wrong.argmax())) | {"output": output}
    if first is not None:
        yield say.not_a_number(rows, fresh.count, first)


def _golden(pairs: Sequence[Pair], wanted: Expectations) -> Iterator[Finding]:
    """The new package's golden samples, against what its own source model answered."""
    asked: dict[Any, Pair] = {}
    for pair in pairs:
        if pair.request.table.origin is Origin.GOLDEN:
            asked.setdefault(pair.request.key, pair)
    wrong: list[tuple[Pair, str]] = []
    for pair in asked.values():
        expected = pair.request.expected or {}
        if complaint := "; ".join(differences(pair.new.outputs or {}, expected, wanted.new.tolerances)):
            wrong.append((pair, complaint))
    if wrong:
        pair, complaint = wrong[0]
        yield say.golden_differs(len(wrong), len(asked), _place(pair) | {"complaint": complaint})


def _equal(pairs: Sequence[Pair], wanted: Expectations) -> Iterator[Finding]:
    """Every row of two packages of one model."""
    tolerances = wanted.tolerances
    if missing := [tensor.name for tensor in wanted.new.raw.outputs if tensor.name not in tolerances]:
        yield say.no_tolerance(missing)
        return
    rows, first, fresh = 0, None, _Fresh()
    for pair in pairs:
        old, new = _outputs(pair)
        same = same_rows(old, new, tolerances, pair.request.rows)
        rows += int((~same & fresh.rows(pair)).sum())
        if first is None and not same.all():
            output = next(name for name in old if differences(new, {name: old[name]}, tolerances))
            complaint = "; ".join(differences(new, old, tolerances))
            first = _difference(pair, int(same.argmin()), output, complaint)
    if first is None:
        return
    old_edges = wanted.old.edges if wanted.old is not None else 0.0
    edges = max(old_edges, wanted.new.edges)
    if edges and rows <= edges * fresh.count:
        yield say.on_edge(rows, fresh.count, edges)
    else:
        yield say.differs(rows, fresh.count, first)


@dataclass(frozen=True, slots=True)
class _Agreement:
    """How many rows have the same answer in every output, and the first that has another."""

    same: int
    rows: int
    first: say.Evidence | None

    @property
    def share(self) -> float:
        return self.same / self.rows


def _agreement(pairs: Sequence[Pair], wanted: Expectations) -> _Agreement | None:
    if wanted.old is None or not pairs:
        return None
    by = measures(wanted.new.raw, wanted.tolerances, wanted.evaluation)
    agreeing, first, fresh = 0, None, _Fresh()
    for pair in pairs:
        old, new = _outputs(pair)
        same = np.ones(pair.request.rows, dtype=bool)
        for measure in by:
            if measure.name not in old:  # a new output, which nobody reads yet
                continue
            found = measure.same(old[measure.name], new[measure.name], pair.request.rows)
            same &= found
            if first is None and not found.all():
                first = _difference(pair, int(found.argmin()), measure.name, _said(measure))
        agreeing += int((same & fresh.rows(pair)).sum())
    return _Agreement(agreeing, fresh.count, first)


def _agrees(found: _Agreement | None, wanted: Expectations) -> Iterator[Finding]:
    if wanted.agreement is not None and found is not None and found.share < wanted.agreement:
        yield say.disagrees(found.share, wanted.agreement, found.rows, found.first or {})


def _said(measure: Measure) -> str:
    return f"another class in {measure.name!r}" if measure.of_classes else f"another value in {measure.name!r}"


# --- places -------------------------------------------------------------------------------------------------------


class _Fresh:
    """Which rows come for the first time; `count` of them in all."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self.count = 0

    def rows(self, pair: Pair) -> NDArray[np.bool_]:
        table = id(pair.request.table)
        fresh = np.zeros(pair.request.rows, dtype=bool)
        for index, place in enumerate(pair.request.places):
            if (table, place) not in self._seen:
                self._seen.add((table, place))
                fresh[index] = True
        self.count += int(fresh.sum())
        return fresh


def _outputs(pair: Pair) -> tuple[Arrays, Arrays]:
    """What both answered; the pair is complete."""
    return (pair.old.outputs if pair.old is not None else None) or {}, pair.new.outputs or {}


def _place(pair: Pair, row: int | None = None) -> say.Evidence:
    """Where to look: the request by its name, and by its id in both servers' logs."""
    found: say.Evidence = {"request": pair.request.name, "id": pair.id, "inputs": ", ".join(pair.request.inputs)}
    if row is not None:
        found["row"] = pair.request.places[row]
    return found


def _difference(pair: Pair, row: int, output: str, complaint: str) -> say.Evidence:
    """Where, with both answers and what was asked, as far as a line holds them."""
    old, new = _outputs(pair)
    found = _place(pair, row) | {"output": output, "complaint": complaint}
    found["old"] = _shown(old.get(output), row)
    found["new"] = _shown(new.get(output), row)
    for name, array in pair.request.inputs.items():
        found[f"input.{name}"] = _shown(array, row)
    return found


def _shown(array: NDArray[Any] | None, row: int) -> str:
    """One row of an array, its beginning."""
    if array is None:
        return "nothing"
    values = np.asarray(array[row] if array.ndim else array).ravel()
    first = ", ".join(_value(value) for value in values[:_SHOWN].tolist())
    return first if values.size <= _SHOWN else f"{first}, … ({values.size} values)"


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return f"{value:.7g}" if isinstance(value, float) else reprlib.repr(value)
