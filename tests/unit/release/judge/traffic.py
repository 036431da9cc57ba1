"""Simulated traffic of two versions: their counters, as they would be read, look for look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tasks.contracts import Verdict
from tasks.release.contracts import ArmCounts, Decision, Judgement, Plan, Sample, ShadowReport
from tasks.release.judge import Judge
from tasks.spec import GuardsSpec

PLAN = Plan(
    steps=(1, 5, 25, 50, 100), bake_s=60, extend_s=600, min_requests=500, alpha=0.01, guards=GuardsSpec(), p99_ms=50
)
SHADOW = ShadowReport(verdict=Verdict.PASSED, requests=1000, distinct=1000, rows=1000)
MIX = {"cat": 0.5, "dog": 0.3, "bird": 0.2}


@dataclass(frozen=True)
class Behaviour:
    """What a version does with a request."""

    errors: float = 0.001
    slow: float = 0.01
    mix: Mapping[str, float] = field(default_factory=lambda: MIX)
    rows: int = 1
    nan: float = 0.0


class Traffic:
    """Two arms' counters; `second` lets one second of traffic pass."""

    def __init__(self, stable: Behaviour, canary: Behaviour, *, per_s: float = 500, seed: int = 0) -> None:
        self.stable, self.canary, self.per_s = stable, canary, per_s
        self.rng = np.random.default_rng(seed)
        self.at = 1_000_000.0
        self.counts = {arm: ArmCounts(incarnation="a", requests=0, errors=0, slow=0) for arm in ("stable", "canary")}

    def second(self, step: int, weight: float, seconds: float = 1.0) -> Sample:
        """What is read after so long."""
        self.at += seconds
        for arm, of, share in (("stable", self.stable, 1 - weight / 100), ("canary", self.canary, weight / 100)):
            self.counts[arm] = self._after(self.counts[arm], of, self.rng.poisson(self.per_s * share * seconds))
        return Sample(at=self.at, step=step, weight=weight, **self.counts)

    def restart(self, arm: str) -> None:
        name = self.counts[arm].incarnation + "'"
        self.counts[arm] = ArmCounts(incarnation=name, requests=0, errors=0, slow=0)

    def _after(self, before: ArmCounts, of: Behaviour, requests: int) -> ArmCounts:
        errors = int(self.rng.binomial(requests, of.errors))
        slow = int(self.rng.binomial(requests, of.slow))
        answered = requests - errors
        nan = int(self.rng.binomial(answered, of.nan)) * of.rows
        # Rows of one request are all of the same class: as dependent as they can be.
        drawn = self.rng.multinomial(answered - nan // of.rows, list(of.mix.values())) * of.rows
        mine = dict(before.predictions.get("label", {}))
        for name, count in zip(of.mix, drawn.tolist(), strict=True):
            mine[name] = mine.get(name, 0) + count
        return before.model_copy(
            update={
                "requests": before.requests + requests,
                "errors": before.errors + errors,
                "slow": before.slow + slow,
                "rows": before.rows + answered * of.rows,
                "answered": before.answered + answered,
                "invalid": before.invalid + nan,
                "predictions": {"label": mine},
            }
        )


@dataclass(frozen=True)
class Released:
    """How a simulated release went."""

    samples: tuple[Sample, ...]
    judgements: tuple[Judgement, ...]

    @property
    def decision(self) -> Decision:
        return self.judgements[-1].decision

    @property
    def promoted(self) -> bool:
        return self.decision is Decision.ADVANCE

    @property
    def codes(self) -> set[str]:
        return {finding.code for finding in self.judgements[-1].findings}

    @property
    def canary_requests(self) -> int:
        return max(0 if s.canary is None else s.canary.requests for s in self.samples)


def release(
    traffic: Traffic,
    plan: Plan = PLAN,
    shadow: ShadowReport | None = SHADOW,
    broken: Callable[[Sample, Traffic], Sample] = lambda sample, _: sample,
    looks: int = 6000,
) -> Released:
    """Do what the judge says until it ends. `broken` is what the judge gets to see instead."""
    judge, step, samples, judgements = Judge(plan, shadow), 0, [], []
    for _ in range(looks):
        sample = broken(traffic.second(step, plan.steps[step]), traffic)
        samples.append(sample)
        judgements.append(judge.look(sample))
        match judgements[-1].decision:
            case Decision.ROLL_BACK | Decision.HOLD:
                break
            case Decision.ADVANCE if step == len(plan.steps) - 1:
                break
            case Decision.ADVANCE:
                step += 1
    return Released(tuple(samples), tuple(judgements))


def with_plan(**changed: object) -> Plan:
    return PLAN.model_copy(update=changed)


def worse(**changed: object) -> Behaviour:
    return replace(Behaviour(), **changed)  # type: ignore[arg-type]
