"""`make bench-release`: the documented rules of other tools, and who is right in a scenario."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.release.__main__ import PARTS
from benchmarks.release.rules import ArgoRollouts, Flagger, Kayenta, Rule
from benchmarks.release.scenarios import SCENARIOS, Outcome
from tasks.release.contracts import Decision
from tests.unit.release.judge.traffic import Behaviour, Traffic, worse


def decisions(rule: Rule, canary: Behaviour, seconds: int, step: int = 2) -> list[Decision]:
    """Each that is not to wait, in one step with a quarter of the traffic."""
    traffic = Traffic(Behaviour(slow=0.005), canary, per_s=400)
    said = [rule.look(traffic.second(step, 25)) for _ in range(seconds)]
    return [decision for decision in said if decision is not Decision.WAIT]


def test_argo_advances_after_five_good_measurements_and_aborts_at_the_first_bad_one() -> None:
    assert decisions(ArgoRollouts(), Behaviour(), 301) == [Decision.ADVANCE]
    assert decisions(ArgoRollouts(), worse(errors=0.1), 61) == [Decision.ROLL_BACK]


def test_flagger_advances_every_good_minute_and_rolls_back_at_the_fifth_bad_check() -> None:
    assert decisions(Flagger(), worse(slow=0.005), 121) == [Decision.ADVANCE, Decision.ADVANCE]
    assert decisions(Flagger(), worse(errors=0.03, slow=0.005), 300) == []
    assert decisions(Flagger(), worse(errors=0.03, slow=0.005), 301) == [Decision.ROLL_BACK]


def test_kayenta_passes_equal_series_and_fails_what_is_clearly_higher() -> None:
    assert decisions(Kayenta(), worse(slow=0.005), 501) == [Decision.ADVANCE]
    assert decisions(Kayenta(), worse(errors=0.3), 501) == [Decision.ROLL_BACK]


def test_a_held_release_is_right_either_way_a_promotion_only_of_a_clean_version() -> None:
    faulty = next(scenario for scenario in SCENARIOS if scenario.faulty)
    clean = next(scenario for scenario in SCENARIOS if not scenario.faulty)
    right = {decision: Outcome(decision, 1, 0.0) for decision in Decision}
    assert right[Decision.HOLD].right(faulty)
    assert right[Decision.HOLD].right(clean)
    assert not right[Decision.ADVANCE].right(faulty)
    assert not right[Decision.ROLL_BACK].right(clean)


def test_there_are_at_least_twelve_scenarios_of_both_kinds() -> None:
    assert len(SCENARIOS) >= 12
    assert {scenario.faulty for scenario in SCENARIOS} == {True, False}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_there(part: str) -> None:
    module, _, function = PARTS[part].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
