"""A model's steady state: which package serves, where users ask, and the packages before it. Pure.

It changes only when a release was promoted or rolled back, and says at any time what a router has to do when nothing
else goes on.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tasks.contracts import Contract
from tasks.release.contracts import Deployed
from tasks.release.controller.events import State

#: Good packages before the one that serves whose images are kept. One to return to, and one more for when that one
#: turns out to be bad as well; the first of them keeps running, so that returning is a matter of the router alone.
KEPT = 2


class Serving(Contract):
    """What serves a model now."""

    model: str
    port: int = Field(gt=0, lt=65536, description="of loopback, where users ask; the model keeps it")
    split_by: str
    p99_ms: float = Field(gt=0, description="the objective that the router counts slow answers by")
    current: Deployed
    since: datetime
    release: str = Field(description="the release or rollback that made it so")
    previous: tuple[Deployed, ...] = Field((), description="that served before it, and well; the newest first")
    withdrawn: Deployed | None = Field(None, description="what the last rollback took away; none since a promotion")

    @property
    def warm(self) -> tuple[Deployed, ...]:
        """The packages whose servers run: what serves, and what it would go back to."""
        return (self.current, *self.previous[:1])


def promoted(before: Serving | None, state: State, *, at: datetime) -> Serving:
    """What serves once a release is promoted. Being told so twice changes nothing."""
    release, candidate = state.release, state.release.candidate
    if before is not None and before.current.identity == candidate.identity:
        return before
    earlier = () if before is None else (before.current, *before.previous)
    return Serving(
        model=release.model,
        port=state.port,
        split_by=release.split_by,
        p99_ms=release.plan.p99_ms,
        current=candidate,
        since=at,
        release=release.id,
        previous=tuple(item for item in earlier if item.identity != candidate.identity)[:KEPT],
    )


def rolled_back(before: Serving, stable: Deployed, *, at: datetime, release: str) -> Serving:
    """What serves once `stable` is back. What was taken away is no good package to return to."""
    if before.current.identity == stable.identity:
        return before
    return before.model_copy(
        update={
            "current": stable,
            "since": at,
            "release": release,
            "previous": _older(before.previous, stable),
            "withdrawn": before.current,
        }
    )


def _older(previous: tuple[Deployed, ...], than: Deployed) -> tuple[Deployed, ...]:
    for index, item in enumerate(previous):
        if item.identity == than.identity:
            return previous[index + 1 :]
    return previous
