"""One running container, and what it is put through: phase after phase, and what was seen written down.

In: a container that was started, and whom to ask what (`Subject`, `Effort`). Out: the `Observation`, further filled.
The first phase in which the container ends, or stops answering, is the last.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tasks.contracts import Digest, Image
from tasks.errors import BadInput, PlatformError
from tasks.image.engine import ContainerState, Engine
from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.load.objective import requests_needed
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.emulation import as_exit
from tasks.smoke.golden import GoldenSamples, Sample
from tasks.smoke.host import Host
from tasks.smoke.instruction_set import times_count
from tasks.smoke.load import Answers, ask, ask_at_once, measure
from tasks.smoke.observation import Borne, Observation, Phase
from tasks.smoke.quiet import CpuTimes, taken_by_others, wait_until_quiet
from tasks.smoke.under_load import Meter, Target, bear, fullest, press
from tasks.spec import ServingSpec

#: Where the server in an image listens.
SERVER_PORT = 8000

#: The environment variable that leaves out what takes most of a smoke's time (`off`): the highest rate and the smallest
#: memory. Whether an image passes is decided by everything else.
CAPACITY_VARIABLE = "SLIPWAY_SMOKE_CAPACITY"

_POLL_S = 0.01
_READY_ANSWER_S = 1.0
_LOOK_S = 0.25  # asking the engine costs more than asking the server
_END_SHOWS_S = 2.0
_ROWS = 32
_CLIENTS = 8
#: A server that owes answers and used less than this share of one CPU for so long stands still.
_STILL_SHARE, _STILL_S = 0.05, 0.5


def is_capacity_asked() -> bool:
    """Whether the environment asks for what a type bears, as it does unless it says otherwise.

    Raises:
        BadInput: it says something that is neither.
    """
    said = os.environ.get(CAPACITY_VARIABLE) or "on"
    if said not in {"on", "off"}:
        raise BadInput(f"{CAPACITY_VARIABLE}: expected on or off, found {said!r}")
    return said == "on"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to wait and how much to ask. More only makes the figures steadier.

    `load_within_s` and `memory_within_s` are for what a type bears; nothing of it is measured where they are 0. A model
    that takes long to answer gets more of the former, up to `slow_load_within_s`.
    """

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
    load_within_s: float = 0
    slow_load_within_s: float = 60
    memory_within_s: float = 0

    @classmethod
    def of(cls, serving: ServingSpec, *, capacity: bool = True) -> Effort:
        """Time limits far beyond the budgets: what is late gets a figure, only what hangs is cut off.

        `capacity` asks for the highest rate and the smallest memory: a minute for each type at most, for most models
        half of it.
        """
        largest_s = serving.max_batch * serving.p99_ms / 1000
        return cls(
            ready_within_s=max(30, 5 * serving.cold_start_s),
            request_within_s=max(30, 2 * _CLIENTS * largest_s),  # each client may have to wait for all others
            load_within_s=15 if capacity else 0,
            memory_within_s=40 if capacity else 0,
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run, what it is asked, and how quick it has to be."""

    image: Image
    kind: InstanceType
    golden: GoldenSamples
    batches: tuple[int, ...]
    infer_path: str
    p99_ms: float

    @property
    def container(self) -> str:
        """The same image on the same type has the same container name, so that leftovers are found."""
        return container_name(self.image.digest, self.kind)


def container_name(image: Digest, kind: InstanceType) -> str:
    """The name of the container that runs an image on a type."""
    return f"slipway-smoke-{image.removeprefix('sha256:')[:12]}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', kind.name)}"


class Trial:
    """One running container, and what it is put through."""

    def __init__(self, subject: Subject, host: Host, effort: Effort, engine: Engine, container: str) -> None:
        self._subject = subject
        self._host = host
        self._effort = effort
        self._engine = engine
        self._container = container
        self._times_count = times_count(subject.kind, host)

    def through(
        self,
        seen: Observation,
        before: CpuTimes,
        rate: tuple[Borne, str] | None = None,
        only: Sequence[Phase] = tuple(Phase),
    ) -> Observation:
        """All phases in order, or `only` some; `before` is when the container was asked for. The `rate` that was
        measured on another type stands for this one's, where one would be measured."""
        address = self._address()
        seen = self._until_ready(address, seen, before)
        if address is None or seen.ready_after_s is None:
            return seen
        seen = replace(seen, start_disturbed=self._taken_since(before, 0.0))
        phases = {
            Phase.GOLDEN: self._one_by_one,
            Phase.CONCURRENT: self._at_once,
            Phase.LATENCY: self._timed,
            Phase.LOAD: self._loaded,
            Phase.PEAK: self._pressed,
        }
        for phase, work in phases.items():
            if phase not in only or not self._is_asked_for(phase, seen):
                continue
            if phase is Phase.LOAD and rate is not None:
                seen = replace(seen, borne=rate[0], borne_on=rate[1])
                continue
            seen, answers = work(address, replace(seen, last_phase=phase))
            # What broke a connection shows as the container's end only a moment later.
            ended = self._engine.wait(self._container, _END_SHOWS_S) if answers.failed else self._ended()
            peak = self._engine.peak_memory_bytes(self._container) if ended is None else None
            seen = replace(seen, peak_memory_bytes=peak or seen.peak_memory_bytes)
            if ended is not None:
                return replace(seen, exit=as_exit(ended, self._engine.logs(ended.id)))
            if answers.failed:
                return replace(seen, stands_still=bool(answers.unanswered) and self._stands_still())
        return seen

    def _is_asked_for(self, phase: Phase, seen: Observation) -> bool:
        """How much a server bears is asked of one that is right so far; how quickly, where times mean something, and
        where one client alone is answered in time."""
        match phase:
            case Phase.LOAD:
                p99_ms = seen.latency.percentile(0.99) if seen.latency else None
                is_quick = p99_ms is not None and p99_ms <= self._subject.p99_ms
                return bool(self._effort.load_within_s) and not seen.went_wrong and self._times_count and is_quick
            case Phase.PEAK:
                return bool(self._effort.memory_within_s) and not seen.went_wrong
        return True

    def _stands_still(self) -> bool:
        before = self._engine.cpu_seconds(self._container)
        time.sleep(_STILL_S)
        after = self._engine.cpu_seconds(self._container)
        return before is not None and after is not None and after - before < _STILL_SHARE * _STILL_S

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

    def _loaded(self, address: Address, seen: Observation) -> tuple[Observation, Answers]:
        wait_until_quiet(self._host.vcpus, self._effort.quiet_within_s)
        p50_ms = (seen.latency.percentile(0.5) if seen.latency else None) or self._subject.p99_ms
        needed_s = 4 * requests_needed() * p50_ms / 1000  # a few rates near what one client alone would reach
        borne, answers = bear(
            self._target(address),
            self._subject.batches[0],
            p50_ms=p50_ms,
            p99_ms=self._subject.p99_ms,
            budget_s=max(self._effort.load_within_s, min(needed_s, self._effort.slow_load_within_s)),
            meter=Meter(lambda: self._engine.cpu_seconds(self._container), self._others),
        )
        return replace(seen, loaded=answers, borne=borne), answers

    def _pressed(self, address: Address, seen: Observation) -> tuple[Observation, Answers]:
        target = self._target(address)
        of = seen.crowd or fullest(target, self._subject.batches[-1])
        answers = target.still_answers(self._subject.batches[-1]) if of is None else press(target, of)
        return replace(seen, pressed=answers, crowd=of), answers

    def _target(self, address: Address) -> Target:
        subject = self._subject
        return Target(address, subject.infer_path, subject.golden, self._effort.request_within_s)

    def _others(self) -> Callable[[], float]:
        before, used_s = CpuTimes.now(), self._engine.cpu_seconds(self._container)
        return lambda: self._taken_since(before, used_s) or 0.0

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
