"""What a release acts through: one small protocol for each thing outside, and `Outside`, all of them together.

`Router` and `Counted` are in `tasks.release.contracts`. The real ones are gathered by `tasks.release.controller.real`;
tests have second ones that live in files, so that they outlive a killed controller as real ones do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from serving.contract import PackagedFile
from tasks.contracts import Contract, Finding
from tasks.release.contracts import (
    Counted,
    Deployed,
    Endpoint,
    Judgement,
    Plan,
    Release,
    Router,
    Sample,
    ShadowReport,
)

if TYPE_CHECKING:
    from tasks.release.controller.events import State
    from tasks.release.controller.serving import Serving


class Arms(Protocol):
    """The servers of packages, by image digest. Every call is idempotent."""

    def start(self, model: str, deployed: Deployed) -> Endpoint:
        """Let the package's server run and be ready; where it listens. One that runs already is left as it is.

        Raises:
            PlatformError: the engine has no image of that digest, or its server does not become ready.
        """

    def endpoint(self, model: str, deployed: Deployed) -> Endpoint | None:
        """Where its server listens; None where none runs. Starts nothing."""

    def stop(self, model: str, deployed: Deployed) -> None:
        """Let its server end; nothing happens where there is none."""

    def keep(self, model: str, packages: tuple[Deployed, ...]) -> None:
        """Let the images of these packages, and of no others of the model, be kept whatever is packaged since."""


class GoldenAnswers(Contract):
    """What became of the golden requests."""

    rows: int = 0
    findings: tuple[Finding, ...] = ()


class Golden(Protocol):
    """The package's golden samples, asked over HTTP."""

    def __call__(self, model: str, deployed: Deployed, endpoint: Endpoint) -> GoldenAnswers:
        """Ask them there. No answer, or one beyond parity's tolerance, is a finding; it raises nothing for those."""


class Attested(Protocol):
    """The package's signed evidence, and the image that the engine really has."""

    def __call__(self, release: Release) -> tuple[Finding, ...]:
        """What speaks against releasing it; nothing where everything holds."""


class Shadowing(Protocol):
    """Recorded requests to both versions, compared pairwise, before any user meets the new one."""

    def __call__(self, release: Release, stable: Endpoint, canary: Endpoint, recorded: Path | None) -> ShadowReport:
        """Replay at least `release.shadow_spec.requests` requests to both; for a model's first release, to `canary`
        as both. `recorded` is a folder of recorded requests; None for golden ones and those that the server logged."""


class Judging(Protocol):
    """The judge of one release: samples one after the other → what all of them so far say. Pure."""

    def look(self, sample: Sample) -> Judgement:
        """One more sample."""


class Champion(Protocol):
    """MLflow's aliases, and its part of the audit trail."""

    def announce(self, release: Release) -> None:
        """Let the alias `canary` name the candidate.

        Raises:
            TrackingUnavailable: MLflow does not answer.
        """

    def follow(self, state: State, serving: Serving | None, underway: Release | None, folder: Path) -> str | None:
        """Let the aliases say what serves and what is underway, and keep the release's evidence (`folder` has
        journal and trace) with the package's run; the id of the run that holds it.

        Raises:
            TrackingUnavailable: MLflow does not answer.
        """


class Reporting(Protocol):
    """The page for people."""

    def __call__(self, state: State, folder: Path) -> PackagedFile | None:
        """Write it, and put it into the store; None where this installation writes none."""


class Clock(Protocol):
    """Time, so that tests need none."""

    def now(self) -> datetime:
        """UTC."""

    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The machine's own."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        import time

        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything that a controller acts through.

    `counted` is given the release and where its stable and its new arm listen.
    """

    arms: Arms
    router: Callable[[str], Router]
    counted: Callable[[Release, Endpoint, Endpoint], Counted]
    judge: Callable[[Plan, ShadowReport | None], Judging]
    golden: Golden
    attested: Attested
    shadow: Shadowing
    champion: Champion
    report: Reporting
    clock: Clock
