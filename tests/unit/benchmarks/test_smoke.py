"""`make bench-smoke`: what counts as caught, and as falsely blocked."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.smoke import Outcome, summary
from tasks.contracts import Finding, SmokeReport, Verdict
from tests import samples
from tests.integration.smoke.seeded import BAD, GOOD

HOG = next(case for case in BAD if case.name == "memory hog")


def report(*findings: Finding, verdict: Verdict = Verdict.FAILED) -> SmokeReport:
    return samples.smoke_report(verdict=verdict, findings=findings)


def found(code: str, message: str = "killed while it answered golden samples", **changes: Any) -> Finding:
    return samples.finding(code, message=message, **changes)


def test_a_bad_image_is_caught_by_the_finding_with_its_name_alone_or_among_others() -> None:
    assert HOG.is_right(report(found("SMOKE_OUT_OF_MEMORY")))
    assert HOG.is_right(report(found("SMOKE_LATENCY"), found("SMOKE_OUT_OF_MEMORY")))


@pytest.mark.parametrize(
    "said",
    [
        report(verdict=Verdict.PASSED),
        report(found("SMOKE_CRASHED")),
        report(found("SMOKE_OUT_OF_MEMORY", "killed before it was ready")),
        report(found("SMOKE_OUT_OF_MEMORY", verdict=Verdict.PASSED), verdict=Verdict.PASSED),
        report(found("SMOKE_OUT_OF_MEMORY", verdict=Verdict.PASSED), found("SMOKE_LATENCY")),
    ],
    ids=["passed", "another finding", "another reason", "a remark", "a remark beside another finding"],
)
def test_anything_else_is_not_right(said: SmokeReport) -> None:
    assert not HOG.is_right(said)


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.INCONCLUSIVE])
def test_a_good_image_is_right_only_when_it_passes(verdict: Verdict) -> None:
    assert GOOD[0].is_right(report(verdict=Verdict.PASSED))
    assert not GOOD[0].is_right(report(found("SMOKE_LATENCY", verdict=verdict), verdict=verdict))


def outcome(
    expected: str | None, verdict: Verdict, *, right: bool, seconds: float = 1, emulated: bool = False
) -> Outcome:
    return Outcome("an image", "", "c4.large", emulated, expected, (), verdict, right, seconds)


def test_the_summary_counts_what_was_caught_by_name_what_was_blocked_falsely_and_what_it_costs() -> None:
    said = summary(
        [
            outcome("A", Verdict.FAILED, right=True, seconds=99),
            outcome("B", Verdict.FAILED, right=False),
            outcome("C", Verdict.PASSED, right=False),
            outcome(None, Verdict.PASSED, right=True, seconds=4),
            outcome(None, Verdict.PASSED, right=True, seconds=6, emulated=True),
            outcome(None, Verdict.INCONCLUSIVE, right=False, seconds=8, emulated=True),
        ],
        seconds=90,
    )
    assert said == [
        "caught 2 of 3 bad images, 1 of them with the right finding",
        "falsely blocked 1 of 3 good ones",
        "a good image on a native type: 4.0 s (median), 4.0 s at most",
        "a good image on an emulated type: 8.0 s (median), 8.0 s at most",
        "1.5 minutes with making the images",
    ]
