"""Running an image under one instance type's limits and writing down what is seen; nothing is judged here.

The container is started by the image's digest, locked down as in production, with the type's vCPUs and memory as far
as this host has them. First it must become ready, then answer golden samples one after the other, then from several
clients at once, then its latency is measured. The first phase in which it ends, or stops answering, is the last. What
lived is then tried under the type's other instruction sets (`tasks.smoke.emulation`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from tasks.contracts import Image
from tasks.errors import PlatformError
from tasks.image.engine import ISOLATED, ContainerSpec, ContainerState, Engine, running
from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.emulation import as_exit, under
from tasks.smoke.golden import GoldenSamples, Sample
from tasks.smoke.instruction_set import Host, plan
from tasks.smoke.load import Answers, ask, ask_at_once, measure
from tasks.smoke.observation import Limits, Observation, Phase
from tasks.smoke.quiet import CpuTimes, taken_by_others, wait_until_quiet
from tasks.spec import ServingSpec

COMPONENT = "smoke"

#: Where the server in an image listens.
SERVER_PORT = 8000

_POLL_S = 0.01
_READY_ANSWER_S = 1.0
_LOOK_S = 0.25  # asking the engine costs more than asking the server
_END_SHOWS_S = 2.0
_ROWS = 32
_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to wait and how much to ask. More only makes the figures steadier."""

    ready_within_s: float
    request_within_s: float
    quiet_within_s: float = 10
    clients: int = _CLIENTS
    rounds: int = 5
    concurrent_within_s: float = 5
    warmup: int = 30
    requests: int = 400
    at_least: int = 50
    latency_within_s: float = 4
    emulation_within_s: float = 180

    @classmethod
    def of(cls, serving: ServingSpec) -> Effort:
        """Time limits far beyond the budgets: what is late gets a figure, only what hangs is cut off."""
        largest_s = serving.max_batch * serving.p99_ms / 1000
        return cls(
            ready_within_s=max(30, 5 * serving.cold_start_s),
            request_within_s=max(30, 2 * _CLIENTS * largest_s),  # each client may have to wait for all others
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run, and what it is asked."""

    image: Image
    kind: InstanceType
    golden: GoldenSamples
    batches: tuple[int, ...]
    infer_path: str

    @property
    def container(self) -> str:
        """The same image on the same type has the same container name, so that leftovers are found."""
        digest = self.image.digest.removeprefix("sha256:")[:12]
        return f"slipway-smoke-{digest}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', self.kind.name)}"


def observe(subject: Subject, host: Host, effort: Effort, engine: Engine) -> Observation:
    """Run the image natively under the type's limits, then each emulated instruction set; all containers are removed.

    Raises:
        EngineUnavailable: the engine stopped answering.
        PlatformError: the container could not be started at all.
    """
    limits = Limits(
        vcpus=min(subject.kind.vcpus, host.vcpus),
        memory_bytes=min(subject.kind.memory_bytes, host.memory_bytes),
        type_vcpus=subject.kind.vcpus,
        type_memory_bytes=subject.kind.memory_bytes,
    )
    spec = ContainerSpec(
        image=subject.image.digest,
        name=subject.container,
        component=COMPONENT,
        network=ISOLATED,
        ports=(SERVER_PORT,),
        cpus=limits.vcpus,
        memory_bytes=limits.memory_bytes,
    )
    seen = Observation(limits, waited_s=0, golden_rows=subject.golden.rows)
    wait_until_quiet(host.vcpus, effort.quiet_within_s)
    before = CpuTimes.now()
    with running(engine, spec) as container:
        seen = _Trial(subject, host, effort, engine, container).through(seen, before)
    if seen.ready_after_s is None:
        return seen
    emulation = ContainerSpec(image=subject.image.digest, name=f"{subject.container}-emulated", component=COMPONENT)
    models = {cpu.name: cpu.emulation for cpu in subject.kind.cpus}
    tried = tuple(
        under(planned, models[planned.cpu], host.emulator, emulation, engine, effort.emulation_within_s)
        for planned in plan(subject.kind, host)
    )
    return replace(seen, instruction_sets=tried)


class _Trial:
    """One running container, and what it is put through."""

    def __init__(self, subject: Subject, host: Host, effort: Effort, engine: Engine, container: str) -> None:
        self._subject = subject
        self._host = host
        self._effort = effort
        self._engine = engine
        self._container = container

    def through(self, seen: Observation, before: CpuTimes) -> Observation:
        """All phases in order; `before` is when the container was asked for."""
        address = self._address()
        seen = self._until_ready(address, seen, before)
        if address is None or seen.ready_after_s is None:
            return seen
        seen = replace(seen, start_disturbed=self._taken_since(before, 0.0))
        phases = {Phase.GOLDEN: self._one_by_one, Phase.CONCURRENT: self._at_once, Phase.LATENCY: self._timed}
        for phase, work in phases.items():
            seen, answers = work(address, replace(seen, last_phase=phase))
            # What broke a connection shows as the container's end only a moment later.
            ended = self._engine.wait(self._container, _END_SHOWS_S) if answers.failed else self._ended()
            peak = self._engine.peak_memory_bytes(self._container) if ended is None else None
            seen = replace(seen, peak_memory_bytes=peak or seen.peak_memory_bytes)
            if ended is not None:
                return replace(seen, exit=as_exit(ended, self._engine.logs(ended.id)))
            if answers.failed:
                return seen
        return seen

    def _until_ready(self, address: Address | None, seen: Observation, before: CpuTimes) -> Observation:
        """Ask for readiness until it is there, the container has ended, or the time is over."""
        ready, next_look = get("/v2/health/ready"), before.at
        while True:
            if address is not None:
                with Connection(address, _READY_ANSWER_S) as connection, suppress(Unanswered, Broken):
                    if connection.request(ready).status == 200:
                        waited, now = time.monotonic() - before.at, time.time()
                        return replace(seen, ready_after_s=self._since_start(waited, now), waited_s=waited)
            waited = time.monotonic() - before.at
            if time.monotonic() >= next_look:
                if ended := self._ended():
                    return replace(seen, waited_s=waited, exit=as_exit(ended, self._engine.logs(ended.id)))
                next_look = time.monotonic() + _LOOK_S
            if waited > self._effort.ready_within_s:
                return replace(seen, waited_s=waited)
            time.sleep(_POLL_S)

    def _one_by_one(self, address: Address, seen: Observation) -> tuple[Observation, Answers]:
        golden = self._subject.golden
        answers, _ = ask(
            address, self._subject.infer_path, golden, self._singles(), timeout_s=self._effort.request_within_s
        )
        return replace(seen, golden=answers), answers

    def _at_once(self, address: Address, seen: Observation) -> tuple[Observation, Answers]:
        answers = ask_at_once(
            address,
            self._subject.infer_path,
            self._subject.golden,
            self._subject.batches,
            clients=self._effort.clients,
            rounds=self._effort.rounds,
            within_s=self._effort.concurrent_within_s,
            timeout_s=self._effort.request_within_s,
        )
        return replace(seen, concurrent=answers), answers

    def _timed(self, address: Address, seen: Observation) -> tuple[Observation, Answers]:
        wait_until_quiet(self._host.vcpus, self._effort.quiet_within_s)
        before, used_s = CpuTimes.now(), self._engine.cpu_seconds(self._container)
        answers, latency = measure(
            address,
            self._subject.infer_path,
            self._subject.golden,
            self._subject.batches[0],
            warmup=self._effort.warmup,
            requests=self._effort.requests,
            at_least=self._effort.at_least,
            within_s=self._effort.latency_within_s,
            timeout_s=self._effort.request_within_s,
        )
        disturbed = None if answers.failed else self._taken_since(before, used_s)
        return replace(seen, timed=answers, latency=latency, latency_disturbed=disturbed), answers

    def _singles(self) -> Iterator[Sample]:
        """Each golden row by itself (at most `_ROWS`), then every other batch size twice, from different rows."""
        golden = self._subject.golden
        smallest, *larger = self._subject.batches
        for row in range(0, min(golden.rows, _ROWS), smallest):
            yield golden.sample(row, smallest)
        for batch in larger:
            yield golden.sample(0, batch)
            yield golden.sample(batch, batch)

    def _taken_since(self, before: CpuTimes, container_before_s: float | None) -> float | None:
        """The share of this host's CPUs that others took; None where the container's own is not known."""
        used_s = self._engine.cpu_seconds(self._container)
        if used_s is None or container_before_s is None:
            return None
        return taken_by_others(before, CpuTimes.now(), used_s - container_before_s, self._host.vcpus)

    def _since_start(self, waited: float, now: float) -> float:
        """Seconds from the start of the container's process to `now`, where the engine's clock agrees with ours; else
        from when it was asked for, which is longer by what the engine took to set the container up."""
        started_at = self._engine.state(self._container).started_at
        since = waited if started_at is None else now - started_at
        return since if 0 < since <= waited else waited

    def _address(self) -> Address | None:
        """Where the server listens; None where the container ended before it could be asked."""
        try:
            return Address("127.0.0.1", self._engine.host_port(self._container, SERVER_PORT))
        except PlatformError:
            if self._ended() is None:
                raise
            return None

    def _ended(self) -> ContainerState | None:
        state = self._engine.state(self._container)
        return None if state.running else state
