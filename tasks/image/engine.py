"""The Docker engine behind one small protocol: images, builds, and containers that never outlive their owner.

In: values (`ContainerSpec`, a build context). Out: values (`ImageInfo`, `ContainerState`). Nothing of the Docker SDK
leaves this module; `tasks.image.docker_engine` is the implementation.

Every container that Slipway starts carries the labels of `owner_labels`, so that what a killed process left behind is
recognised and swept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from tasks.contracts import Digest
from tasks.errors import BadInput

COMPONENT_LABEL = "io.slipway.component"
PID_LABEL = "io.slipway.pid"
PID_NAMESPACE_LABEL = "io.slipway.pid-namespace"
BOOT_LABEL = "io.slipway.boot"

#: On a serving image: the instruction-set extensions that its compiled model holds, separated by spaces.
NEEDS_LABEL = "io.slipway.needs"
#: On a serving image: the digest of the contract inside.
CONTRACT_LABEL = "io.slipway.contract"
#: On a serving image: the digest of the export that it serves.
EXPORT_LABEL = "io.slipway.export"
#: On a serving image: the seconds that serving.cold_start_s allowed when it was packaged.
COLD_START_LABEL = "io.slipway.cold-start-s"


#: A bridge network on which ports can be published and nothing else: no way out of the machine, none to each other.
#: The engine makes it when the first container needs it, and keeps it.
ISOLATED = "slipway-isolated"
#: The same for what stays: a network of its own, on which every container has an address that is its own for as long as
#: it exists (`ContainerSpec.stays`), also after the machine was started again.
SERVING = "slipway-serving"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image in the engine. `id` is the digest of its configuration; `layers` are the digests of its unpacked layers,
    the lowest first."""

    id: Digest
    tags: tuple[str, ...]
    size_bytes: int
    layers: tuple[Digest, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to start, as locked down as Slipway's images are meant to run: read-only root, no capabilities, no
    new privileges. `name` is deterministic; `component` says which part of Slipway it belongs to (`smoke`).

    `ports` are container ports, each published on a free port of 127.0.0.1 (`Engine.host_port`), which needs the
    network `ISOLATED`, or `bridge` with its way out. `mounts` are read-only: host path → path in the container;
    `writable` may be written to. `entrypoint` replaces the image's own. `cpus` is a CFS quota in cores, `memory_bytes`
    a hard limit without swap.

    One that `stays` serves users: it belongs to no process, so nothing sweeps it; the engine starts it again when it
    ends by itself, and with the machine. `labels` say what it is, to whoever looks for it (`Engine.containers`).
    """

    image: str
    name: str
    component: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[Path, str] = field(default_factory=dict)
    network: str = "none"
    ports: tuple[int, ...] = ()
    cpus: float | None = None
    memory_bytes: int | None = None
    pids_limit: int = 512
    user: str | None = None
    writable: Mapping[Path, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    stays: bool = False


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container that is there, running or not. `address` is that in its network, None where it has none of its own.
    `image` is the digest of its image's configuration."""

    id: str
    name: str
    image: Digest
    labels: Mapping[str, str]
    running: bool
    address: str | None


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What the engine knows about a container. `exit_code` is `None` while it runs; 128 + n means killed by signal n.

    `oom_killed` is the engine's own word that the memory limit was hit, which exit code 137 alone does not say.
    Times are seconds since the epoch, by the engine's clock.
    """

    id: str
    running: bool
    exit_code: int | None
    oom_killed: bool
    error: str
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Completed:
    """A container that ran to its end, or (`timed_out`) was killed because it did not."""

    state: ContainerState
    logs: str
    timed_out: bool


class Engine(Protocol):
    """What Slipway asks of a container engine. All calls raise `EngineUnavailable` when it stops answering."""

    # images

    def find_image(self, reference: str) -> ImageInfo | None:
        """The image of that name, tag or id; `None` where the engine has none.

        Raises:
            BadInput: the text cannot name an image.
        """

    def images(self, label: str) -> tuple[ImageInfo, ...]:
        """Every image that carries a label (`key` or `key=value`), tagged or dangling."""

    def build(self, context: IO[bytes], tag: str, arguments: Mapping[str, str], labels: Mapping[str, str]) -> ImageInfo:
        """Build a tar that holds a `Dockerfile`, without network; the image, tagged only when it is complete.

        Its digest follows from its content, where the engine lets it: no time of day is in its configuration.

        Raises:
            BuildFailed: with the engine's last lines.
        """

    def add_layer(self, below: ImageInfo, layer: IO[bytes], tag: str, labels: Mapping[str, str]) -> ImageInfo:
        """The image `below` with one more layer (a file that is a tar of what it adds) and more labels; tagged.

        No container is made for it, so it costs what its bytes cost.

        Raises:
            BuildFailed: with the engine's last lines.
        """

    def tag(self, reference: str, tag: str) -> None: ...

    def copy_out(self, image: str, path: str, folder: Path) -> None:
        """Write an image's file, or the files below an image's folder, into `folder`; nothing of the image is run.

        Raises:
            PlatformError: the image or the path is not there, or something below it is neither file nor folder.
        """

    def remove_image(self, reference: str) -> None:
        """Remove a tag, and the image with its last one; nothing happens where there is none."""

    def push(self, reference: str, repository: str, tag: str) -> Digest:
        """Push an image; the digest of its manifest there.

        Raises:
            RegistryFailed: the registry does not answer, or does not let this user write.
        """

    def pull(self, repository: str, digest: Digest) -> ImageInfo:
        """Pull an image by the digest of its manifest.

        Raises:
            BadInput: the registry has none of that digest.
            RegistryFailed: it does not answer, or does not let this user read.
        """

    def prune_builds(self) -> None:
        """Remove what builds of Slipway's images left behind more than an hour ago when they were killed: steps that no
        image is made of. Younger ones may belong to a build that runs, or be taken up again by the next."""

    # containers

    def start(self, spec: ContainerSpec) -> str:
        """Start a container; its id. A leftover of the same name is removed first.

        Raises:
            PlatformError: the image is missing or does not start, or a live process owns a container of that name.
        """

    def containers(self, *labels: str) -> tuple[ContainerInfo, ...]:
        """Every container that carries all of these labels (`key` or `key=value`), running or not, by name."""

    def state(self, container: str) -> ContainerState: ...

    def wait(self, container: str, timeout_s: float) -> ContainerState | None:
        """Wait for its end; `None` when it still runs after `timeout_s`."""

    def logs(self, container: str, tail: int = 200) -> str:
        """The last `tail` lines of standard output and error together."""

    def host_port(self, container: str, port: int) -> int:
        """The port of 127.0.0.1 at which a published container port answers."""

    def peak_memory_bytes(self, container: str) -> int | None:
        """Most memory that the running container ever held, page cache included, by the kernel's own account
        (cgroup v1 `memory.max_usage_in_bytes`, v2 `memory.peak`); `None` where the kernel does not say."""

    def cpu_seconds(self, container: str) -> float | None:
        """CPU time that the running container has used, over all its CPUs (cgroup v1 `cpuacct.usage`, v2 `cpu.stat`);
        `None` where the kernel does not say."""

    def stop(self, container: str, timeout_s: int) -> None:
        """SIGTERM (or what its image says ends it in order), and SIGKILL after `timeout_s`."""

    def remove(self, container: str) -> None:
        """Kill and remove; nothing happens where there is none."""

    def sweep(self, component: str) -> tuple[str, ...]:
        """Remove the component's containers whose owner is dead; their names."""


def serving_image(engine: Engine, asked: str, nor: str = "") -> ImageInfo:
    """The serving image of that name, tag or id. It is never pulled; `nor` says where else it was looked for.

    Raises:
        BadInput: the engine has none, or it is none that Slipway built.
    """
    found = engine.find_image(asked)
    if found is None:
        raise BadInput(f"the engine has no image {asked}{nor}: `slipway status` lists what was packaged")
    if CONTRACT_LABEL not in found.labels:
        raise BadInput(f"the image {asked} is no serving image that Slipway built: it has no label {CONTRACT_LABEL}")
    return found


def owner_labels(component: str) -> dict[str, str]:
    """Who starts a container: component and process, with the boot and namespace that make a pid mean something."""
    return {
        COMPONENT_LABEL: component,
        PID_LABEL: str(os.getpid()),
        PID_NAMESPACE_LABEL: _pid_namespace(),
        BOOT_LABEL: _boot_id(),
    }


def is_orphan(labels: Mapping[str, str], running: bool) -> bool:
    """Whether the process that started a labelled container is known to be dead.

    A container of another boot is an orphan when it has ended: its machine was restarted, or is not this one. A pid of
    another process namespace says nothing here.
    """
    pid = labels.get(PID_LABEL, "")
    if not pid.isdigit():
        return False
    if labels.get(BOOT_LABEL) != _boot_id():
        return not running
    if labels.get(PID_NAMESPACE_LABEL) != _pid_namespace():
        return False
    return not Path(f"/proc/{pid}").exists()


@contextlib.contextmanager
def running(engine: Engine, spec: ContainerSpec) -> Iterator[str]:
    """A started container's id; it is removed at the end, whatever happens."""
    container = engine.start(spec)
    try:
        yield container
    finally:
        engine.remove(container)


def run(engine: Engine, spec: ContainerSpec, timeout_s: float) -> Completed:
    """Run a container to its end and remove it; killed after `timeout_s`."""
    with running(engine, spec) as container:
        ended = engine.wait(container, timeout_s)
        if ended is not None:
            return Completed(ended, engine.logs(container), timed_out=False)
        engine.stop(container, 0)
        return Completed(engine.state(container), engine.logs(container), timed_out=True)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
