"""What is told to people of a release: one event, one sentence, where to look. Pure."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from tasks.contracts import Contract, Digest, Verdict
from tasks.figures import figure, short
from tasks.release.contracts import Phase, Release


class Event(StrEnum):
    """What happened."""

    APPROVAL_WANTED = "approval_wanted"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    HELD = "held"
    REFUSED = "refused"


class News(Contract):
    """One thing that happened to a release, for a person or for a program."""

    event: Event
    model: str
    release: str
    candidate: Digest
    stable: Digest | None
    title: str = Field(description="a few words")
    text: str = Field(description="why, in sentences")
    url: str | None = Field(None, description="where to see it and to act")


_ENDS = {
    Phase.PROMOTED: Event.PROMOTED,
    Phase.ROLLED_BACK: Event.ROLLED_BACK,
    Phase.HELD: Event.HELD,
    Phase.REFUSED: Event.REFUSED,
}
_WORDS = {
    Event.APPROVAL_WANTED: "waits for approval",
    Event.PROMOTED: "is promoted",
    Event.ROLLED_BACK: "is rolled back",
    Event.HELD: "is held: a person must decide",
    Event.REFUSED: "is refused",
}


def end_of(release: Release, url: str | None = None) -> News | None:
    """How a release ended or why it stopped; None while it goes on by itself."""
    event = _ENDS.get(release.phase)
    return None if event is None else _news(event, release, url)


def wanted(release: Release, url: str | None = None) -> News:
    """A person is to say whether users may meet the new version."""
    return _news(Event.APPROVAL_WANTED, release, url)


def why(release: Release) -> str:
    """The reason for where a release stands: its findings, or else what the judge said last."""
    found = [f"{item.code}: {item.message} → {item.advice}" for item in release.findings]
    if release.shadow is not None and not found:
        found = [
            f"{item.code}: {item.message} → {item.advice}"
            for item in release.shadow.findings
            if item.verdict is not Verdict.PASSED
        ]
    if found:
        return "\n".join(found)
    return release.judgement.reason if release.judgement is not None else ""


def progress(release: Release) -> str:
    """Where a release stands, in one line of a log."""
    if release.phase is not Phase.CANARY or release.judgement is None:
        return f"{release.phase}, {release.weight:g} % of traffic"
    seen = release.judgement
    guards = ", ".join(f"{item.name} {figure(item.evidence)} of {figure(item.threshold)}" for item in seen.guards)
    return (
        f"step {release.step + 1} of {len(release.plan.steps)}, {release.weight:g} % of traffic: "
        f"{seen.canary_requests} canary requests, {seen.reason or seen.decision}"
        f"{f' (evidence against it: {guards})' if guards else ''}"
    )


def _news(event: Event, release: Release, url: str | None) -> News:
    candidate = f"{release.model} {release.candidate.version or ''}".strip()
    return News(
        event=event,
        model=release.model,
        release=release.id,
        candidate=release.candidate.package,
        stable=None if release.stable is None else release.stable.package,
        title=f"{candidate} ({short(release.candidate.package)}) {_WORDS[event]}",
        text=why(release),
        url=url,
    )
