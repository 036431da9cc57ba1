"""The real outside: HAProxy, containers, the servers' own counters, MLflow. Nothing is started by making it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

from serving.contract import PackagedFile
from tasks.contracts import Finding
from tasks.image.engine import Engine
from tasks.lineage import spec_of
from tasks.release.contracts import Arm, Counted, Deployed, Endpoint, Release, Router, ShadowReport
from tasks.release.controller.events import State
from tasks.release.controller.gates import StoredEvidence, StoredGolden, find
from tasks.release.controller.protocols import Outside, WallClock
from tasks.release.sources import PROMETHEUS, find_source
from tasks.settings import Settings
from tasks.store import Store, open_store
from tasks.workspace import scratch

#: A server that serves may take longer to be ready than its budget says: the machine is busy with the one before it.
_READY_TIMES, _READY_AT_LEAST_S = 5, 30.0
#: The repository of tags that keep images: `slipway/digits:kept-0123456789ab`.
_KEPT = "kept-"


def outside(settings: Settings) -> Outside:
    """Everything that a controller acts through, on this machine. The engine is asked for when it is needed, so that
    what is known can be told without one."""
    from tasks.release.champion import MlflowChampion  # which knows the controller's own values
    from tasks.release.judge import Judge
    from tasks.release.router import find_router

    store, engine = open_store(settings.store_uri), LazyEngine()
    arms = ContainerArms(settings, store, engine)

    def router(model: str) -> Router:
        return find_router("haproxy", model, engine.get(), settings)

    def counted(release: Release, stable: Endpoint, canary: Endpoint) -> Counted:
        source = "prometheus" if os.environ.get(PROMETHEUS) else "servers"
        arms_of = {Arm.STABLE: stable, Arm.CANARY: canary}
        return find_source(source, arms_of, router(release.model), release.plan.p99_ms)

    def attested(release: Release) -> tuple[Finding, ...]:
        return StoredEvidence(settings, store, engine.get())(release)

    return Outside(
        arms=arms,
        router=router,
        counted=counted,
        judge=Judge,
        golden=StoredGolden(settings, store),
        attested=attested,
        shadow=StoredShadow(settings, store, arms),
        champion=MlflowChampion(settings, store),
        report=Page(store),
        clock=WallClock(),
    )


class LazyEngine:
    """The container engine, connected once, when somebody needs it."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def get(self) -> Engine:
        """
        Raises:
            EngineUnavailable: no engine answers.
        """
        from tasks.image import connect

        self._engine = self._engine or connect()
        return self._engine


@dataclass(frozen=True, slots=True)
class ContainerArms:
    """See `tasks.release.controller.protocols.Arms`: each package's container, found by its digest."""

    settings: Settings
    store: Store
    engine: LazyEngine

    def start(self, model: str, deployed: Deployed) -> Endpoint:
        from tasks.release.arms import Arms, Resources

        arms = Arms(model, self.engine.get(), self.settings)
        arm = arms.start(deployed, Resources(predictions=self.predictions(model, deployed)))
        arms.until_ready(arm, self._ready_within_s(deployed))
        return arm.endpoint

    def endpoint(self, model: str, deployed: Deployed) -> Endpoint | None:
        from tasks.release.arms import Arms

        arm = Arms(model, self.engine.get(), self.settings).find(*deployed.identity)
        return arm.endpoint if arm is not None and arm.running else None

    def stop(self, model: str, deployed: Deployed) -> None:
        from tasks.release.arms import Arms

        Arms(model, self.engine.get(), self.settings).stop(*deployed.identity)

    def keep(self, model: str, packages: tuple[Deployed, ...]) -> None:
        engine = self.engine.get()
        repository = f"slipway/{model}"
        wanted = {f"{repository}:{_KEPT}{item.image.removeprefix('sha256:')[:12]}": item.image for item in packages}
        has = {
            tag
            for image in engine.images(f"org.opencontainers.image.title={model}")
            for tag in image.tags
            if tag.startswith(f"{repository}:{_KEPT}")
        }
        for tag, image in wanted.items():
            if tag not in has:
                engine.tag(image, tag)
        for tag in sorted(has - set(wanted)):
            engine.remove_image(tag)  # the tag alone: what else names the image keeps it

    def predictions(self, model: str, deployed: Deployed) -> Path | None:
        """Where the package's server writes sampled requests, where its spec asks for that; shadow replays them."""
        recorded = find(deployed, self.store)
        spec = None if recorded is None else spec_of(recorded.package, self.store)
        if spec is None or spec.serving.prediction_log is None:
            return None
        return self.settings.home / "predictions" / model / deployed.package.removeprefix("sha256:")[:12]

    def _ready_within_s(self, deployed: Deployed) -> float:
        recorded = find(deployed, self.store)
        spec = None if recorded is None else spec_of(recorded.package, self.store)
        return max(_READY_AT_LEAST_S, 0 if spec is None else _READY_TIMES * spec.serving.cold_start_s)


@dataclass(frozen=True, slots=True)
class StoredShadow:
    """See `tasks.release.controller.protocols.Shadowing`."""

    settings: Settings
    store: Store
    arms: ContainerArms

    def __call__(self, release: Release, stable: Endpoint, canary: Endpoint, recorded: Path | None) -> ShadowReport:
        from tasks.release.shadow import shadow

        log = recorded
        if log is None and release.stable is not None:
            written = self.arms.predictions(release.model, release.stable)
            log = written if written is not None and written.is_dir() else None
        with scratch(self.settings.work) as work:
            return shadow(
                release.stable,
                release.candidate,
                None if release.stable is None else stable,
                canary,
                release.shadow_spec,
                self.store,
                work,
                log=log,
            )


@dataclass(frozen=True, slots=True)
class Page:
    """See `tasks.release.controller.protocols.Reporting`."""

    store: Store

    def __call__(self, state: State, folder: Path) -> PackagedFile | None:
        from tasks.release.controller.ledger import history
        from tasks.release.controller.trace import looks
        from tasks.release.judge import Judge
        from tasks.release.report import render

        release = state.release
        judge, seen = Judge(release.plan, release.shadow), looks(folder / "trace.jsonl")
        page = render(release, seen, [judge.look(sample) for sample in seen], history(folder / "journal.jsonl"))
        digest, size = self.store.put_stream(io.BytesIO(page.encode()))
        return PackagedFile("release.html", digest, size)
