"""What watches a canary while it bakes: on the triggerer, holding no worker.

In: a release's id. Out: one event, when the release no longer goes on by itself. Everything that it knows is the
controller's: a triggerer that is killed loses nothing, and the next one goes on with the same evidence. Looks block
(files, the router, the engine), so each runs in a thread, one after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from tasks.airflow_glue.release.control import Releases, releases
from tasks.airflow_glue.release.news import progress
from tasks.errors import PlatformError
from tasks.release.contracts import Phase, Release

#: Between two looks, s. A guard that is looked at ten times as often finds no more: requests decide, not looks.
EVERY_S = 1.0
#: How long the ground may give way before it is said so. Meanwhile the router's own fall-back watches over users.
PATIENCE_S = 60.0

RELEASE, ERROR = "release", "error"


class CanaryTrigger(BaseTrigger):
    """Looks at a release until it is over or held."""

    def __init__(self, release_id: str, by: str, every_s: float = EVERY_S) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.release_id, self.by, self.every_s = release_id, by, every_s
        self._look: asyncio.Future[Release] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How another triggerer makes it again."""
        where = f"{type(self).__module__}.{type(self).__name__}"
        return where, {"release_id": self.release_id, "by": self.by, "every_s": self.every_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: the release as it stands, or why it could not be looked at."""
        try:
            async for release in watched(self._looked, self.every_s, PATIENCE_S, self.log.info):
                last = release
        except PlatformError as error:
            yield _event({ERROR: str(error)})
        else:
            yield _event({RELEASE: last.model_dump(mode="json")})

    async def on_kill(self) -> None:
        """A person stopped or cleared the task: no user meets a canary that nobody watches.

        After the look that is being taken, which would otherwise give it its weight again.
        """
        if self._look is not None:
            await asyncio.wait([self._look])
        await asyncio.to_thread(self.control().leave, self.release_id)

    def control(self) -> Releases:
        """What is asked."""
        return releases(self.by)

    async def _looked(self) -> Release:
        """One look in a thread; being cancelled does not end it, so that `on_kill` can wait for it."""
        self._look = asyncio.get_running_loop().run_in_executor(None, self.control().look, self.release_id)
        return await asyncio.shield(self._look)


def _event(payload: Any) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


async def watched(
    look: Callable[[], Awaitable[Release]], every_s: float, patience_s: float, tell: Callable[[str], object]
) -> AsyncIterator[Release]:
    """What each look found, until the release no longer goes on by itself. `tell` hears of every change.

    Raises:
        PlatformError: no look succeeded for `patience_s`.
    """
    told, good = "", time.monotonic()
    while True:
        try:
            release = await look()
        except PlatformError as error:
            tell(f"could not look, tried again: {error}")
            if time.monotonic() - good > patience_s:
                raise
        else:
            good = time.monotonic()
            if (now := _place(release)) != told:
                tell(progress(release))
                told = now
            yield release
            if release.phase.is_over or release.phase is Phase.HELD:
                return
        await asyncio.sleep(every_s)


def _place(release: Release) -> str:
    return f"{release.phase} {release.step}"
