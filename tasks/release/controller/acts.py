"""What a controller does to the world: servers up, the router told. Each can be done twice, or again after half of it.

Nothing here decides or is written down; where the router does not answer, the next slice sees to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from tasks.contracts import Finding
from tasks.errors import EngineUnavailable, PlatformError
from tasks.release.contracts import Deployed, Endpoint, Release, Route
from tasks.release.controller import findings
from tasks.release.controller.events import State
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.protocols import Outside
from tasks.release.controller.serving import Serving

#: A weight that differs by less is the same: routers split in steps of 0.01 %.
_SAME_WEIGHT = 0.005


class Lost(Exception):
    """The new package's server does not run, and cannot be made to."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


@dataclass(frozen=True, slots=True)
class Arms:
    """Where both versions listen."""

    stable: Endpoint
    canary: Endpoint


@dataclass(frozen=True, slots=True)
class Acts:
    """`passing` is told what was done, for progress and for tests that kill the process there."""

    outside: Outside
    passing: Callable[[str], None]

    def both_up(self, release: Release) -> Arms:
        """Both servers run. The first package of a model is both.

        Raises:
            Lost: the new one's does not.
            PlatformError: the stable one's does not, or no engine answers.
        """
        try:
            canary = self.outside.arms.start(release.model, release.candidate)
        except EngineUnavailable:
            raise
        except PlatformError as error:
            raise Lost(findings.lost(release.candidate, error)) from error
        stable = canary if release.stable is None else self.outside.arms.start(release.model, release.stable)
        return Arms(stable, canary)

    def split(self, state: State, arms: Arms, weight: float) -> None:
        """The router knows both, and splits so."""
        release = state.release
        route = Route(
            model=release.model,
            port=state.port,
            split_by=release.split_by,
            stable=arms.stable,
            p99_ms=release.plan.p99_ms,
        )
        if release.stable is not None:
            route = route.model_copy(update={"canary": arms.canary, "weight": weight})
        self.outside.router(release.model).ensure(route)
        self.passing("route ensured")

    def assert_weight(self, release: Release) -> None:
        """Let the router have the weight of this state."""
        router = self.outside.router(release.model)
        has = router.weight()
        if has is not None and abs(has - release.weight) > _SAME_WEIGHT:
            router.set_weight(release.weight)
            self.passing("weight set")

    def serve(self, now: Serving) -> None:
        """Everything to what serves, whose server is started where it does not run."""
        endpoint = self.outside.arms.start(now.model, now.current)
        route = Route(model=now.model, port=now.port, split_by=now.split_by, stable=endpoint, p99_ms=now.p99_ms)
        self.outside.router(now.model).ensure(route)
        self.passing("route ensured")

    def warm(self, now: Serving) -> None:
        """What it would go back to runs as well; where it cannot, a way back starts it, or says why not."""
        for item in now.warm[1:]:
            with contextlib.suppress(PlatformError):
                self.outside.arms.start(now.model, item)

    def retire(self, ledger: Ledger, release: Release) -> None:
        """Keep what may have to come back, and let end what nobody needs. Under the lock."""
        now, underway = ledger.serving(), ledger.underway()
        needed = set() if underway is None else {item.identity for item in _packages(underway.release)}
        if now is not None:
            self.outside.arms.keep(now.model, (now.current, *now.previous))
            self.warm(now)
            needed |= {item.identity for item in now.warm}
        known = [item for state in ledger.begun() for item in _packages(state.release)]
        for item in dict.fromkeys((*_packages(release), *known)):
            if item.identity not in needed:
                self.outside.arms.stop(ledger.model, item)
        self.passing("retired")


def _packages(release: Release) -> tuple[Deployed, ...]:
    return (release.candidate,) if release.stable is None else (release.candidate, release.stable)
