"""A released package as a container that stays: it outlives whoever started it, and the engine starts it again with
the machine.

In: a `Deployed`, and what it may use. Out: a `Serving`, which says where it listens. Its name follows from model,
package and image, so that starting is idempotent: what is there is found, not started twice. The same package in
another format, or tuned, is another arm beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.contracts import Digest
from tasks.errors import PlatformError
from tasks.image.engine import SERVING, ContainerInfo, ContainerSpec, Engine
from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.release.arms.labels import HOME_LABEL, MODEL_LABEL, PACKAGE_LABEL
from tasks.release.contracts import Deployed, Endpoint
from tasks.settings import Settings

COMPONENT = "serving"

#: Where the server in an image listens (`serving.settings`).
_PORT = 8000
#: Where an arm writes its sampled predictions, and the variable that says so (`serving.prediction_log`).
_LOG_AT, _LOG_VARIABLE = "/var/predictions", "SERVING_PREDICTION_LOG"
#: The user of Slipway's images (docker/base).
_NONROOT = 65532
#: SIGTERM lets requests in flight finish for 25 s (`serving.__main__`), and then what was left needs a moment.
_STOP_S = 30
_READY_ANSWER_S, _POLL_S = 1.0, 0.02


@dataclass(frozen=True, slots=True)
class Resources:
    """What an arm may use. `cpus` is a quota in cores, `memory_bytes` a hard limit; None for no limit.

    `predictions` is a folder of this machine that the arm writes sampled predictions into, and `environment` what else
    its server is told (docs/observe.md).
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    predictions: Path | None = None
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """A package's container, running or not. `container` is the engine's id of it."""

    package: Digest
    image: Digest
    name: str
    container: str
    running: bool
    endpoint: Endpoint


class Arms:
    """The containers of one model."""

    def __init__(self, model: str, engine: Engine, settings: Settings) -> None:
        self._model = model
        self._engine = engine
        self._home = str(settings.home)

    def name(self, deployed: Deployed) -> str:
        """The name of a package's container."""
        package, image = (digest.removeprefix("sha256:")[:12] for digest in deployed.identity)
        return f"slipway-{self._model}-{package}-{image}"

    def all(self) -> tuple[Serving, ...]:
        """Every arm of the model that is there."""
        found = self._engine.containers(f"{MODEL_LABEL}={self._model}", f"{HOME_LABEL}={self._home}", PACKAGE_LABEL)
        return tuple(_serving(info) for info in found)

    def find(self, package: Digest, image: Digest | None = None) -> Serving | None:
        """A package's arm, running or not; None where there is none. `image` says which, where it serves as several."""
        return next((arm for arm in self.all() if arm.package == package and image in (None, arm.image)), None)

    def start(self, deployed: Deployed, resources: Resources | None = None) -> Serving:
        """A package's arm, started where it does not run. It is not waited for (`until_ready`).

        Raises:
            PlatformError: its image is gone, or it does not start.
        """
        there = self.find(*deployed.identity)
        if there is not None and there.running:
            return there
        self._engine.start(self._spec(deployed, resources or Resources()))
        started = self.find(*deployed.identity)
        if started is None:
            raise PlatformError(f"the container {self.name(deployed)} was started and is gone: start it again")
        return started

    def until_ready(self, arm: Serving, within_s: float) -> None:
        """Wait until an arm answers that it is ready.

        Raises:
            PlatformError: it ended, or was not ready in time; the message has its last lines.
        """
        deadline, began = time.monotonic() + within_s, self._engine.state(arm.container).started_at
        while not is_ready(arm.endpoint):
            state = self._engine.state(arm.container)
            ended = not state.running or state.started_at != began  # the engine starts it again soon
            if ended or time.monotonic() > deadline:
                why = "ended before it was ready" if ended else f"was not ready within {within_s:g} s"
                log = self._engine.logs(arm.container, 10).strip()
                raise PlatformError(f"the container {arm.name} {why}; it says:\n{log}")
            time.sleep(_POLL_S)

    def stop(self, package: Digest, image: Digest | None = None) -> None:
        """Let a package's arm finish what it has, and remove it; nothing happens where there is none."""
        there = self.find(package, image)
        if there is None:
            return
        with suppress(PlatformError):  # it may have ended by itself
            self._engine.stop(there.container, _STOP_S)
        self._engine.remove(there.container)

    def remove_all(self) -> tuple[str, ...]:
        """Remove every arm of the model at once, whatever it is doing; their names."""
        arms = self.all()
        for arm in arms:
            self._engine.remove(arm.container)
        return tuple(arm.name for arm in arms)

    def _spec(self, deployed: Deployed, resources: Resources) -> ContainerSpec:
        environment, writable, user = dict(resources.environment or {}), {}, None
        if resources.predictions is not None:
            folder = resources.predictions.absolute()
            folder.mkdir(parents=True, exist_ok=True)
            if os.getuid() == 0:
                os.chown(folder, _NONROOT, _NONROOT)
            else:
                user = f"{os.getuid()}:{os.getgid()}"  # what it writes must be ours
            writable, environment[_LOG_VARIABLE] = {folder: _LOG_AT}, _LOG_AT
        return ContainerSpec(
            image=deployed.image,
            name=self.name(deployed),
            component=COMPONENT,
            environment=environment,
            network=SERVING,
            cpus=resources.cpus,
            memory_bytes=resources.memory_bytes,
            user=user,
            writable=writable,
            labels={MODEL_LABEL: self._model, PACKAGE_LABEL: deployed.package, HOME_LABEL: self._home},
            stays=True,
        )


def is_ready(endpoint: Endpoint) -> bool:
    """Whether a server says that it takes requests."""
    with Connection(Address(endpoint.host, endpoint.port), _READY_ANSWER_S) as connection, suppress(Unanswered, Broken):
        return connection.request(get("/v2/health/ready")).status == 200
    return False


def _serving(info: ContainerInfo) -> Serving:
    return Serving(
        package=info.labels[PACKAGE_LABEL],
        image=info.image,
        name=info.name,
        container=info.id,
        running=info.running,
        endpoint=Endpoint(host=info.address or "0.0.0.0", port=_PORT),  # noqa: S104  nobody listens there
    )
