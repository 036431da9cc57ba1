"""One setting of an image at a time, in a container under load.

In: an image with its golden samples, a setting, a rate, the time until which there is one. Out: a `Measurement`. Each
setting is tried in a container of its own, locked down as in production; a container never outlives its measurement,
and nothing is waited for longer than there is time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields

from serving.contract import Batching, ServingContract
from serving.package import Refusal
from tasks.errors import BadInput, PlatformError, SlipwayError
from tasks.image.engine import ISOLATED, ContainerSpec, Engine, ImageInfo
from tasks.load.client import Address, Broken, Connection, Reply, Unanswered, get, post
from tasks.load.objective import Held, OutOfTime, held, requests_needed
from tasks.load.openloop import Offered, offer
from tasks.smoke.golden import GoldenSamples
from tasks.smoke.quiet import DISTURBING, CpuTimes, taken_by_others

COMPONENT = "tune"
_PORT = 8000
_READY_WITHIN_S = 120.0
#: How long an engine may take to notice that a container was killed.
_TOLD_WITHIN_S = 2.0
#: Requests, one after the other, before a container is measured: the first ones find nothing in any cache, and a server
#: that learns how long its model takes has not learned it yet. No longer than a second.
_WARM_UP = 200
_WARM_UP_S = 1.0
#: One after the other, to learn how long one takes: an odd number, for its median. No longer than a second either.
_ALONE = 31
#: A probe lasts long enough for three times the requests that could show the objective at all, so that a few late ones
#: do not decide, and no less than a second: the server must have time to fall behind.
_PROBE_REQUESTS = 3 * requests_needed()
_PROBE_S = 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One load on one setting. `taken_by_others` is the share of this host's CPUs that neither had."""

    setting: Batching
    rate: float
    asked: int
    late: int
    refused: int
    p50_ms: float | None
    p99_ms: float | None
    held: Held
    taken_by_others: float
    client_late_ms: float
    purpose: str


@dataclass(frozen=True, slots=True)
class Subject:
    """An image that is tuned: its contract, and golden samples to ask it."""

    image: ImageInfo
    contract: ServingContract
    golden: GoldenSamples
    cpus: float
    memory_bytes: int | None = None

    @property
    def path(self) -> str:
        return f"/v2/models/{self.contract.name}/infer"


class Bench:
    """Runs one setting's container at a time, and keeps what was measured."""

    def __init__(
        self,
        subject: Subject,
        engine: Engine,
        rows: int,
        p99_ms: float,
        until: float,
        tell: Callable[[Measurement], None],
    ) -> None:
        self._subject, self._engine, self._p99_ms, self._tell = subject, engine, p99_ms, tell
        self._sample = subject.golden.sample(0, rows)
        self._message = post(subject.path, self._sample.body.content, self._sample.body.json_bytes)
        self._running: tuple[Batching, str] | None = None
        self.until = until
        self.measurements: list[Measurement] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def alone(self, setting: Batching) -> float:
        """Seconds that one request takes with nobody else there: the median of some.

        Raises:
            OutOfTime: the budget is over before an answer.
        """
        address, container = self._start(setting)
        times: list[float] = []
        with self._answers(container), Connection(address, self._patience()) as connection:
            while len(times) < _ALONE and sum(times) < _WARM_UP_S:
                began = time.perf_counter()
                connection.request(self._message)
                times.append(time.perf_counter() - began)
        return sorted(times)[len(times) // 2]

    def probe(self, setting: Batching, rate: float) -> bool:
        """Whether the setting keeps the objective at a rate, as far as is shown. Disturbed, it has a second chance."""
        found = self.measure(setting, rate, "search")
        if found.held is not Held.KEPT and found.taken_by_others > DISTURBING:
            found = self.measure(setting, rate, "search")
        return found.held is Held.KEPT

    def probe_again(self, setting: Batching, rate: float) -> bool:
        self._stop()
        return self.measure(setting, rate, "repeat").held is Held.KEPT

    def measure(self, setting: Batching, rate: float, purpose: str) -> Measurement:
        """Offer a rate to a setting.

        Raises:
            OutOfTime: the budget would be over before the last request is late.
        """
        seconds = max(_PROBE_S, _PROBE_REQUESTS / rate)
        limit_s = self._p99_ms / 1000
        if self._left() < seconds + limit_s:
            raise OutOfTime
        address, container = self._start(setting)
        if (left := self._left()) < seconds + limit_s:  # starting it takes some of it
            raise OutOfTime
        before, used = CpuTimes.now(), self._engine.cpu_seconds(container)
        with self._answers(container):
            offered = offer(
                address,
                [self._message],
                rate,
                seconds,
                limit_ms=self._p99_ms,
                patience_s=min(max(1.0, 5 * limit_s), left - seconds),
                seed=len(self.measurements),
            )
        if not self._engine.state(container).running:
            raise self._gone(container, "ended while it was measured")
        after = self._engine.cpu_seconds(container)
        others = 0.0
        if used is not None and after is not None:
            others = taken_by_others(before, CpuTimes.now(), after - used, max(1, round(self._subject.cpus)))
        measured = self._judged(setting, offered, purpose, others)
        self.measurements.append(measured)
        self._tell(measured)
        return measured

    def _judged(self, setting: Batching, offered: Offered, purpose: str, others: float) -> Measurement:
        late = offered.late(self._p99_ms)
        kept = Held.BROKEN if offered.given_up else held(offered.asked, late)
        return Measurement(
            setting=setting,
            rate=offered.rate,
            asked=offered.asked,
            late=late,
            refused=offered.refused,
            p50_ms=offered.percentile(0.5),
            p99_ms=offered.percentile(0.99),
            held=kept,
            taken_by_others=others,
            client_late_ms=offered.late_send_ms,
            purpose=purpose,
        )

    def _start(self, setting: Batching) -> tuple[Address, str]:
        """The container of this setting: the one that runs, or a new one that has answered rightly."""
        if self._running is None or self._running[0] != setting:
            self._stop()
            subject = self._subject
            container = self._engine.start(
                ContainerSpec(
                    image=subject.image.id,
                    name=f"slipway-tune-{subject.image.id.removeprefix('sha256:')[:12]}",
                    component=COMPONENT,
                    environment=environment_of(setting),
                    network=ISOLATED,
                    ports=(_PORT,),
                    cpus=subject.cpus,
                    memory_bytes=subject.memory_bytes,
                )
            )
            self._running = (setting, container)
            self._until_right(container)
            self._warm_up(container)
        container = self._running[1]
        return Address("127.0.0.1", self._engine.host_port(container, _PORT)), container

    def _until_right(self, container: str) -> None:
        """Return once the server is ready and has answered a golden sample.

        Raises:
            OutOfTime: the budget is over before.
            BadInput: it may not use as much memory as it needs.
            PlatformError: it does not get so far.
        """
        until = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < until and self._engine.state(container).running:
            address = Address("127.0.0.1", self._engine.host_port(container, _PORT))
            with Connection(address, self._patience()) as connection, suppress(Unanswered, Broken):
                if connection.request(get("/v2/health/ready")).status != 200:
                    continue
                self._check(connection.request(self._message))
                return
            time.sleep(0.02)
        raise self._gone(container, "did not become ready")

    def _check(self, reply: Reply) -> None:
        if reply.status != 200:
            said = reply.body[:500].decode(errors="replace")
            raise PlatformError(
                f"the server answers a golden sample of {self._sample.batch} row(s) with {reply.status}: {said}"
            )
        if complaint := self._subject.golden.complaint(reply, self._sample.expected):
            raise PlatformError(f"the server does not answer as its golden samples say: {complaint}")

    def _left(self) -> float:
        """Seconds of the budget, 0 where it is over."""
        return max(0.0, self.until - time.monotonic())

    def _patience(self) -> float:
        """Seconds to wait for an answer: no longer than the budget lasts.

        Raises:
            OutOfTime: it is over.
        """
        if not (left := self._left()):
            raise OutOfTime
        return min(_READY_WITHIN_S, left)

    def _warm_up(self, container: str) -> None:
        address = Address("127.0.0.1", self._engine.host_port(container, _PORT))
        until = time.monotonic() + _WARM_UP_S
        with self._answers(container), Connection(address, self._patience()) as connection:
            for _ in range(_WARM_UP):
                connection.request(self._message)
                if time.monotonic() > until:
                    break

    @contextmanager
    def _answers(self, container: str) -> Iterator[None]:
        """A request that the budget does not outlast is its end; a server that breaks off is told as `_gone` does."""
        try:
            yield
        except (Broken, Unanswered, OSError) as error:
            if isinstance(error, Unanswered) and not self._left():
                raise OutOfTime from error
            raise self._gone(container, f"broke off while it was measured ({error})") from error

    def _gone(self, container: str, what: str) -> SlipwayError:
        """What to say of a server that is not there any more, or never was, with the last that it said.

        That it needs more memory than was asked for is for whoever asked; all else is the platform's failure.
        """
        until = time.monotonic() + _TOLD_WITHIN_S
        while (state := self._engine.state(container)).running and time.monotonic() < until:
            time.sleep(0.02)
        limit = self._subject.memory_bytes
        last = self._engine.logs(container, tail=1).strip() or "none"
        if limit is not None and (state.oom_killed or state.exit_code == Refusal.MEMORY):
            return BadInput(
                f"--memory-mb {limit >> 20}: the server needs more: it {what}, out of memory; give what the machine "
                f"that will serve has for it (its last line is: {last})"
            )
        return PlatformError(f"the server {what}; its last line is: {last}")

    def _stop(self) -> None:
        if self._running is not None:
            self._engine.remove(self._running[1])
            self._running = None


def environment_of(setting: Batching) -> dict[str, str]:
    """What makes a container follow a setting, whatever its contract says (docker/serving/__main__.py)."""
    return {
        f"SERVING_{item.name.upper()}": f"{value:g}" if isinstance(value, float) else str(value)
        for item in fields(Batching)
        if (value := getattr(setting, item.name)) is not None
    }
