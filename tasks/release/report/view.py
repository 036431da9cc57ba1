"""What the page and the terminal say of a release, in words and figures. Pure.

In: a `Release`, its trace, its judgements, and the journal's earlier words. Out: the verdict in a sentence, a row per
step, the trail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.contracts import Verdict
from tasks.figures import short
from tasks.release.contracts import Arm, Deployed, Judgement, Phase, Release, Sample, Written
from tasks.release.report.looks import Span, both_seen, merged, spans

#: What a phase says of a release: only one that took everything over has passed.
VERDICTS = {
    Phase.PROMOTED: Verdict.PASSED,
    Phase.ROLLED_BACK: Verdict.FAILED,
    Phase.ROLLING_BACK: Verdict.FAILED,
    Phase.REFUSED: Verdict.FAILED,
}


def verdict(release: Release) -> Verdict:
    """Of the release so far; what is not decided is inconclusive."""
    return VERDICTS.get(release.phase, Verdict.INCONCLUSIVE)


def named(deployed: Deployed | None) -> str:
    """`version 3 (0123456789ab)`, as far as it is known."""
    if deployed is None:
        return "none"
    digest = short(deployed.package)
    return digest if deployed.version is None else f"version {deployed.version} ({digest})"


def sentence(release: Release) -> str:
    """How the release ended, or where it stands."""
    who = f"{release.model} {named(release.candidate)}"
    step, before = f"the {release.plan.steps[release.step]:g} % step", named(release.stable)
    said = {
        Phase.PREPARING: f"{who} is being started",
        Phase.SHADOW: f"{who} is asked what {before} is asked, and no user meets it yet",
        Phase.CANARY: f"{who} is at {step}",
        Phase.PROMOTING: f"{who} is taking all traffic over",
        Phase.ROLLING_BACK: f"{who} is being rolled back from {step}",
        Phase.PROMOTED: f"{who} took all traffic over" + (f" from {before}" if release.stable else ""),
        Phase.ROLLED_BACK: f"{who} was rolled back at {step}; {before} serves as before",
        Phase.HELD: f"{who} is held after {step}: a person must decide, and no user meets it until then",
        Phase.REFUSED: f"{who} was refused before any user met it",
    }[release.phase]
    if release.phase in {Phase.PROMOTED, Phase.PROMOTING, Phase.PREPARING, Phase.SHADOW}:
        return f"{said}."
    return f"{said}.{_because(release.findings[0].message if release.findings else reason(release))}"


def reason(release: Release) -> str:
    """What the judge said last."""
    return "" if release.judgement is None else release.judgement.reason


def _because(why: str) -> str:
    return f" {why[:1].upper()}{why[1:].rstrip('.')}." if why else ""


# --- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it was: target and real share in percent, requests of both arms, what was decided at its end."""

    target: float
    real: float | None
    seconds: float
    stable: int
    canary: int
    errors: tuple[int, int]
    slow: tuple[int, int]
    decided: str
    why: str


def steps(release: Release, trace: Sequence[Sample], judgements: Sequence[Judgement]) -> tuple[Step, ...]:
    """Those that were taken, in order."""
    seen, alike = spans(trace), spans(both_seen(trace))
    taken = sorted({span.step for span in seen} | {said.step for said in judgements})
    return tuple(
        _step(
            release.plan.steps[number],
            merged(span for span in seen if span.step == number),
            merged(span for span in alike if span.step == number),
            [said for said in judgements if said.step == number],
        )
        for number in taken
        if number < len(release.plan.steps)
    )


def _step(target: float, seen: Span | None, alike: Span | None, judgements: Sequence[Judgement]) -> Step:
    last = judgements[-1] if judgements else None
    decided, why = ("", "") if last is None else (last.decision.value.replace("_", " "), last.reason)
    if seen is None:
        return Step(target, None, 0.0, 0, 0, (0, 0), (0, 0), decided, why)
    stable, canary = seen.of(Arm.STABLE), seen.of(Arm.CANARY)
    return Step(
        target=target,
        real=None if alike is None else alike.real_share,
        seconds=seen.until - seen.since,
        stable=stable.requests,
        canary=canary.requests,
        errors=(stable.errors, canary.errors),
        slow=(stable.slow, canary.slow),
        decided=decided,
        why=why,
    )


# --- the trail ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened: when, who did it, what, and what it follows from."""

    at: datetime
    by: str
    what: str
    why: str


def trail(history: Sequence[Written]) -> tuple[Entry, ...]:
    """What each word of the journal changed, from the first word on."""
    found: list[Entry] = []
    was = (Phase.PREPARING, 0)
    for number, word in enumerate(history):
        release = word.release
        if number == 0:
            what = f"the release of {named(release.candidate)} begins, in the place of {named(release.stable)}"
            found.append(Entry(release.started_at, release.started_by, what, ""))
        if was != (release.phase, release.step):
            found.append(Entry(release.changed_at, word.by, _phase(release), _cause(release)))
        was = (release.phase, release.step)
    return tuple(found)


def _phase(release: Release) -> str:
    return (
        f"{release.plan.steps[release.step]:g} % to the canary"
        if release.phase is Phase.CANARY
        else _SAID[release.phase]
    )


def _cause(release: Release) -> str:
    if release.findings:
        return "; ".join(f"{finding.code}: {finding.message}" for finding in release.findings)
    if release.phase is Phase.CANARY and release.step == 0:
        return "" if release.shadow is None else f"shadow: {release.shadow.verdict.value}"
    return reason(release)


_SAID = {
    Phase.PREPARING: "the new version is started",
    Phase.SHADOW: "requests are replayed to both versions",
    Phase.PROMOTING: "all traffic to the new version",
    Phase.ROLLING_BACK: "all traffic back to the version before",
    Phase.PROMOTED: "the new version serves",
    Phase.ROLLED_BACK: "the version before serves, whole",
    Phase.HELD: "held for a person",
    Phase.REFUSED: "refused",
}
