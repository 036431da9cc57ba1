"""Missing or broken data: never a promotion."""

from __future__ import annotations

import pytest

from tasks.release.contracts import Decision
from tests.unit.release.judge.faults import FAULTS, Fault
from tests.unit.release.judge.traffic import Behaviour, Traffic, release, with_plan

#: A good version is through this in 60 looks. The first fault is at the 30th.
QUICK = with_plan(bake_s=10, extend_s=60, min_requests=100)


def test_without_a_fault_it_is_promoted() -> None:
    assert release(Traffic(Behaviour(), Behaviour(), per_s=3000), QUICK).promoted


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_never_promoted_and_what_ends_the_release_is_said(fault: Fault) -> None:
    done = release(Traffic(Behaviour(), fault.canary, per_s=3000), QUICK, broken=fault.through(), looks=120)
    assert not done.promoted
    assert done.judgements[-1].reason
    assert done.decision is Decision.WAIT or done.judgements[-1].findings


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.since > 1], ids=str)
def test_while_a_fault_is_new_a_step_may_end_on_what_was_seen_before_it_and_never_the_next(fault: Fault) -> None:
    done = release(Traffic(Behaviour(), fault.canary, per_s=3000), QUICK, broken=fault.through(), looks=60)
    steps = [sample.step for sample in done.samples]
    assert max(steps) <= steps[fault.since - 1] + ("restarts every" in fault.name) + 1
