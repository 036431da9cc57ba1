"""The calls of the package's docstring, with the real outside, kept for each person of this process."""

from __future__ import annotations

import functools

from tasks.contracts import Finding
from tasks.errors import TrackingUnavailable
from tasks.lineage import packages
from tasks.release.contracts import Release
from tasks.release.controller import back
from tasks.release.controller import standing as where
from tasks.release.controller.controller import Controller
from tasks.release.controller.opening import Asked, find_candidate
from tasks.release.controller.real import outside
from tasks.settings import Settings
from tasks.store import open_store


@functools.cache
def controller(settings: Settings, by: str) -> Controller:
    """The controller of this process for `by`: it remembers what it looked at, so that a look costs no more."""
    return Controller(settings.home, outside(settings), by)


def open_release(
    name: str,
    settings: Settings,
    *,
    by: str,
    approved_by: str | None = None,
    port: int | None = None,
    recorded: str | None = None,
    again: bool = True,
) -> Release:
    """Begin a release of the package that `name` means; with `again`, find the one of the same package that goes on.
    Of the package that serves already, the release that made it so.

    Raises:
        ReleaseUnderway: a release of the model is not over.
        GateBlocked: the package did not pass.
        BadInput: there is no such package, or the port cannot be had.
    """
    store = open_store(settings.store_uri)
    candidate = find_candidate(name, list(packages(store)), store)
    asked = Asked(by=by, approved_by=approved_by, port=port, recorded=recorded)
    return controller(settings, by).open(candidate, asked, again=again)


def advance(release_id: str, settings: Settings, *, by: str) -> Release:
    """One slice: see the package's docstring.

    Raises:
        PlatformError: engine or router do not do their part; the same call goes on.
    """
    return controller(settings, by).advance(release_id)


def approve(release_id: str, settings: Settings, *, by: str) -> Release:
    """`by` agrees that users meet the new version."""
    return controller(settings, by).approve(release_id)


def refuse(release_id: str, why: Finding, settings: Settings, *, by: str) -> Release:
    """`by` does not agree, for the reason that is given."""
    return controller(settings, by).refuse(release_id, why)


def leave(release_id: str, settings: Settings, *, by: str) -> Release:
    """Nobody looks at it any more: no user meets the new version until somebody does."""
    return controller(settings, by).leave(release_id)


def resume(release_id: str, settings: Settings, *, by: str, decided: bool = True) -> Release:
    """Go on with it; `decided` is a person's word, which one that is held by its evidence needs."""
    return controller(settings, by).resume(release_id, decided=decided)


def rollback(model: str, settings: Settings, *, by: str, to: str | None = None, reason: str = "") -> Release:
    """The package before, or the one that `to` names, whole and verified.

    Raises:
        BadInput: there is none to go back to.
        PlatformError: engine or router do not do their part; the same call goes on.
    """
    return back.roll_back(controller(settings, by), model, to, reason)


def restore(model: str, settings: Settings, *, by: str) -> None:
    """Let servers and router be what serves, after a reboot or after somebody took them away. Nothing serves: nothing.

    Raises:
        PlatformError: engine or router do not do their part; the same call goes on.
    """
    controller(settings, by).restore(model)


def finish(release_id: str, settings: Settings, *, by: str) -> Release:
    """What follows once a release is over.

    Raises:
        TrackingUnavailable: MLflow does not answer; nothing is lost, and the next `finish` catches up.
    """
    return controller(settings, by).finish(release_id)


def catch_up(model: str, settings: Settings, *, by: str) -> tuple[str, ...]:
    """Finish what earlier ends left undone; the releases that MLflow still does not know of."""
    mine = controller(settings, by)
    owed = []
    for state in mine.unfinished(model):
        try:
            mine.finish(state.release.id)
        except TrackingUnavailable:
            owed.append(state.release.id)
    return tuple(owed)


def standing(model: str, settings: Settings) -> where.Standing | None:
    """Where a model stands; None where none of its packages was ever to be released."""
    return where.standing_of(settings.home, model, outside(settings))
