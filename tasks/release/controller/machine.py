"""The state machine: what happened → where a release stands → what is to be done next. Pure.

In: entries, in the order in which the journal has them. Out: a `State`, the fold of all of them, and an `Action`.
Nothing here knows of files, routers or time, so every phase can be tried with every event.

    PREPARING ─ Prepared → SHADOW ─ Shadowed, Approved → CANARY ─ Judged → PROMOTING ─ Promoted → PROMOTED
        └─ Refused ──────────┴→ REFUSED        Judged, Left ▼ ▲ Resumed      │
                                                           HELD              │
        any of them but the last three ─ Withdrawn, Judged → ROLLING_BACK ◄──┘ ─ RolledBack → ROLLED_BACK
"""

from __future__ import annotations

from enum import StrEnum

from tasks.errors import SlipwayError
from tasks.release.contracts import Decision, Judgement, Phase, Release
from tasks.release.controller.events import Approved, Entry, Followed, Judged, Opened, State


class IllegalEvent(SlipwayError):
    """An event that cannot happen in this phase: a journal with it was not written by this machine."""


def apply(state: State | None, entry: Entry) -> State:
    """The state after one more entry.

    Raises:
        IllegalEvent: it cannot happen there.
    """
    event = entry.event
    if isinstance(event, Opened) or state is None:
        return _open(state, entry)
    if entry.sequence != state.sequence + 1:
        raise IllegalEvent(f"entry {entry.sequence} follows entry {state.sequence}: one is missing")
    if state.release.phase not in event.ALLOWED:
        raise IllegalEvent(f"{event.kind} cannot happen while a release is {state.release.phase}")
    if isinstance(event, Judged) and event.judgement.decision is Decision.WAIT:
        raise IllegalEvent("a look that decides to wait is no event: it is in the trace")
    noted = state.model_copy(
        update={
            "sequence": entry.sequence,
            "last_by": entry.by,
            "followed": state.followed or isinstance(event, Followed),
            "approved_by": entry.by if isinstance(event, Approved) else state.approved_by,
        }
    )
    changed = state.release.model_copy(update={**event.changes(noted), "changed_at": entry.at})
    return noted.model_copy(update={"release": changed})


def _open(state: State | None, entry: Entry) -> State:
    event = entry.event
    if state is not None or not isinstance(event, Opened) or entry.sequence != 0:
        raise IllegalEvent(f"a journal begins with `opened` and has it once: entry {entry.sequence} is {event.kind}")
    return State(
        release=event.release,
        port=event.port,
        approval=event.approval,
        approved_by=event.approved_by,
        recorded=event.recorded,
        sequence=0,
        last_by=entry.by,
    )


class Action(StrEnum):
    """The one thing that a state asks for. Each can be done again after it was done, or half done, before."""

    PREPARE = "prepare"
    SHADOW = "shadow"
    ASK = "ask"  # wait for a person's approval
    LOOK = "look"  # read both arms' counts, judge, and let the router have the weight
    DECIDE = "decide"  # a look decided, and whoever took it died before it was written down
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    HOLD = "hold"  # see to it that no user meets the canary
    REST = "rest"


_ACTIONS = {
    Phase.PREPARING: Action.PREPARE,
    Phase.SHADOW: Action.SHADOW,
    Phase.CANARY: Action.LOOK,
    Phase.PROMOTING: Action.PROMOTE,
    Phase.ROLLING_BACK: Action.ROLL_BACK,
    Phase.HELD: Action.HOLD,
    Phase.PROMOTED: Action.REST,
    Phase.ROLLED_BACK: Action.REST,
    Phase.REFUSED: Action.REST,
}


def next_action(release: Release, judgement: Judgement | None) -> Action:
    """What to do. `judgement` is what the looks of the trace so far say; None where there are none."""
    action = _ACTIONS[release.phase]
    if action is Action.SHADOW and release.shadow is not None:
        return Action.ASK
    is_news = judgement is not None and judgement.step == release.step and judgement.decision is not Decision.WAIT
    return Action.DECIDE if action is Action.LOOK and is_news else action
