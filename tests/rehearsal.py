"""Everything that a release acts through, a second time: in one file, so that it outlives a controller that is killed.

Servers that "run", a router that "splits", a clock that moves a second with every look: requests arrive at a fixed rate
and fail at fixed shares, so that a release can be rehearsed in milliseconds, and again from any point.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.contract import PackagedFile
from tasks.contracts import Digest, Finding, Verdict, digest_of
from tasks.errors import PlatformError, TrackingUnavailable
from tasks.release.contracts import (
    Arm,
    ArmCounts,
    Decision,
    Deployed,
    Endpoint,
    Judgement,
    Plan,
    Release,
    Route,
    RouterCounts,
    Sample,
    ShadowReport,
)
from tasks.release.controller.controller import Controller
from tasks.release.controller.events import State
from tasks.release.controller.opening import Asked, Candidate
from tasks.release.controller.protocols import GoldenAnswers, Outside
from tasks.release.controller.serving import Serving
from tasks.spec import GuardsSpec, ModelSpec, ReleaseSpec
from tasks.store import Store
from tests import samples

#: When the rehearsed clock begins to count.
START = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)
#: Requests that arrive between two looks.
RATE = 200
MODEL = "digits"


def deployed(number: int) -> Deployed:
    """The model's package of that number."""
    return Deployed(
        package=digest_of(["package", number]),
        image=digest_of(["image", number]),
        reference=f"slipway/digits:onnx-{number:012}",
        format="onnx",
        version=str(number),
    )


def spec(**changes: Any) -> ModelSpec:
    """A model whose steps are over within a few looks."""
    release: dict[str, Any] = {
        "steps": (5, 50, 100),
        "bake": "2s",
        "extend": "5s",
        "min_requests": 10,
        "approval": False,
        "guards": GuardsSpec(harm=0.5),
    }
    return samples.spec(release=ReleaseSpec(**{**release, **changes}))


def candidate(number: int, store: Store, **changes: Any) -> Candidate:
    """The package of that number, ready to be released."""
    asked = spec(**changes)
    return Candidate(samples.package(store, asked), asked, deployed(number))


class World:
    """What is outside of the controller, in one file that is replaced whole."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "world.json"
        if not self._path.exists():
            self.write(
                {
                    "seconds": 0,
                    "running": [],
                    "kept": [],
                    "route": None,
                    "counted": {},
                    "errors": {},  # package → share of its requests that fail
                    "does_not_start": [],
                    "wrong": [],  # packages whose golden answers differ
                    "unattested": [],
                    "shadow": "passed",
                    "mlflow": True,
                    "aliases": {},
                    "silent": [],  # arms whose counters cannot be read
                }
            )

    def read(self) -> dict[str, Any]:
        return dict(json.loads(self._path.read_text()))

    def write(self, content: Mapping[str, Any]) -> None:
        aside = self._path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(content))
        aside.replace(self._path)

    def __getitem__(self, key: str) -> Any:
        return self.read()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.write({**self.read(), key: value})

    def reboot(self) -> None:
        """The machine was restarted: no server runs, and no router."""
        self.write({**self.read(), "running": [], "route": None, "counted": {}})

    @property
    def weight(self) -> float | None:
        """What the router sends to the canary."""
        route = self["route"]
        return None if route is None else float(route["weight"]) if route["canary"] else 0.0

    def serves(self, share: float) -> Digest | None:
        """The package that answers a user whose hash is `share` percent."""
        route = self["route"]
        if route is None:
            return None
        arm = "canary" if route["canary"] and share < route["weight"] else "stable"
        return package_at(Endpoint(**route[arm]))


def endpoint_of(package: Digest) -> Endpoint:
    """Where the server of a package listens: its port follows from the package."""
    return Endpoint(host="127.0.0.1", port=10_000 + int(package.removeprefix("sha256:")[:3], 16))


def package_at(endpoint: Endpoint) -> Digest:
    return next(item.package for item in map(deployed, range(10)) if endpoint_of(item.package) == endpoint)


@dataclass
class FileArms:
    world: World

    def start(self, model: str, deployed: Deployed) -> Endpoint:
        if deployed.package in self.world["does_not_start"]:
            raise PlatformError("it ended with 1")
        if deployed.package not in self.world["running"]:
            self.world["running"] = [*self.world["running"], deployed.package]
        return endpoint_of(deployed.package)

    def endpoint(self, model: str, deployed: Deployed) -> Endpoint | None:
        return endpoint_of(deployed.package) if deployed.package in self.world["running"] else None

    def stop(self, model: str, deployed: Deployed) -> None:
        self.world["running"] = [item for item in self.world["running"] if item != deployed.package]

    def keep(self, model: str, packages: tuple[Deployed, ...]) -> None:
        self.world["kept"] = [item.version for item in packages]


@dataclass
class FileRouter:
    world: World

    def ensure(self, route: Route) -> None:
        self.world["route"] = route.model_dump(mode="json")

    def set_weight(self, percent: float) -> None:
        if self.world["route"] is None:
            raise PlatformError("no router answers")
        self.world["route"] = {**self.world["route"], "weight": percent}

    def weight(self) -> float | None:
        return self.world.weight

    def counts(self) -> Mapping[Arm, RouterCounts] | None:
        return None

    def remove(self) -> None:
        self.world["route"] = None


@dataclass
class FileCounts:
    """A second goes by with every look, in which requests arrive and are answered."""

    world: World
    packages: Mapping[Arm, Digest]

    def read(self) -> Mapping[Arm, ArmCounts | None]:
        content = self.world.read()
        share = (self.world.weight or 0) / 100
        counted = content["counted"]
        for arm, package in self.packages.items():
            came = RATE * (share if arm is Arm.CANARY else 1 - share)
            before = counted.get(package, [0, 0])
            counted[package] = [before[0] + came, before[1] + came * content["errors"].get(package, 0)]
        self.world.write({**content, "counted": counted, "seconds": content["seconds"] + 1})
        return {
            arm: None
            if arm in content["silent"]
            else ArmCounts(
                incarnation=package[:12],
                requests=round(counted[package][0]),
                errors=round(counted[package][1]),
                slow=0,
            )
            for arm, package in self.packages.items()
        }


@dataclass
class FileClock:
    world: World

    def now(self) -> datetime:
        return datetime.fromtimestamp(START.timestamp() + self.world["seconds"], UTC)

    def sleep(self, seconds: float) -> None:
        """Looks move the clock."""


class PlainJudge:
    """Counts as a judge does, and decides by a fixed rule: these tests are about what follows from a decision."""

    def __init__(self, plan: Plan, shadow: ShadowReport | None) -> None:
        self._plan = plan
        self._first: Sample | None = None
        self._step: Sample | None = None

    def look(self, sample: Sample) -> Judgement:
        self._first = self._first or sample
        if self._step is None or self._step.step != sample.step:
            self._step = sample
        decision, canary, before = Decision.WAIT, sample.canary, self._step.canary
        baked = sample.at - self._step.at
        if canary is not None and canary.requests >= 5 and canary.errors / canary.requests > 0.05:
            decision = Decision.ROLL_BACK
        elif canary is not None and before is not None and baked >= self._plan.bake_s:
            enough = canary.requests - before.requests >= self._plan.min_requests
            decision = Decision.ADVANCE if enough else decision
        if decision is Decision.WAIT and baked > self._plan.bake_s + self._plan.extend_s:
            decision = Decision.HOLD
        code = {Decision.ROLL_BACK: "PLAIN_ERRORS", Decision.HOLD: "PLAIN_UNDECIDED"}.get(decision)
        return Judgement(
            at=sample.at,
            step=sample.step,
            decision=decision,
            findings=() if code is None else (samples.finding(code),),
            canary_requests=0 if canary is None else canary.requests,
            baked_s=baked,
        )


def outside(world: World) -> Outside:
    """All of it."""

    def counted(release: Release, stable: Endpoint, canary: Endpoint) -> FileCounts:
        return FileCounts(world, {Arm.STABLE: package_at(stable), Arm.CANARY: package_at(canary)})

    def golden(model: str, deployed: Deployed, endpoint: Endpoint) -> GoldenAnswers:
        route = world["route"]
        asked = {package_at(endpoint)} if route is None or endpoint.port != route["port"] else _behind(world)
        if asked != {deployed.package} or deployed.package in world["wrong"]:
            return GoldenAnswers(findings=(samples.finding("RELEASE_GOLDEN_DIFFERS"),))
        return GoldenAnswers(rows=16)

    def attested(release: Release) -> tuple[Finding, ...]:
        unsound = release.candidate.package in world["unattested"]
        return (samples.finding("ATTESTATION_UNSIGNED"),) if unsound else ()

    def shadow(release: Release, stable: Endpoint, canary: Endpoint, recorded: Path | None) -> ShadowReport:
        verdict = Verdict(world["shadow"])
        found = () if verdict is Verdict.PASSED else (samples.finding("SHADOW_DIFFERS", verdict=verdict),)
        kind = "first" if release.stable is None else "equivalent"
        return ShadowReport(verdict=verdict, findings=found, requests=1000, distinct=16, rows=1000, kind=kind)

    def report(state: State, folder: Path) -> PackagedFile | None:
        return PackagedFile("release.html", digest_of("page"), 1)

    arms, router, clock = FileArms(world), FileRouter(world), FileClock(world)
    return Outside(
        arms, lambda _: router, counted, PlainJudge, golden, attested, shadow, FileChampion(world), report, clock
    )


def _behind(world: World) -> set[Digest | None]:
    """Every package that a user may meet."""
    return {world.serves(share / 2) for share in range(200)}


@dataclass
class FileChampion:
    world: World

    def announce(self, release: Release) -> None:
        self._connect()
        self.world["aliases"] = {**self.world["aliases"], "canary": release.candidate.version}

    def follow(self, state: State, serving: Serving | None, underway: Release | None, folder: Path) -> str | None:
        self._connect()
        self.world["aliases"] = {} if serving is None else {"champion": serving.current.version}
        return f"run of {state.release.id}"

    def _connect(self) -> None:
        if not self.world["mlflow"]:
            raise TrackingUnavailable("MLflow does not answer")


def controller(folder: Path, world: World, by: str = "anna", **given: Any) -> Controller:
    return Controller(folder / "home", outside(world), by, **given)


def run(moving: Controller, release: Release, looks: int = 200) -> Release:
    """Advance until it is over, held, or waits for a person."""
    from tasks.release.controller.drive import is_resting

    for _ in range(looks):
        release = moving.advance(release.id)
        if is_resting(release):
            return release
    raise AssertionError(f"it is still {release.phase} after {looks} slices")


def released(moving: Controller, number: int, store: Store, **changes: Any) -> Release:
    """A package through its whole release, and what follows from it."""
    release = run(moving, moving.open(candidate(number, store, **changes), Asked(by=moving.by), again=True))
    return moving.finish(release.id) if release.phase.is_over else release
