"""A release by one process that stays: the command line's way. A look a second, until it is over or a person has to
decide; nobody watches any more when it ends early.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from tasks.errors import PlatformError
from tasks.release.contracts import Phase, Release
from tasks.release.controller.controller import Controller
from tasks.release.controller.machine import Action, next_action

#: Between two looks. Evidence may be looked at at any time, so that more often is only sooner.
LOOK_EVERY_S = 1.0
#: Engine or router may be away for so long before whoever watches gives up: a daemon's restart takes less.
_PATIENCE_S = 30.0


def drive(controller: Controller, release: Release, seen: Callable[[Release], None]) -> Release:
    """Advance a release until it is over, held, or waits for approval; `seen` is told after every slice.

    Raises:
        PlatformError: engine or router did not do their part for half a minute; no user meets the canary then, as far
            as the router can be told.
    """
    clock = controller.outside.clock
    failing_since: float | None = None
    while True:
        began = clock.now().timestamp()
        try:
            release = controller.advance(release.id)
            failing_since = None
        except PlatformError:
            failing_since = failing_since or began
            if began - failing_since >= _PATIENCE_S or release.phase is not Phase.CANARY:
                with contextlib.suppress(PlatformError):  # the router may be what does not answer
                    controller.leave(release.id)
                raise
        seen(release)
        if is_resting(release):
            return release
        if release.phase is Phase.CANARY:
            clock.sleep(max(0.0, LOOK_EVERY_S - (clock.now().timestamp() - began)))


def is_resting(release: Release) -> bool:
    """Whether it does not go on by itself."""
    return next_action(release, None) in {Action.REST, Action.HOLD, Action.ASK}
