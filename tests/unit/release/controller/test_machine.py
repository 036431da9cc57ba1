"""The state machine: every phase with every event, and what is to be done in each."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import PackagedFile
from tasks.contracts import Verdict, digest_of
from tasks.release.contracts import Decision, Judgement, Phase, Plan, Release, ShadowReport
from tasks.release.controller.events import (
    Approved,
    Entry,
    Followed,
    Judged,
    Later,
    Left,
    Opened,
    Prepared,
    Promoted,
    Refused,
    Reported,
    Resumed,
    RolledBack,
    Shadowed,
    State,
    Withdrawn,
)
from tasks.release.controller.machine import Action, IllegalEvent, apply, next_action
from tests import samples
from tests.rehearsal import deployed

NOW = datetime(2026, 11, 24, 16, tzinfo=UTC)
FOUND = (samples.finding("RELEASE_SOMETHING"),)
SHADOW = ShadowReport(verdict=Verdict.PASSED, requests=1000)


def judged(decision: Decision, step: int = 0) -> Judged:
    found = FOUND if decision in {Decision.HOLD, Decision.ROLL_BACK} else ()
    return Judged(judgement=Judgement(at=1.0, step=step, decision=decision, findings=found))


def state(phase: Phase, *, step: int = 0, first: bool = False, approval: bool = False, shadowed: bool = False) -> State:
    release = Release(
        id="digits-20261124T160000000Z-01234567",
        model="digits",
        candidate=deployed(2),
        stable=None if first else deployed(1),
        plan=Plan(steps=(1, 50, 100), bake_s=60, extend_s=600, min_requests=500, alpha=0.01, p99_ms=50),
        phase=phase,
        step=step,
        started_at=NOW,
        started_by="anna",
        changed_at=NOW,
        shadow=SHADOW if shadowed else None,
    )
    return State(
        release=release, port=8080, approval=approval, approved_by=None, recorded=None, sequence=4, last_by="anna"
    )


def after(before: State, event: Later) -> State:
    return apply(before, Entry(sequence=before.sequence + 1, at=NOW, by="ben", event=event))


#: Event → phase that it happens in → phase after it. What is not here is illegal.
LEADS: dict[str, tuple[Later, dict[Phase, Phase]]] = {
    "prepared": (Prepared(golden_rows=16), {Phase.PREPARING: Phase.SHADOW}),
    "refused": (
        Refused(findings=FOUND),
        dict.fromkeys([Phase.PREPARING, Phase.SHADOW, Phase.PROMOTING], Phase.REFUSED),
    ),
    "shadowed": (Shadowed(report=SHADOW), {Phase.SHADOW: Phase.CANARY}),
    "shadow failed": (
        Shadowed(report=ShadowReport(verdict=Verdict.FAILED, findings=FOUND)),
        {Phase.SHADOW: Phase.REFUSED},
    ),
    "shadow does not know": (
        Shadowed(report=ShadowReport(verdict=Verdict.INCONCLUSIVE)),
        {Phase.SHADOW: Phase.REFUSED},
    ),
    "approved": (Approved(), {Phase.PREPARING: Phase.PREPARING, Phase.SHADOW: Phase.SHADOW}),
    "advance": (judged(Decision.ADVANCE), {Phase.CANARY: Phase.CANARY}),
    "judged worse": (judged(Decision.ROLL_BACK), {Phase.CANARY: Phase.ROLLING_BACK}),
    "undecided": (judged(Decision.HOLD), {Phase.CANARY: Phase.HELD}),
    "wait": (judged(Decision.WAIT), {}),
    "left": (Left(findings=FOUND), {Phase.CANARY: Phase.HELD}),
    "resumed": (
        Resumed(extend_s=900),
        {
            Phase.PREPARING: Phase.PREPARING,
            Phase.SHADOW: Phase.SHADOW,
            Phase.CANARY: Phase.CANARY,
            Phase.PROMOTING: Phase.PROMOTING,
            Phase.ROLLING_BACK: Phase.ROLLING_BACK,
            Phase.HELD: Phase.CANARY,
        },
    ),
    "withdrawn": (
        Withdrawn(findings=FOUND),
        dict.fromkeys([Phase.PREPARING, Phase.SHADOW, Phase.CANARY, Phase.PROMOTING, Phase.HELD], Phase.ROLLING_BACK),
    ),
    "promoted": (Promoted(), {Phase.PROMOTING: Phase.PROMOTED}),
    "rolled back": (RolledBack(), {Phase.ROLLING_BACK: Phase.ROLLED_BACK}),
    "reported": (
        Reported(report=PackagedFile("release.html", digest_of("page"), 1)),
        {phase: phase for phase in Phase if phase.is_over},
    ),
    "followed": (Followed(run_id="run"), {phase: phase for phase in Phase if phase.is_over}),
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("name", LEADS)
def test_every_event_leads_from_every_phase_where_it_should_or_is_illegal(name: str, phase: Phase) -> None:
    event, leads = LEADS[name]
    if phase in leads:
        assert after(state(phase), event).release.phase is leads[phase]
    else:
        with pytest.raises(IllegalEvent):
            after(state(phase), event)


@pytest.mark.parametrize(
    ("phase", "action"),
    [
        (Phase.PREPARING, Action.PREPARE),
        (Phase.SHADOW, Action.SHADOW),
        (Phase.CANARY, Action.LOOK),
        (Phase.PROMOTING, Action.PROMOTE),
        (Phase.ROLLING_BACK, Action.ROLL_BACK),
        (Phase.HELD, Action.HOLD),
        (Phase.PROMOTED, Action.REST),
        (Phase.ROLLED_BACK, Action.REST),
        (Phase.REFUSED, Action.REST),
    ],
)
def test_every_phase_has_one_thing_to_do(phase: Phase, action: Action) -> None:
    assert next_action(state(phase).release, None) is action


@pytest.mark.parametrize("decision", [Decision.ADVANCE, Decision.ROLL_BACK, Decision.HOLD])
def test_a_decision_that_nobody_wrote_down_is_acted_on_before_the_next_look(decision: Decision) -> None:
    assert next_action(state(Phase.CANARY).release, judged(decision).judgement) is Action.DECIDE


def test_a_decision_of_an_earlier_step_was_acted_on() -> None:
    assert next_action(state(Phase.CANARY, step=1).release, judged(Decision.ADVANCE).judgement) is Action.LOOK


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CANARY])
@pytest.mark.parametrize("decision", Decision)
def test_evidence_decides_nothing_outside_of_a_canary(phase: Phase, decision: Decision) -> None:
    release = state(phase).release
    assert next_action(release, judged(decision).judgement) is next_action(release, None)


def test_the_last_step_leads_to_promotion_and_no_other_does() -> None:
    phases = [after(state(Phase.CANARY, step=step), judged(Decision.ADVANCE, step)).release for step in range(3)]
    assert [(item.phase, item.step) for item in phases] == [(Phase.CANARY, 1), (Phase.CANARY, 2), (Phase.PROMOTING, 2)]


def test_a_model_s_first_package_is_promoted_without_a_canary() -> None:
    assert after(state(Phase.SHADOW, first=True), Shadowed(report=SHADOW)).release.phase is Phase.PROMOTING


def test_shadow_waits_for_the_person_who_has_to_agree() -> None:
    waiting = after(state(Phase.SHADOW, approval=True), Shadowed(report=SHADOW))
    assert (waiting.release.phase, next_action(waiting.release, None)) == (Phase.SHADOW, Action.ASK)
    agreed = after(waiting, Approved())
    assert (agreed.release.phase, agreed.approved_by) == (Phase.CANARY, "ben")


def test_who_agreed_beforehand_is_not_asked_again() -> None:
    agreed = after(state(Phase.PREPARING, approval=True), Approved())
    shadowing = after(agreed, Prepared(golden_rows=1))
    assert after(shadowing, Shadowed(report=SHADOW)).release.phase is Phase.CANARY


@pytest.mark.parametrize("phase", Phase)
def test_users_meet_the_new_version_only_in_a_canary_and_after_it(phase: Phase) -> None:
    weight = {Phase.CANARY: 50.0, Phase.PROMOTING: 100.0, Phase.PROMOTED: 100.0}.get(phase, 0.0)
    assert state(phase, step=1).release.weight == weight


def test_why_it_ended_and_what_was_wrong_on_the_way_back_are_both_kept() -> None:
    back = after(state(Phase.CANARY), judged(Decision.ROLL_BACK))
    ended = after(back, RolledBack(findings=(samples.finding("RELEASE_GOLDEN_DIFFERS"),)))
    assert [item.code for item in ended.release.findings] == ["RELEASE_SOMETHING", "RELEASE_GOLDEN_DIFFERS"]


def test_going_on_gives_a_held_step_more_time_and_changes_nothing_else_of_the_plan() -> None:
    before = state(Phase.HELD, step=1)
    resumed = after(before, Resumed(extend_s=900)).release
    assert resumed.plan == before.release.plan.model_copy(update={"extend_s": 900})
    assert (resumed.step, resumed.findings) == (1, ())


def test_a_journal_with_a_missing_entry_is_none() -> None:
    with pytest.raises(IllegalEvent, match="one is missing"):
        apply(state(Phase.PREPARING), Entry(sequence=6, at=NOW, by="anna", event=Prepared(golden_rows=1)))


def test_a_journal_begins_with_opened_and_has_it_once() -> None:
    opened = Opened(release=state(Phase.PREPARING).release, port=8080)
    with pytest.raises(IllegalEvent):
        apply(state(Phase.PREPARING), Entry(sequence=5, at=NOW, by="anna", event=opened))
    with pytest.raises(IllegalEvent):
        apply(None, Entry(sequence=0, at=NOW, by="anna", event=Promoted()))


@given(st.lists(st.sampled_from(sorted(LEADS)), max_size=40), st.booleans(), st.booleans())
def test_no_order_of_events_leads_to_users_without_shadow_and_approval(
    names: list[str], first: bool, approval: bool
) -> None:
    now = state(Phase.PREPARING, first=first, approval=approval)
    for name in names:
        try:
            now = after(now, LEADS[name][0])
        except IllegalEvent:
            continue
        if now.release.weight > 0:
            assert now.release.shadow is not None
            assert not approval or now.approved_by is not None
