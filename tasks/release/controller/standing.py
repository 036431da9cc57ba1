"""What is known of a model's releases, for people and for pages: from files, and the router where it answers."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import Field

from tasks.contracts import Contract
from tasks.errors import PlatformError
from tasks.release.contracts import Release, TraceHead
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.protocols import Outside
from tasks.release.controller.serving import Serving
from tasks.release.controller.trace import Trace


class Standing(Contract):
    """Where a model stands."""

    model: str
    serving: Serving | None = Field(description="none before its first release")
    underway: Release | None = Field(description="with the latest judgement")
    is_watched: bool = Field(description="a process of this machine watches the release that goes on")
    weight: float | None = Field(description="percent that the router really sends to the canary; none: not known")
    last: tuple[Release, ...] = Field(description="releases and rollbacks, the newest first")


#: Releases that people are shown.
_SHOWN = 5


def standing_of(home: Path, model: str, outside: Outside) -> Standing | None:
    """Where one model stands; None where none of its packages was ever to be released.

    Raises:
        CorruptObject: what was written down is damaged.
    """
    ledger = Ledger(home, model)
    begun = list(ledger.begun())
    if not begun:
        return None
    underway = None if begun[0].release.phase.is_over else begun[0].release
    if underway is not None:
        head = TraceHead(plan=underway.plan, shadow=underway.shadow)
        path = ledger.place(underway.id) / "trace.jsonl"
        trace = Trace(path, head, outside.judge(head.plan, head.shadow))
        if (judgement := trace.catch_up()) is not None:
            underway = underway.model_copy(update={"judgement": judgement})
    return Standing(
        model=model,
        serving=ledger.serving(),
        underway=underway,
        is_watched=ledger.is_watched,
        weight=_weight(model, outside),
        last=tuple(state.release for state in begun[:_SHOWN]),
    )


def _weight(model: str, outside: Outside) -> float | None:
    with contextlib.suppress(PlatformError):  # no engine, no router: that is not known, and everything else is
        return outside.router(model).weight()
    return None
