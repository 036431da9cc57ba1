"""Releases made by hand, with their traces and judgements: what the page and the terminal are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.contracts import Finding, Owner, Verdict, digest_of
from tasks.release.contracts import (
    ArmCounts,
    Decision,
    Deployed,
    GuardState,
    Judgement,
    Phase,
    Plan,
    Release,
    Sample,
    ShadowReport,
    Written,
)

BEGUN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
PLAN = Plan(steps=(1, 5, 25, 50, 100), bake_s=60, extend_s=600, min_requests=500, alpha=0.01, p99_ms=50)
LOOKS = 30  # of each step, one a second


def deployed(name: str, version: str | None) -> Deployed:
    return Deployed(
        package=digest_of(name),
        image=digest_of(["image", name]),
        reference=f"slipway/digits:{name}",
        format="onnx",
        version=version,
    )


def counts(requests: int, errors: int = 0, slow: int = 0, incarnation: str = "a", **mix: int) -> ArmCounts:
    predictions: Mapping[str, Mapping[str, int]] = {"logits": mix} if mix else {}
    return ArmCounts(
        incarnation=incarnation,
        requests=requests,
        errors=errors,
        slow=slow,
        rows=requests,
        answered=requests,
        predictions=predictions,
    )


def trace(steps: int = 5, canary_errors: float = 0.0, moved: float = 0.0) -> list[Sample]:
    """1,000 requests a second; one in a hundred of the stable version's is slow, one in five hundred fails. Of the
    answers a half is class `cat`, of the canary's `moved` more."""
    found, stable, canary = [], [0, 0, 0], [0, 0, 0]
    for look in range(steps * LOOKS + 1):
        step = max(look - 1, 0) // LOOKS
        weight = PLAN.steps[step]
        if look:
            for arm, share, errors in ((stable, 1 - weight / 100, 0.002), (canary, weight / 100, canary_errors)):
                arm[0] += round(1000 * share)
                arm[1] = round(arm[0] * errors)
                arm[2] = max(round(arm[0] * 0.01), arm[1])
        cats, cats_of_canary = stable[0] // 2, round(canary[0] * (0.5 + moved))
        found.append(
            Sample(
                at=BEGUN.timestamp() + look,
                step=step,
                weight=weight if look else 0,
                stable=counts(*stable, cat=cats, dog=stable[0] - cats),
                canary=counts(*canary, cat=cats_of_canary, dog=canary[0] - cats_of_canary),
            )
        )
    return found


def guard(name: str, evidence: float, **changes: Any) -> GuardState:
    values = {"name": name, "evidence": evidence, "threshold": 2.5, "stable": 0.002, "canary": 0.03, "upper": 0.04}
    return GuardState(**{**values, **changes})


def judgements(evidence: Sequence[float], of: Sequence[Sample], decision: Decision = Decision.WAIT) -> list[Judgement]:
    """One for each look, the errors' evidence as given; the last one decides."""
    found = []
    for sample, value in zip(of, evidence, strict=False):
        is_last = len(found) == min(len(of), len(evidence)) - 1
        found.append(
            Judgement(
                at=sample.at,
                step=sample.step,
                decision=decision if is_last else Decision.WAIT,
                guards=(guard("errors", value), guard("predictions logits", -0.5, upper=None)),
                findings=(FOUND,) if is_last and decision is Decision.ROLL_BACK else (),
                canary_requests=400,
                stable_requests=40_000,
                baked_s=48,
                seconds_left=20,
                reason="it waits for 100 more requests of the canary",
            )
        )
    return found


FOUND = Finding(
    code="JUDGE_MORE_ERRORS",
    owner=Owner.MODEL,
    verdict=Verdict.FAILED,
    message="3 % of the canary's requests failed, and 0.2 % of the stable version's",
    advice="read the canary's log for status 500",
    evidence={"canary": 0.03, "stable": 0.002},
)

SHADOW = ShadowReport(
    verdict=Verdict.PASSED,
    requests=1000,
    distinct=812,
    rows=3200,
    kind="retrained",
    agreement=0.978,
    metrics={"accuracy": (0.957, 0.961)},
    source="897 evaluation rows, 16 golden samples",
)


def release(phase: Phase, step: int = 0, seconds: float = 0, **changes: Any) -> Release:
    values: dict[str, Any] = {
        "id": "digits-20261124T120000-9f3a",
        "model": "digits",
        "candidate": deployed("new", "8"),
        "stable": deployed("old", "7"),
        "plan": PLAN,
        "phase": phase,
        "step": step,
        "started_at": BEGUN,
        "started_by": "maria@example.com",
        "changed_at": BEGUN + timedelta(seconds=seconds),
    }
    return Release(**{**values, **changes})


@dataclass(frozen=True)
class Told:
    """A release from its beginning to its end."""

    history: list[Written]
    trace: list[Sample]
    judgements: list[Judgement]

    @property
    def release(self) -> Release:
        return self.history[-1].release


def written(*of: Release, by: str = "controller@host") -> list[Written]:
    return [Written(release=each, by=by) for each in of]


def promoted() -> Told:
    seen = trace()
    said = judgements([-0.01 * look for look in range(len(seen))], seen, Decision.ADVANCE)
    steps = [release(Phase.CANARY, step, 12 + 30 * step, shadow=SHADOW, judgement=said[30 * step]) for step in range(5)]
    begun = [release(Phase.PREPARING), release(Phase.SHADOW, seconds=2)]
    ended = release(Phase.PROMOTED, 4, 170, shadow=SHADOW, judgement=said[-1])
    return Told(written(*begun, *steps, release(Phase.PROMOTING, 4, 165, shadow=SHADOW), ended), seen, said)


def rolled_back() -> Told:
    seen = trace(steps=2, canary_errors=0.03)
    said = judgements([0.05 * look for look in range(len(seen))], seen, Decision.ROLL_BACK)
    last = {"shadow": SHADOW, "judgement": said[-1], "findings": (FOUND,)}
    begun = [release(Phase.PREPARING), release(Phase.SHADOW, seconds=2)]
    steps = [release(Phase.CANARY, step, 12 + 30 * step, shadow=SHADOW) for step in range(2)]
    back = [release(Phase.ROLLING_BACK, 1, 72, **last), release(Phase.ROLLED_BACK, 1, 73, **last)]
    return Told(written(*begun, *steps, *back), seen, said)
