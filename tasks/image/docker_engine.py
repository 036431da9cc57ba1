"""The engine protocol over the Docker SDK."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tasks.contracts import Digest
from tasks.errors import BadInput, BuildFailed, EngineUnavailable, PlatformError, RegistryFailed
from tasks.image.archive import unpack
from tasks.image.context import Context
from tasks.image.docker_answers import answers, raise_event, reason, registry_answers
from tasks.image.docker_networks import address_in, ensure_isolated, free_address
from tasks.image.engine import (
    COMPONENT_LABEL,
    ISOLATED,
    SERVING,
    ContainerInfo,
    ContainerSpec,
    ContainerState,
    ImageInfo,
    is_orphan,
    owner_labels,
)
from tasks.image.undated import digest_of_bytes, undated_configuration, write_archive

if TYPE_CHECKING:
    from docker import APIClient

#: Seconds that the engine may take for one answer; a build's answer is a stream, and each line counts anew.
_TIMEOUT_S = 600
_ERROR_LINES = 15
#: How the engine says that two containers were to have one address, and how many are tried then.
_ADDRESS_TAKEN, _ADDRESSES_TRIED = "address already in use", 5
#: How the engine says that a text cannot name an image at all (distribution's reference.ErrReferenceInvalidFormat).
_INVALID_NAME = "invalid reference format"


def connect() -> DockerEngine:
    """The engine at `DOCKER_HOST`, or at the local socket.

    Raises:
        EngineUnavailable: it does not answer.
    """
    from docker.utils import kwargs_from_env

    import docker

    try:
        client = docker.APIClient(**kwargs_from_env(), timeout=_TIMEOUT_S, version="auto")
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise EngineUnavailable(
            "no Docker engine answers: start one (`make setup` starts Debian's where you are root), "
            f"or point DOCKER_HOST to one; the reason given is: {reason(error)}"
        ) from error
    return DockerEngine(client)


class DockerEngine:
    """See `tasks.image.engine.Engine`."""

    def __init__(self, client: APIClient) -> None:
        self._api = client

    # --- images ---------------------------------------------------------------------------------------------------

    def find_image(self, reference: str) -> ImageInfo | None:
        import docker

        with answers():
            try:
                return _image_info(self._api.inspect_image(reference))  # type: ignore[no-untyped-call]
            except docker.errors.NotFound:
                return None
            except (docker.errors.NullResource, docker.errors.APIError) as error:
                if isinstance(error, docker.errors.APIError) and _INVALID_NAME not in reason(error):
                    raise
                raise BadInput(
                    f"{reference!r} is no name of an image: expected NAME:TAG (slipway/digits:onnx-1) or a digest"
                ) from error

    def images(self, label: str) -> tuple[ImageInfo, ...]:
        with answers():
            listed = self._api.images(filters={"label": label}, all=True)
        found = (self.find_image(entry["Id"]) for entry in listed)
        return tuple(info for info in found if info is not None)

    def build(self, context: IO[bytes], tag: str, arguments: Mapping[str, str], labels: Mapping[str, str]) -> ImageInfo:
        lines: list[str] = []
        self.prune_builds()
        with answers():
            # Without a tag: a tag must never name an image that is not complete.
            stream = self._api.build(
                fileobj=context,
                custom_context=True,
                buildargs=dict(arguments),
                labels=dict(labels),
                network_mode="none",
                rm=True,
                forcerm=True,
                decode=True,
            )
            built = None
            for event in stream:
                if "error" in event:
                    last = "\n".join([*lines[-_ERROR_LINES:], str(event["error"])])
                    raise BuildFailed(f"the image {tag} could not be built; the engine says:\n{last}")
                built = event.get("aux", {}).get("ID", built)
                lines += str(event.get("stream", "")).strip().splitlines()
        if built is None:
            raise BuildFailed(f"the image {tag} could not be built: the engine ended without naming an image")
        if not self._load_undated(built, tag):
            self.tag(built, tag)
        info = self.find_image(tag)
        if info is None:
            raise BuildFailed(f"the image {tag} was built and is gone: something removes images on this engine")
        return info

    def add_layer(self, below: ImageInfo, layer: IO[bytes], tag: str, labels: Mapping[str, str]) -> ImageInfo:
        added = f"sha256:{hashlib.file_digest(layer, 'sha256').hexdigest()}"  # type: ignore[arg-type]
        with answers():
            inspected = self._api.inspect_image(below.id)  # type: ignore[no-untyped-call]
        configuration = undated_configuration(inspected, (*below.layers, added), labels)
        if not self._load(configuration, tag, {added: layer}):
            layer.seek(0)
            with tempfile.TemporaryFile() as stream:
                context = Context(stream)
                context.add_bytes("Dockerfile", f"FROM {below.id}\nADD layer.tar /\n".encode())
                context.add_stream("layer.tar", layer)
                return self.build(context.finish(), tag, {}, labels)
        info = self.find_image(tag)
        if info is None:
            raise BuildFailed(f"the image {tag} was loaded and is gone: something removes images on this engine")
        return info

    def _load_undated(self, built: str, tag: str) -> bool:
        """Load the same layers once more under `tag`, with a configuration that follows from the build alone: the
        engine writes the time of day into its own, and an image's digest is that of its configuration."""
        with answers():
            inspected = self._api.inspect_image(built)  # type: ignore[no-untyped-call]
        configuration = undated_configuration(inspected, inspected["RootFS"]["Layers"])
        if not self._load(configuration, tag, {}):
            return False
        with contextlib.suppress(PlatformError):  # others may stand on it; without a tag it is pruned some day
            if built != digest_of_bytes(configuration):
                self.remove_image(built)
        return True

    def _load(self, configuration: bytes, tag: str, layers: Mapping[str, IO[bytes]]) -> bool:
        """Load an image whose other layers the engine has; `False` where it does not take that (containerd's store)."""
        with tempfile.TemporaryFile() as stream, answers():
            write_archive(stream, configuration, tag, layers)
            events = self._api.load_image(stream, quiet=True)  # type: ignore[no-untyped-call]
            refused = [event for event in events if "error" in event]
        loaded = self.find_image(tag)
        return not refused and loaded is not None and loaded.id == digest_of_bytes(configuration)

    def tag(self, reference: str, tag: str) -> None:
        repository, _, version = tag.rpartition(":")
        with answers():
            self._api.tag(reference, repository, version, force=True)

    def copy_out(self, image: str, path: str, folder: Path) -> None:
        import docker

        self.sweep("copy")
        with answers():
            try:
                container = str(self._api.create_container(image, labels=owner_labels("copy"))["Id"])
            except docker.errors.ImageNotFound as error:
                raise PlatformError(f"the image {image} is not in the engine") from error
        try:
            with answers():
                try:
                    stream, _ = self._api.get_archive(container, path)
                except docker.errors.NotFound as error:
                    raise PlatformError(f"the image {image} has no {path}") from error
                try:
                    unpack(stream, folder)
                finally:
                    for _ in stream:  # the engine does not let go of the container before it has sent everything
                        pass
        finally:
            self.remove(container)

    def remove_image(self, reference: str) -> None:
        import docker

        with answers(), contextlib.suppress(docker.errors.NotFound):
            self._api.remove_image(reference)

    def push(self, reference: str, repository: str, tag: str) -> Digest:
        digest = None
        self.tag(reference, f"{repository}:{tag}")
        try:
            with registry_answers(repository):
                for event in self._api.push(repository, tag=tag, stream=True, decode=True):
                    raise_event(event)
                    digest = event.get("aux", {}).get("Digest", digest)
        except BaseException:  # also an interrupt: a tag says that it is there
            self.remove_image(f"{repository}:{tag}")
            raise
        if digest is None:
            raise RegistryFailed(f"{repository} took the image without naming its digest: push it again")
        return str(digest)

    def pull(self, repository: str, digest: Digest) -> ImageInfo:
        with registry_answers(repository):
            for event in self._api.pull(repository, tag=digest, stream=True, decode=True):
                raise_event(event)
        info = self.find_image(f"{repository}@{digest}")
        if info is None:
            raise RegistryFailed(f"{repository}@{digest} was pulled and is gone: something removes images here")
        return info

    def prune_builds(self) -> None:
        import docker

        left = {"dangling": True, "label": [f"{COMPONENT_LABEL}=image"], "until": "1h"}
        with answers():
            try:
                self._api.prune_images(left)  # type: ignore[no-untyped-call]
            except docker.errors.APIError as error:
                if error.status_code != 409:  # another build is at it
                    raise

    # --- containers -----------------------------------------------------------------------------------------------

    def start(self, spec: ContainerSpec) -> str:
        self._remove_leftover(spec.name)
        if spec.network == ISOLATED:
            ensure_isolated(self._api)
        if spec.network != SERVING:
            return self._start(spec, None)
        for _ in range(_ADDRESSES_TRIED):
            address = free_address(self._api)
            try:
                return self._start(spec, address)
            except PlatformError as error:
                if _ADDRESS_TAKEN not in str(error).lower():
                    raise
        raise PlatformError(
            f"the container {spec.name} found no free address in {_ADDRESSES_TRIED} attempts: try again"
        )

    def _start(self, spec: ContainerSpec, address: str | None) -> str:
        import docker

        with answers():
            try:
                created = self._api.create_container(
                    spec.image,
                    name=spec.name,
                    command=list(spec.command) or None,
                    entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
                    environment=dict(spec.environment),
                    ports=list(spec.ports),
                    labels=_labels(spec),
                    user=spec.user,
                    host_config=self._host_config(spec),
                    networking_config=None if address is None else self._at(address),
                )
            except docker.errors.ImageNotFound as error:
                raise PlatformError(
                    f"the image {spec.image} is not in the engine: run the image stage again with --fresh"
                ) from error
            container = str(created["Id"])
            try:
                self._api.start(container)
            except BaseException as error:  # also an interrupt must not leave it behind
                self.remove(container)
                if isinstance(error, docker.errors.APIError):
                    raise PlatformError(
                        f"the container {spec.name} of {spec.image} could not be started: {reason(error)}"
                    ) from error
                raise
        return container

    def _host_config(self, spec: ContainerSpec) -> Any:
        import docker

        limits: dict[str, Any] = {}
        if spec.cpus is not None:
            limits["nano_cpus"] = int(spec.cpus * 1e9)
        if spec.memory_bytes is not None:
            limits |= {"mem_limit": spec.memory_bytes, "memswap_limit": spec.memory_bytes}
        if spec.stays:
            limits["restart_policy"] = {"Name": "unless-stopped"}
        return self._api.create_host_config(
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode=spec.network,
            pids_limit=spec.pids_limit,
            port_bindings=dict.fromkeys(spec.ports, ("127.0.0.1", None)),
            binds=[
                *(f"{source}:{target}:ro" for source, target in spec.mounts.items()),
                *(f"{source}:{target}" for source, target in spec.writable.items()),
            ],
            log_config=docker.types.LogConfig(type="json-file", config={"max-size": "10m", "max-file": "1"}),
            **limits,
        )

    def _at(self, address: str) -> Any:
        endpoint = self._api.create_endpoint_config(ipv4_address=address)
        return self._api.create_networking_config({SERVING: endpoint})  # type: ignore[arg-type]  # it takes a dict

    def containers(self, *labels: str) -> tuple[ContainerInfo, ...]:
        with answers():
            listed = self._api.containers(all=True, filters={"label": list(labels)})
        return tuple(sorted((_container_info(entry) for entry in listed), key=lambda info: info.name))

    def state(self, container: str) -> ContainerState:
        with answers():
            inspected = self._api.inspect_container(container)
        state = inspected["State"]
        running = bool(state["Running"])
        return ContainerState(
            id=inspected["Id"],
            running=running,
            exit_code=None if running else int(state["ExitCode"]),
            oom_killed=bool(state["OOMKilled"]),
            error=str(state.get("Error", "")),
            started_at=_epoch(state["StartedAt"]),
            finished_at=_epoch(state["FinishedAt"]),
        )

    def wait(self, container: str, timeout_s: float) -> ContainerState | None:
        import requests

        deadline = time.monotonic() + timeout_s
        with answers():
            try:
                self._api.wait(container, timeout=max(1, ceil(timeout_s)))
            except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                # requests reports a read that timed out as either of the two
                if time.monotonic() < deadline:
                    raise
                return None
        return self.state(container)

    def logs(self, container: str, tail: int = 200) -> str:
        with answers():
            return bytes(self._api.logs(container, tail=tail)).decode(errors="replace")

    def host_port(self, container: str, port: int) -> int:
        with answers():
            bindings = self._api.port(container, port)
        if not bindings:
            raise PlatformError(f"port {port} of the container {container[:12]} is not published; it may have ended")
        return int(bindings[0]["HostPort"])

    def peak_memory_bytes(self, container: str) -> int | None:
        for controller, name in (("memory", "memory.max_usage_in_bytes"), ("", "memory.peak")):
            if (text := self._cgroup(container, controller, name)) is not None:
                return int(text)
        with answers():
            statistics = self._api.stats(container, stream=False, one_shot=True)
        peak = statistics.get("memory_stats", {}).get("max_usage")
        return None if peak is None else int(peak)

    def cpu_seconds(self, container: str) -> float | None:
        if (nanoseconds := self._cgroup(container, "cpuacct", "cpuacct.usage")) is not None:
            return int(nanoseconds) / 1e9
        if (statistics := self._cgroup(container, "", "cpu.stat")) is not None:
            return int(dict(line.split() for line in statistics.splitlines())["usage_usec"]) / 1e6
        return None

    def stop(self, container: str, timeout_s: int) -> None:
        with answers():
            self._api.stop(container, timeout=timeout_s)

    def remove(self, container: str) -> None:
        import docker

        with answers(), contextlib.suppress(docker.errors.NotFound):
            try:
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.APIError as error:
                if "already in progress" not in str(error):
                    raise

    def sweep(self, component: str) -> tuple[str, ...]:
        with answers():
            listed = self._api.containers(all=True, filters={"label": f"{COMPONENT_LABEL}={component}"})
        swept = []
        for entry in listed:
            if is_orphan(entry["Labels"], running=entry["State"] == "running"):
                self.remove(entry["Id"])
                swept.append(str(entry["Names"][0]).removeprefix("/"))
        return tuple(sorted(swept))

    def _cgroup(self, container: str, controller: str, name: str) -> str | None:
        """A file of the container's control group, as either cgroup driver names it; `controller` is "" for v2."""
        identity = self.state(container).id
        for place in (f"docker/{identity}", f"system.slice/docker-{identity}.scope"):
            with contextlib.suppress(OSError):
                return (Path("/sys/fs/cgroup") / controller / place / name).read_text()
        return None

    def _remove_leftover(self, name: str) -> None:
        import docker

        with answers():
            try:
                inspected = self._api.inspect_container(name)
            except docker.errors.NotFound:
                return
        labels = inspected["Config"]["Labels"] or {}
        own = owner_labels("")
        mine = all(labels.get(key) == value for key, value in own.items() if key != COMPONENT_LABEL)
        running = bool(inspected["State"]["Running"])
        if not running or mine or is_orphan(labels, running):
            self.remove(inspected["Id"])
            return
        raise PlatformError(
            f"a container named {name} is running and belongs to someone else: wait for it, "
            f"or remove it with `docker rm --force {name}`"
        )


def _labels(spec: ContainerSpec) -> dict[str, str]:
    """Who it belongs to; one that stays belongs to no process."""
    owner = {COMPONENT_LABEL: spec.component} if spec.stays else owner_labels(spec.component)
    return {**spec.labels, **owner}


def _container_info(entry: Mapping[str, Any]) -> ContainerInfo:
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    return ContainerInfo(
        id=str(entry["Id"]),
        name=str(entry["Names"][0]).removeprefix("/"),
        image=str(entry["ImageID"]),
        labels=dict(entry["Labels"] or {}),
        running=entry["State"] == "running",
        address=next((found for endpoint in networks.values() if (found := address_in(endpoint))), None),
    )


def _image_info(inspected: Mapping[str, Any]) -> ImageInfo:
    return ImageInfo(
        id=str(inspected["Id"]),
        tags=tuple(sorted(inspected.get("RepoTags") or ())),
        size_bytes=int(inspected["Size"]),
        layers=tuple(inspected["RootFS"].get("Layers") or ()),
        labels=dict(inspected["Config"].get("Labels") or {}),
    )


def _epoch(timestamp: str) -> float | None:
    """Docker's RFC 3339 with nanoseconds → seconds since the epoch; the year 1 means never."""
    if timestamp.startswith("0001-"):
        return None
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
