"""The way back: from a release that goes on, or from what serves to what served before. Idempotent, and never waiting
for a slice of the release to end.
"""

from __future__ import annotations

from tasks.errors import BadInput, CorruptObject
from tasks.release.contracts import Deployed, Phase, Release
from tasks.release.controller.controller import Controller
from tasks.release.controller.events import State
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.opening import begin_rollback, target_of


def roll_back(controller: Controller, model: str, to: str | None, reason: str) -> Release:
    """Let the package before serve, or the one that `to` names: whole, by digest, the router first. The release or
    rollback that this ended, with what the golden answers said.

    A release that goes on gives way. Where nothing goes on and the last thing that happened was a way back, asking
    again without `to` changes nothing: it does not go further back by itself.

    Raises:
        BadInput: nothing was ever released, or there is no package to go back to.
        PlatformError: engine or router do not do their part; the same call goes on.
    """
    ledger = Ledger(controller.home, model)
    was_damaged = _put_damaged_aside(ledger)
    ended = _end_underway(controller, ledger, reason)
    target = _target(ledger, to, has_ended_one=was_damaged or ended is not None)
    if target is None:
        if ended is None:
            controller.restore(model)
            ended = next(ledger.begun()).release
        return ended
    with ledger.locked():
        now = ledger.serving()
        assert now is not None  # noqa: S101  what has a target serves
        state = begin_rollback(target, ledger, now, controller.by, reason, controller.outside.clock.now())
    controller.passing("rollback opened")
    return _to_its_end(controller, state.release)


def _put_damaged_aside(ledger: Ledger) -> bool:
    """Nobody must be kept from the way back by what cannot be read; whether there was such a thing."""
    try:
        list(ledger.begun())
    except CorruptObject:
        with ledger.locked():
            ledger.put_aside()
        return True
    return False


def _end_underway(controller: Controller, ledger: Ledger, reason: str) -> Release | None:
    """End the release that goes on, where one does."""
    underway = ledger.underway()
    if underway is None:
        return None
    return _to_its_end(controller, controller.withdraw(underway.release.id, reason))


def _to_its_end(controller: Controller, release: Release) -> Release:
    while not release.phase.is_over:
        release = controller.advance(release.id)
    return release


def _target(ledger: Ledger, to: str | None, *, has_ended_one: bool) -> Deployed | None:
    """The package that has to come back; None where it serves already."""
    now = ledger.serving()
    if now is None:
        if has_ended_one and to is None:
            return None  # a first release, taken back before it served
        raise BadInput(f"{ledger.model} was never released, so there is nothing to go back from: `slipway status`")
    begun = list(ledger.begun())
    was_back = not begun or begun[0].release.phase is not Phase.PROMOTED
    if to is None and (has_ended_one or was_back):
        return None
    target = target_of(to, now, served(begun))
    return None if target.identity == now.current.identity else target


def served(begun: list[State]) -> list[Deployed]:
    """Every package that was promoted, the newest first."""
    return [state.release.candidate for state in begun if state.release.phase is Phase.PROMOTED]
