"""The judge beside the documented rules of Argo Rollouts, Flagger and Kayenta (`rules.py`), on the same traffic.

Each rule climbs the same ladder by its own decisions; its canary behaves, second for second, as the scenario says. A
scenario is *faulty* where the new version must not be promoted, *clean* where it must not be rolled back. Harmed are
requests that went wrong because of the canary: failures beyond what the stable version would have failed, and wrong or
slow answers where those are the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.release.rules import ArgoRollouts, Flagger, Kayenta, Rule, Slipway
from benchmarks.serving.figures import Figure
from tasks.release.contracts import Decision, Sample
from tests.unit.release.judge.traffic import MIX, PLAN, SHADOW, Behaviour, Traffic

RULES: dict[str, Callable[[], Rule]] = {
    "Slipway": lambda: Slipway(PLAN, SHADOW),
    "Argo Rollouts": ArgoRollouts,
    "Flagger": Flagger,
    "Kayenta": Kayenta,
}
PER_S = 500.0
#: Longer than any of them takes for the whole ladder (Kayenta: 5 runs of 500 s); who has not decided by then holds.
LIMIT_S = 3600
GOOD = Behaviour(errors=0.001, slow=0.005)


@dataclass(frozen=True)
class Scenario:
    """`at` says what both versions do at a second of the release and a step; `seen` what is seen of it."""

    name: str
    faulty: bool
    at: Callable[[int, int], tuple[Behaviour, Behaviour]]
    seen: Callable[[Sample, Traffic, int], Sample] = field(default=lambda sample, traffic, second: sample)


def _always(stable: Behaviour, canary: Behaviour) -> Callable[[int, int], tuple[Behaviour, Behaviour]]:
    return lambda second, step: (stable, canary)


def _worse(**changed: object) -> Callable[[int, int], tuple[Behaviour, Behaviour]]:
    return _always(GOOD, replace(GOOD, **changed))  # type: ignore[arg-type]


def _base(rate: float) -> Callable[[int, int], tuple[Behaviour, Behaviour]]:
    return _always(replace(GOOD, errors=rate), replace(GOOD, errors=rate))


def _incident(second: int, step: int) -> tuple[Behaviour, Behaviour]:
    """What both depend on fails one request in ten for a minute."""
    both = replace(GOOD, errors=0.1) if 90 <= second < 150 else GOOD
    return both, both


def _wavy(second: int, step: int) -> tuple[Behaviour, Behaviour]:
    both = replace(GOOD, errors=0.004 * (1 + np.sin(second / 40)))
    return both, both


def _breaks(second: int, step: int) -> tuple[Behaviour, Behaviour]:
    """It bears the first steps' traffic and no more."""
    return GOOD, replace(GOOD, errors=0.2) if step >= 2 else GOOD


def _without(sample: Sample, traffic: Traffic, second: int) -> Sample:
    return sample.model_copy(update={"canary": None}) if second >= 30 else sample


def _crashing(sample: Sample, traffic: Traffic, second: int) -> Sample:
    if second % 20 == 19:
        traffic.restart("canary")
    return sample


_MOVED = MIX | {"cat": MIX["cat"] - 0.05, "bird": MIX["bird"] + 0.05}

SCENARIOS = (
    Scenario("equal, 0.01 % errors", False, _base(0.0001)),
    Scenario("equal, 0.1 % errors", False, _base(0.001)),
    Scenario("equal, 2 % errors", False, _base(0.02)),
    Scenario("equal, 5 % errors", False, _base(0.05)),
    Scenario("equal, 1.2 % slow", False, _always(replace(GOOD, slow=0.012), replace(GOOD, slow=0.012))),
    Scenario("equal, an incident hits both", False, _incident),
    Scenario("equal, errors come and go in both", False, _wavy),
    Scenario("better: 2 % → 0.1 % errors", False, _always(replace(GOOD, errors=0.02), GOOD)),
    Scenario("errors 0.1 % → 2 %", True, _worse(errors=0.02)),
    Scenario("errors 0.1 % → 0.8 %", True, _worse(errors=0.008)),
    Scenario("errors 2 % → 8 %", True, _always(replace(GOOD, errors=0.02), replace(GOOD, errors=0.08))),
    Scenario("total outage", True, _worse(errors=1.0)),
    Scenario("breaks at a quarter of the traffic", True, _breaks),
    Scenario("slow 0.5 % → 5 %", True, _worse(slow=0.05)),
    Scenario("class mix moved by 5 points", True, _worse(mix=_MOVED)),
    Scenario("2 % of answers are NaN, with 200", True, _worse(nan=0.02)),
    Scenario("the canary's counts are lost", True, _worse(errors=0.02), _without),
    Scenario("the canary crashes every 20 s", True, _worse(), _crashing),
)


@dataclass(frozen=True)
class Outcome:
    """One rule's way through one release."""

    decision: Decision
    seconds: int
    harmed: float

    def right(self, scenario: Scenario) -> bool:
        return self.decision is not Decision.ADVANCE if scenario.faulty else self.decision is not Decision.ROLL_BACK


def climb(scenario: Scenario, rule: Rule, seed: int) -> Outcome:
    """Until it is promoted, rolled back or held, or nobody decides."""
    traffic, step, harmed = Traffic(GOOD, GOOD, per_s=PER_S, seed=seed), 0, 0.0
    for second in range(LIMIT_S):
        traffic.stable, traffic.canary = scenario.at(second, step)
        before = traffic.counts["canary"].requests
        sample = traffic.second(step, PLAN.steps[step])
        harmed += max(0, traffic.counts["canary"].requests - before) * _harm(traffic.stable, traffic.canary)
        decision = rule.look(scenario.seen(sample, traffic, second))
        if decision in {Decision.ROLL_BACK, Decision.HOLD} or (
            decision is Decision.ADVANCE and step == len(PLAN.steps) - 1
        ):
            return Outcome(decision, second + 1, harmed)
        step += decision is Decision.ADVANCE
    return Outcome(Decision.HOLD, LIMIT_S, harmed)


def _harm(stable: Behaviour, canary: Behaviour) -> float:
    """The share of the canary's requests that go wrong and would not have."""
    moved = sum(max(0.0, share - stable.mix[name]) for name, share in canary.mix.items())
    return max(0.0, canary.errors - stable.errors) + max(0.0, canary.slow - stable.slow) + canary.nan + moved


def measure(quick: bool) -> list[Figure]:
    """One figure for each scenario, then the sums."""
    seeds = range(1 if quick else 5)
    outcomes = {
        (scenario.name, rule): [climb(scenario, make(), seed) for seed in seeds]
        for scenario in SCENARIOS
        for rule, make in RULES.items()
    }
    figures = [
        Figure(
            scenario.name,
            "not promoted" if scenario.faulty else "not rolled back",
            _told(scenario, outcomes[scenario.name, "Slipway"]),
            all(outcome.right(scenario) for outcome in outcomes[scenario.name, "Slipway"]),
            peers={rule: _told(scenario, outcomes[scenario.name, rule]) for rule in RULES if rule != "Slipway"},
            values=_values(scenario, outcomes),
        )
        for scenario in SCENARIOS
    ]
    return [*figures, *_sums(outcomes)]


def _told(scenario: Scenario, outcomes: list[Outcome]) -> str:
    right = sum(outcome.right(scenario) for outcome in outcomes)
    seconds = np.median([outcome.seconds for outcome in outcomes])
    how = "/".join(sorted({_PAST[outcome.decision] for outcome in outcomes}))
    harmed = f", {np.median([outcome.harmed for outcome in outcomes]):,.0f} harmed" if scenario.faulty else ""
    return f"{right}/{len(outcomes)} right: {how} after {seconds:,.0f} s{harmed}"


_PAST = {Decision.ADVANCE: "promoted", Decision.ROLL_BACK: "rolled back", Decision.HOLD: "held"}


def _values(scenario: Scenario, outcomes: dict[tuple[str, str], list[Outcome]]) -> dict[str, float]:
    return {
        f"{rule}: {what}": value
        for rule in RULES
        for what, value in (
            ("right", float(np.mean([each.right(scenario) for each in outcomes[scenario.name, rule]]))),
            ("seconds", float(np.median([each.seconds for each in outcomes[scenario.name, rule]]))),
            ("harmed", float(np.median([each.harmed for each in outcomes[scenario.name, rule]]))),
        )
    }


def _sums(outcomes: dict[tuple[str, str], list[Outcome]]) -> list[Figure]:
    faulty = [scenario for scenario in SCENARIOS if scenario.faulty]
    clean = [scenario for scenario in SCENARIOS if not scenario.faulty]

    def right(rule: str, of: list[Scenario]) -> int:
        return sum(each.right(scenario) for scenario in of for each in outcomes[scenario.name, rule])

    def harmed(rule: str) -> float:
        return float(sum(np.median([each.harmed for each in outcomes[scenario.name, rule]]) for scenario in faulty))

    others = [rule for rule in RULES if rule != "Slipway"]
    runs = len(next(iter(outcomes.values())))
    return [
        Figure(
            "faulty versions kept out",
            "ahead",
            f"{right('Slipway', faulty)} of {len(faulty) * runs}",
            right("Slipway", faulty) > max(right(rule, faulty) for rule in others),
            peers={rule: f"{right(rule, faulty)} of {len(faulty) * runs}" for rule in others},
        ),
        Figure(
            "requests of users harmed, all faulty scenarios",
            "ahead",
            f"{harmed('Slipway'):,.0f}",
            harmed("Slipway") < min(harmed(rule) for rule in others),
            peers={rule: f"{harmed(rule):,.0f}" for rule in others},
        ),
        Figure(
            "clean versions rolled back",
            "none",
            f"{len(clean) * runs - right('Slipway', clean)} of {len(clean) * runs}",
            right("Slipway", clean) == len(clean) * runs,
            peers={rule: f"{len(clean) * runs - right(rule, clean)} of {len(clean) * runs}" for rule in others},
        ),
    ]
