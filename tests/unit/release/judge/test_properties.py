"""What holds of the judge whatever it gets to see."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts import Verdict
from tasks.release.contracts import ArmCounts, Decision, Sample, ShadowReport
from tasks.release.judge import Judge
from tests.unit.release.judge.traffic import SHADOW, with_plan

PLAN = with_plan(steps=(5, 50, 100), bake_s=3, extend_s=10, min_requests=20)

COUNTS = st.integers(0, 300)


@st.composite
def arms(draw: st.DrawFn) -> ArmCounts:
    requests = draw(COUNTS)
    rows = draw(COUNTS)
    classes = draw(st.dictionaries(st.sampled_from("abc"), COUNTS, max_size=3))
    return ArmCounts(
        incarnation=draw(st.sampled_from("xy")),
        requests=requests,
        errors=draw(st.integers(0, requests)),
        slow=draw(st.integers(0, requests)),
        rows=rows,
        answered=draw(st.integers(0, rows)),
        invalid=draw(st.integers(0, 5)),
        predictions={"label": classes} if draw(st.booleans()) else {},
    )


@st.composite
def rubbish(draw: st.DrawFn) -> Sample:
    return Sample(
        at=draw(st.floats(allow_nan=True, allow_infinity=True)),
        step=draw(st.integers(0, 2)),
        weight=draw(st.sampled_from([0.0, 5.0, 50.0, 100.0])),
        stable=draw(st.none() | arms()),
        canary=draw(st.none() | arms()),
    )


def good(look: int, step: int = 0, errors: int = 0) -> Sample:
    """The nth second of a version that does well, or of one with so many errors a second."""
    counts = {"requests": 100 * look, "slow": 0, "rows": 100 * look, "answered": 100 * look}
    predictions = {"label": {"a": 60 * look, "b": 40 * look}}
    return Sample(
        at=1000.0 + look,
        step=step,
        weight=PLAN.steps[step],
        stable=ArmCounts(incarnation="x", errors=0, predictions=predictions, **counts),
        canary=ArmCounts(incarnation="x", errors=errors * look, predictions=predictions, **counts),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rubbish(), max_size=12))
def test_the_same_looks_give_the_same_judgements(samples: list[Sample]) -> None:
    one, other = Judge(PLAN, SHADOW), Judge(PLAN, SHADOW)
    for sample in samples:
        assert one.look(sample).model_dump_json() == other.look(sample).model_dump_json()


@settings(max_examples=60, deadline=None)
@given(st.lists(rubbish(), max_size=12))
def test_whatever_is_seen_the_evidence_is_a_number(samples: list[Sample]) -> None:
    judge = Judge(PLAN, SHADOW)
    for sample in samples:
        judged = judge.look(sample)
        assert all(math.isfinite(guard.evidence) for guard in judged.guards)
        assert judged.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(rubbish(), max_size=10), st.sampled_from(["stable", "canary"]))
def test_a_look_at_which_an_arm_is_missing_never_advances(samples: list[Sample], arm: str) -> None:
    judge = Judge(PLAN, SHADOW)
    for look in range(1, 8):
        judge.look(good(look))
    for sample in samples:
        assert judge.look(sample.model_copy(update={arm: None})).decision is not Decision.ADVANCE


@settings(max_examples=40, deadline=None)
@given(arms())
def test_a_look_at_which_the_canary_began_again_never_advances(counts: ArmCounts) -> None:
    judge = Judge(PLAN, SHADOW)
    for look in range(1, 8):
        judge.look(good(look))
    began_again = good(8).model_copy(update={"canary": counts.model_copy(update={"incarnation": "again"})})
    assert judge.look(began_again).decision is not Decision.ADVANCE


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100), st.integers(0, 100))
def test_more_errors_never_are_less_evidence(errors: int, more: int) -> None:
    fewer, worse = sorted((errors, more))
    judges = {count: Judge(PLAN, SHADOW) for count in (fewer, worse)}
    for look in (1, 2):
        judged = {count: judge.look(good(look, errors=count)) for count, judge in judges.items()}
    assert judged[worse].guards[0].evidence >= judged[fewer].guards[0].evidence - 1e-9


@settings(max_examples=20, deadline=None)
@given(st.lists(rubbish(), max_size=6))
def test_a_rollback_stands_whatever_comes_later(samples: list[Sample]) -> None:
    judge = Judge(PLAN, SHADOW)
    for look in (1, 2, 3):
        condemned = judge.look(good(look, errors=100))
    assert condemned.decision is Decision.ROLL_BACK
    for sample in [*samples, good(9)]:
        assert judge.look(sample).decision is Decision.ROLL_BACK


def test_a_lost_look_loses_no_evidence_and_is_no_time_watched() -> None:
    whole, holed = Judge(PLAN, SHADOW), Judge(PLAN, SHADOW)
    for look in (1, 2, 3):
        without = good(look).model_copy(update={"canary": None})
        seen = whole.look(good(look)), holed.look(without if look == 2 else good(look))
    assert seen[1].canary_requests == seen[0].canary_requests
    assert (seen[0].baked_s, seen[1].baked_s) == (2.0, 0.0)


def test_what_is_missing_for_longer_than_the_limit_is_held_and_said_so() -> None:
    judge = Judge(PLAN, SHADOW)
    judge.look(good(1))
    for look in range(2, 13):
        judged = judge.look(good(look).model_copy(update={"canary": None}))
    assert judged.decision is Decision.HOLD
    assert {finding.code for finding in judged.findings} >= {"RELEASE_NO_DATA"}


def test_a_canary_that_restarts_with_errors_is_rolled_back_although_nothing_lies_between() -> None:
    judge = Judge(PLAN, SHADOW)
    for look in range(1, 12):
        sick = ArmCounts(incarnation=str(look), requests=20, errors=20, slow=0)
        judged = judge.look(good(look).model_copy(update={"canary": sick}))
    assert judged.decision is Decision.ROLL_BACK


def test_without_a_shadow_not_even_the_first_step_can_be_afforded() -> None:
    judged = Judge(PLAN, None).enter(0.0)
    assert judged.decision is Decision.HOLD
    assert [finding.code for finding in judged.findings] == ["RELEASE_HARM_NOT_EXCLUDED"]
    assert Judge(PLAN, None).look(good(1)).decision is Decision.HOLD


def test_a_thousand_good_shadow_requests_suffice_for_one_per_cent() -> None:
    assert Judge(with_plan(), SHADOW).enter(0.0).decision is Decision.ADVANCE


def test_a_step_does_not_grow_faster_than_the_evidence() -> None:
    plan = PLAN.model_copy(update={"steps": (0.1, 100), "min_requests": 1})
    few = ShadowReport(verdict=Verdict.PASSED, requests=10)
    judge = Judge(plan, few)
    for look in range(1, 6):
        sample = good(look).model_copy(update={"weight": 0.1})
        judged = judge.look(sample)
    assert judged.decision is Decision.WAIT
    assert judged.at_risk is not None
    assert judged.at_risk > plan.guards.harm
    assert judged.seconds_left is not None


def test_a_first_release_is_held_against_the_harm_that_was_agreed() -> None:
    first = SHADOW.model_copy(update={"kind": "first", "requests": 5000})
    plan = PLAN.model_copy(update={"steps": (100,)})
    judged = {}
    for errors in (0, 5):
        judge = Judge(plan, first)
        for look in range(1, 8):
            alone = good(look, errors=errors).model_copy(update={"stable": None, "weight": 100.0})
            judged[errors] = judge.look(alone)
    assert judged[0].decision is Decision.ADVANCE
    assert judged[5].decision is Decision.ROLL_BACK
    assert "without a version to compare with" in judged[5].findings[0].message


def test_the_last_step_is_held_against_what_the_stable_version_was_seen_to_do() -> None:
    judge = Judge(PLAN, SHADOW)
    for look in range(1, 30):
        judge.look(good(look, step=1))
    stable, canary = good(29).stable, good(29).canary
    assert stable is not None
    assert canary is not None
    for look in range(30, 34):
        failing = canary.model_copy(update={"requests": canary.requests + 9 * (look - 29), "errors": 9 * (look - 29)})
        judged = judge.look(Sample(at=1000.0 + look, step=2, weight=100, stable=stable, canary=failing))
    assert judged.decision is Decision.ROLL_BACK
