"""Findings about requests that were answered wrongly, with an error, or not at all, by when it happened.

The same fault points at different things: alone, at the image; among a few, at shared state; under load only, at what
fills up.
"""

from __future__ import annotations

from tasks.contracts import Finding, Owner
from tasks.smoke.findings import Evidence
from tasks.smoke.load import Answers, Wrong
from tasks.smoke.observation import Observation, Phase


def answers(seen: Observation) -> list[Finding]:
    """What went wrong with requests, each kind where it was seen first: later phases only repeat it.

    What one client alone was told wrongly also says nothing about several at once.
    """
    first: dict[str, Finding] = {}
    for phase, given in seen.phases.items():
        for finding in (*_wrong(phase, given), *_refused(phase, given), *_unanswered(phase, given, seen)):
            first.setdefault(finding.code, finding)
    if "SMOKE_WRONG_ANSWER" in first and seen.golden and seen.golden.wrong:
        first.pop("SMOKE_WRONG_ANSWER_CONCURRENT", None)
    if first.keys() & {"SMOKE_WRONG_ANSWER", "SMOKE_WRONG_ANSWER_CONCURRENT"}:
        first.pop("SMOKE_WRONG_ANSWER_LOAD", None)
    return list(first.values())


#: Phase → the code of a wrong answer that only comes then, and what it points at.
_WRONG = {
    Phase.CONCURRENT: (
        "SMOKE_WRONG_ANSWER_CONCURRENT",
        "state is shared between requests: the runner, the preprocessing or the model is not thread-safe",
    ),
    Phase.LOAD: (
        "SMOKE_WRONG_ANSWER_LOAD",
        "a few clients at once were answered rightly: look at what only happens under load, such as full batches, "
        "a full queue, buffers that are used again, time-outs that answer with a default",
    ),
}
_WRONG[Phase.PEAK] = _WRONG[Phase.LOAD]
_WRONG_ALONE = (
    "SMOKE_WRONG_ANSWER",
    "the export passed parity, so it is the image that answers differently: compare its runtime's versions and its "
    "preprocessing with the contract's",
)


def _wrong(phase: Phase, answers: Answers) -> list[Finding]:
    if not answers.wrong:
        return []
    code, advice = _WRONG.get(phase, _WRONG_ALONE)
    when = f", asked by {answers.clients} clients at once" if phase is Phase.CONCURRENT else ""
    if phase in {Phase.LOAD, Phase.PEAK}:
        when = f" {phase.value}"
    return [
        Finding(
            code=code,
            owner=Owner.PLATFORM,
            message=f"{answers.wrong} of {answers.asked} golden requests were not answered as the source model does"
            f"{when}{_first(answers.first_wrong)}",
            advice=advice,
            evidence=_counts(answers),
        )
    ]


def _refused(phase: Phase, answers: Answers) -> list[Finding]:
    if not answers.refused:
        return []
    return [
        Finding(
            code="SMOKE_REQUEST_REFUSED",
            owner=Owner.PLATFORM,
            message=f"{answers.refused} of {answers.asked} golden requests were refused {phase.value}"
            + _first(answers.first_refused),
            advice="golden samples fit the contract, so the server reads it differently: compare the contract in the "
            "image with the spec; a status of 500 or above is the runtime's own error",
            evidence=_counts(answers),
        )
    ]


def _first(wrong: Wrong | None) -> str:
    return f"; the first, with batch {wrong.batch}: {wrong.complaint}" if wrong else ""


def _unanswered(phase: Phase, answers: Answers, seen: Observation) -> list[Finding]:
    if not answers.failed:
        return []
    if answers.unanswered and seen.stands_still and phase not in {Phase.GOLDEN, Phase.LATENCY}:
        return [_deadlock(phase, answers)]
    return [
        Finding(
            code="SMOKE_TIMEOUT" if answers.unanswered else "SMOKE_CONNECTION_LOST",
            owner=Owner.PLATFORM,
            message=f"{answers.failed} of {answers.asked} golden requests got no answer {phase.value}, "
            f"though the container kept running: {answers.first_failure or 'unknown'}",
            advice="a request that never ends is an endless loop, or waits for what never comes: ask the image the "
            "same by hand, and look at its threads"
            if answers.unanswered
            else "a process inside the container died and was replaced, or the server closes connections early: "
            "look at the container's log",
            evidence=_counts(answers),
        )
    ]


def _deadlock(phase: Phase, answers: Answers) -> Finding:
    """One after the other they were answered, several are not, and nothing computes: they wait for each other."""
    return Finding(
        code="SMOKE_DEADLOCK",
        owner=Owner.PLATFORM,
        message=f"{answers.failed} of {answers.asked} golden requests got no answer {phase.value}, and the container "
        f"uses no CPU: {answers.first_failure or 'unknown'}; one after the other they were answered",
        advice="requests wait for each other: look for a lock that is taken twice, a pool whose threads wait for work "
        "of the same pool, or a library that was initialised before a fork",
        evidence=_counts(answers),
    )


def _counts(answers: Answers) -> Evidence:
    return {
        "asked": answers.asked,
        "wrong": answers.wrong,
        "refused": answers.refused,
        "unanswered": answers.failed,
        "clients": answers.clients,
    }
