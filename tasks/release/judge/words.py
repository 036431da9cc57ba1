"""What the judge says to people: findings with their owner and what to do. The decisions are in `fold.py`."""

from __future__ import annotations

from typing import Protocol

from tasks.contracts import Finding, Owner, Verdict
from tasks.release.contracts import GuardState, Plan
from tasks.release.judge.exposure import Exposure
from tasks.release.judge.guards import Moved


def percent(share: float | None) -> str:
    """A rate for people: two significant digits, never in powers of ten."""
    if share is None:
        return "nothing"
    if share and share < 1e-5:
        return "less than 0.001 %"
    return f"{share * 100:.1f} %" if share >= 0.01 else f"{share * 100:.2g} %"


class Evidence(Protocol):
    """What has a logarithm of an e-value to base 10."""

    @property
    def evidence(self) -> float: ...


def odds_of(evident: Evidence) -> str:
    """How sure: the evidence as a bet."""
    return f"{10 ** min(evident.evidence, 12):,.0f} to 1"


def _figures(state: GuardState) -> dict[str, str | int | float | bool]:
    figures: dict[str, str | int | float | bool] = {
        "guard": state.name,
        "evidence_log10": round(state.evidence, 3),
        "threshold_log10": round(state.threshold, 3),
    }
    rates = {"stable": state.stable, "canary": state.canary}
    return figures | {name: rate for name, rate in rates.items() if rate is not None}


def errors(state: GuardState, plan: Plan, *, first: bool) -> Finding:
    against = (
        f"where {percent(plan.guards.harm)} is allowed without a version to compare with"
        if first
        else f"the stable one {percent(state.stable)}, where {plan.guards.errors:g} times as many are allowed"
    )
    return Finding(
        code="RELEASE_ERRORS",
        owner=Owner.MODEL,
        message=f"the new version failed {percent(state.canary)} of its requests and {against} "
        f"(evidence {odds_of(state)})",
        advice="read the new version's log for its 5xx answers, time-outs and NaN, and replay those requests to it",
        evidence=_figures(state),
    )


def slow(state: GuardState, plan: Plan, *, first: bool) -> Finding:
    against = "more than the objective allows" if first else f"of the stable one's {percent(state.stable)}"
    return Finding(
        code="RELEASE_SLOW",
        owner=Owner.MODEL,
        message=f"{percent(state.canary)} of the new version's requests took longer than {plan.p99_ms:g} ms, {against}"
        f", where {plan.guards.slow:g} times as many are allowed (evidence {odds_of(state)})",
        advice="compare both versions' latency by request size, and run `slipway smoke` on the new one's image",
        evidence=_figures(state),
    )


def predictions(state: GuardState, moved: Moved | None, plan: Plan) -> Finding:
    what = "moved" if moved is None else _moved(moved)
    figures = _figures(state)
    if moved is not None:
        figures |= {"output": moved.output, "class": moved.name, "moved": moved.canary - moved.stable}
    return Finding(
        code="RELEASE_PREDICTIONS_MOVED",
        owner=Owner.MODEL,
        message=f"{what}, where {100 * plan.guards.predictions:g} points are allowed (evidence {odds_of(state)})",
        advice="hold both versions' answers to the same requests against each other; if the change is meant, say so in "
        "release.guards.predictions",
        evidence=figures,
    )


def _moved(moved: Moved) -> str:
    points = 100 * (moved.canary - moved.stable)
    return (
        f"the new version answers {moved.name!r} in {moved.output} {abs(points):.1f} points "
        f"{'more' if points > 0 else 'less'} often than the stable one ({percent(moved.canary)} of rows against "
        f"{percent(moved.stable)})"
    )


def no_data(what: str, advice: str) -> Finding:
    return Finding(
        code="RELEASE_NO_DATA",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=what,
        advice=advice,
    )


def restarted(arms: tuple[str, ...]) -> Finding:
    who = " and the ".join(arms)
    return Finding(
        code="RELEASE_RESTARTED",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the {who} version's counters began again, so what happened before is not known",
        advice="see why it restarted (memory, a crash, an eviction): its log, and its container's exit code",
        evidence={"arms": ", ".join(arms)},
    )


def restarts(times: int) -> Finding:
    return Finding(
        code="RELEASE_RESTARTED",
        owner=Owner.MODEL,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the canary version restarted {times} times during this release",
        advice="see why it restarts (memory, a crash): its log, and its container's exit code; then release it again",
        evidence={"restarts": times},
    )


def too_few(requests: int, plan: Plan) -> Finding:
    return Finding(
        code="RELEASE_TOO_FEW_REQUESTS",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the new version answered {requests:,} requests in this step, where {plan.min_requests:,} are needed",
        advice="release when there is more traffic, or give release.extend more time; fewer release.min_requests would "
        "see less",
        evidence={"requests": requests, "needed": plan.min_requests},
    )


def at_risk(exposure: Exposure, weight: float, plan: Plan) -> Finding:
    return Finding(
        code="RELEASE_HARM_NOT_EXCLUDED",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"at {weight:g} % of traffic up to {percent(exposure.at_risk(weight))} of all requests could fail as "
        f"far as is known, where release.guards.harm allows {percent(plan.guards.harm)} "
        f"({exposure.errors:,} of {exposure.trials:,} failed, the shadow's among them)",
        advice="give the step more time (release.extend) or more requests in the shadow, or see why the new version "
        "fails",
        evidence={"at_risk": exposure.at_risk(weight), "allowed": plan.guards.harm, "requests": exposure.trials},
    )


def undecided(why: str, after_s: float) -> Finding:
    return Finding(
        code="RELEASE_UNDECIDED",
        owner=Owner.MODEL,
        verdict=Verdict.INCONCLUSIVE,
        message=f"after {after_s:,.0f} s in this step the evidence neither clears the new version nor condemns it: "
        f"{why}",
        advice="read the release report, and release it again or leave it; no user meets it meanwhile",
        evidence={"seconds": after_s},
    )


def unseen_predictions() -> Finding:
    return Finding(
        code="RELEASE_PREDICTIONS_UNSEEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.PASSED,
        message="neither version counts its predictions, so their distribution was not compared",
        advice="read counts from the servers' own metrics, where the model has outputs that can be counted",
    )
