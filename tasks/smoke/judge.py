"""From what was seen to a verdict: a function of values, no container in it.

In: an `Observation` and the budgets of the spec. Out: findings, and figures for the report. A pass needs every figure
to be there: ready in time, golden answers right alone and at once, a p99 within its budget, peak memory. What was not
seen is `inconclusive`, and what died is told by its first cause: the requests that broke because a container was
killed for memory are not a second finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tasks.contracts import Finding, Owner, ProcessorProof, SmokeFigures, Verdict
from tasks.smoke.capacity import remarks
from tasks.smoke.claims import capped, instruction_set, processor
from tasks.smoke.findings import Budgets, death, latency, start
from tasks.smoke.load import Answers
from tasks.smoke.misanswered import answers
from tasks.smoke.observation import Observation


def judge(seen: Observation, budgets: Budgets) -> tuple[Verdict, tuple[Finding, ...]]:
    """The verdict and all findings, the worst first."""
    died = death(seen)
    findings = [died] if died else [*start(seen, budgets), *answers(seen), *latency(seen, budgets)]
    if not any(finding.verdict is not Verdict.PASSED for finding in findings):
        findings += _gaps(seen)
    for tried in seen.instruction_sets:
        findings += instruction_set(tried)
    findings += [*capped(seen), *remarks(seen)]
    return Verdict.worst((Verdict.PASSED, *(finding.verdict for finding in findings))), worst_first(findings)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What fails before what is inconclusive before what is a remark; otherwise in the order they came."""
    order = [Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED]
    return tuple(sorted(findings, key=lambda finding: order.index(finding.verdict)))


def figures(seen: Observation) -> SmokeFigures:
    """What goes into the report, whatever the verdict."""
    return SmokeFigures(
        cold_start_s=seen.ready_after_s,
        p50_ms=seen.latency.percentile(0.50) if seen.latency else None,
        p99_ms=seen.latency.percentile(0.99) if seen.latency else None,
        requests=sum(asked.asked for asked in seen.phases.values()),
        peak_memory_bytes=seen.peak_memory_bytes,
        golden_rows=seen.golden_rows,
        concurrency=seen.concurrent.clients if seen.concurrent else 0,
    )


def processors(seen: Observation) -> tuple[ProcessorProof, ...]:
    """What was proven of each of the type's processors, in the catalogue's order."""
    right_here = seen.exit is None and bool(seen.phases) and all(map(_all_right, seen.phases.values()))
    return tuple(processor(tried, right_here=right_here) for tried in seen.instruction_sets)


def _gaps(seen: Observation) -> list[Finding]:
    """Whatever a pass needs and is not there. Looked at only where nothing else explains it."""
    p99 = seen.latency.percentile(0.99) if seen.latency else None
    needed = {
        "time until ready": seen.ready_after_s is not None and math.isfinite(seen.ready_after_s),
        "golden answers": _all_right(seen.golden),
        "golden answers at once": _all_right(seen.concurrent) and bool(seen.concurrent and seen.concurrent.clients > 1),
        "golden answers while timed": _all_right(seen.timed),
        "answers under load": seen.loaded is None or _all_right(seen.loaded),
        "answers under peak load": seen.pressed is None or _all_right(seen.pressed),
        "p99": p99 is not None and math.isfinite(p99),
        "peak memory": bool(seen.peak_memory_bytes),
        "golden rows": seen.golden_rows > 0,
    }
    return [
        Finding(
            code="SMOKE_NO_FIGURE",
            owner=Owner.PLATFORM,
            verdict=Verdict.INCONCLUSIVE,
            message=f"smoke has no figure for: {name}",
            advice="run smoke again with --fresh; if it stays away, the engine does not tell it on this host "
            "(docs/instance-types.md says what smoke reads)",
        )
        for name, there in needed.items()
        if not there
    ]


def _all_right(given: Answers | None) -> bool:
    return given is not None and 0 < given.asked == given.right
