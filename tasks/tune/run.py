"""Tuning an image: containers and load on one side, `tasks.tune.search` on the other.

In: an image, the objective, a budget of time. Out: a `Tuning` with every measurement. Each setting is tried in a
container of its own, locked down as in production; a container never outlives its measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from serving.contract import Batching, ServingContract
from serving.golden import read_golden
from serving.package import Refused, read_contract
from serving.preprocess import raw_signature
from serving.scheduling import scheduling
from tasks.errors import BadInput, PlatformError
from tasks.image.engine import ISOLATED, ContainerSpec, Engine, ImageInfo
from tasks.load.client import Address, Broken, Connection, Unanswered, get, post
from tasks.load.objective import Held, OutOfTime, held, requests_needed
from tasks.load.openloop import Offered, offer
from tasks.smoke.golden import GoldenSamples, batch_sizes
from tasks.smoke.quiet import DISTURBING, CpuTimes, taken_by_others
from tasks.tune.search import Choice, choose

COMPONENT = "tune"
_PORT = 8000
_IN_IMAGE = "/package"
_READY_WITHIN_S = 120.0
#: Requests, one after the other, before a container is measured: the first ones find nothing in any cache, and a server
#: that learns how long its model takes has not learned it yet. No longer than a second.
_WARM_UP = 200
_WARM_UP_S = 1.0
#: A probe lasts long enough for three times the requests that could show the objective at all, so that a few late ones
#: do not decide, and no less than a second: the server must have time to fall behind.
_PROBE_REQUESTS = 3 * requests_needed()
_PROBE_S = 1.0
#: The choice and the default are measured so often again, on fresh containers, and must hold each time.
_REPEATS = 3
#: Where the choice does not hold again, so much less is tried.
_STEP_DOWN = 0.9
#: Shares of the chosen rate at which the curve is measured.
_CURVE = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
#: The share of the budget that is left for repeats and the curve.
_RESERVED = 0.3


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
class Tuning:
    """What was found. `choice` is None where no rate held; `confirmed` where it held at every repetition, and
    `out_of_time` where the budget was over before all settings were tried."""

    p99_ms: float
    rows: int
    cpus: float
    choice: Choice | None
    confirmed: bool
    out_of_time: bool
    measurements: tuple[Measurement, ...]
    seconds: float

    @property
    def curve(self) -> tuple[Measurement, ...]:
        """The chosen setting from low rates to beyond what it bears."""
        return tuple(item for item in self.measurements if item.purpose == "curve")

    @property
    def disturbed(self) -> bool:
        """Whether other programs had so much of the CPUs that another day may say otherwise."""
        shares = sorted(item.taken_by_others for item in self.measurements)
        return bool(shares) and shares[len(shares) // 2] > DISTURBING


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


def open_image(image: ImageInfo, engine: Engine, work: Path, cpus: float, memory_bytes: int | None) -> Subject:
    """Read contract and golden samples out of an image.

    Raises:
        BadInput: it has none that this Slipway understands.
    """
    folder = work / "package"
    try:
        for name in ("contract.json", "golden.npz"):
            engine.copy_out(image.id, f"{_IN_IMAGE}/{name}", folder)
        contract = read_contract(folder)
        raw = raw_signature(contract.signature, contract.preprocess)
        found = read_golden(folder / contract.golden)
    except (PlatformError, Refused, OSError, ValueError) as error:
        said = str(error).replace(f"{folder}/", "")  # which is gone when somebody reads this
        raise BadInput(
            f"the image cannot be tuned: {said}: give an image that `slipway package` of this version made"
        ) from error
    golden = GoldenSamples(found.inputs, found.outputs, contract.tolerances, raw)
    return Subject(image, contract, golden, cpus, memory_bytes)


def tune(
    subject: Subject,
    engine: Engine,
    *,
    p99_ms: float,
    rows: int | None,
    budget_s: float,
    tell: Callable[[Measurement], None],
) -> Tuning:
    """Find the setting with the highest rate that keeps the objective, and measure it again.

    `rows` are those of each request, unless given the fewest that the model takes.

    Raises:
        BadInput: the model does not take so many rows, or so few.
        PlatformError: the server does not start, or does not answer rightly.
    """
    engine.sweep(COMPONENT)
    smallest = batch_sizes(subject.golden.raw, subject.contract.max_batch)[0]
    asked_rows = rows or smallest
    if subject.golden.raw.batch is None and asked_rows != 1:
        raise BadInput(f"--rows {asked_rows}: the model has no batch dimension, so each request is one")
    if asked_rows < smallest:
        raise BadInput(f"--rows {asked_rows}: the model takes no fewer than {smallest}")
    began = time.monotonic()
    bench = _Bench(subject, engine, asked_rows, p99_ms, began + budget_s * (1 - _RESERVED), tell)
    resolved = scheduling(subject.contract, cpus=max(1, round(subject.cpus)))
    default = Batching(
        batch_rows=resolved.limits.max_rows,
        batch_window_ms=1000 * resolved.limits.window_s,
        queue_rows=subject.contract.batching.queue_rows,
        workers=resolved.limits.workers,
        threads=resolved.threads,
    )
    with bench:
        start = max(1.0, 0.5 / bench.alone(default))
        choice, confirmed, out_of_time = None, False, False
        try:
            choice = choose(
                bench.probe, default, subject.contract.max_batch, max(1, round(subject.cpus)), p99_ms, start
            )
        except OutOfTime:
            out_of_time = True
        if choice is not None:
            out_of_time = not choice.complete
            bench.until = began + budget_s
            with suppress(OutOfTime):
                choice, confirmed = _confirmed(bench, choice)
                for share in _CURVE:
                    bench.measure(choice.setting, share * choice.rate, "curve")
    return Tuning(
        p99_ms=p99_ms,
        rows=asked_rows,
        cpus=subject.cpus,
        choice=choice,
        confirmed=confirmed,
        out_of_time=out_of_time,
        measurements=tuple(bench.measurements),
        seconds=time.monotonic() - began,
    )


def _confirmed(bench: _Bench, choice: Choice) -> tuple[Choice, bool]:
    """Measure the choice again on fresh containers, at lower rates until it holds each time."""
    while choice.rate >= 1:
        if all(bench.probe_again(choice.setting, choice.rate) for _ in range(_REPEATS)):
            return choice, True
        choice = replace(choice, rate=choice.rate * _STEP_DOWN)
    return choice, False


class _Bench:
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

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def alone(self, setting: Batching) -> float:
        """Seconds that one request takes with nobody else there: the median of some."""
        address, container = self._start(setting)
        with self._answers(container), Connection(address, _READY_WITHIN_S) as connection:
            times = []
            for _ in range(31):
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
            OutOfTime: the budget would be over before the end.
        """
        seconds = max(_PROBE_S, _PROBE_REQUESTS / rate)
        if time.monotonic() + seconds > self.until:
            raise OutOfTime
        address, container = self._start(setting)
        before, used = CpuTimes.now(), self._engine.cpu_seconds(container)
        with self._answers(container):
            offered = offer(
                address,
                [self._message],
                rate,
                seconds,
                limit_ms=self._p99_ms,
                patience_s=max(1.0, 5 * self._p99_ms / 1000),
                seed=len(self.measurements),
            )
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
            PlatformError: it does not get so far.
        """
        until = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < until and self._engine.state(container).running:
            address = Address("127.0.0.1", self._engine.host_port(container, _PORT))
            with Connection(address, _READY_WITHIN_S) as connection, suppress(Unanswered, Broken):
                if connection.request(get("/v2/health/ready")).status != 200:
                    continue
                complaint = self._subject.golden.complaint(connection.request(self._message), self._sample.expected)
                if complaint:
                    raise PlatformError(f"the server does not answer as its golden samples say: {complaint}")
                return
            time.sleep(0.02)
        last = self._engine.logs(container, tail=1).strip()
        raise PlatformError(f"the server did not become ready; its last line is: {last or 'none'}")

    def _warm_up(self, container: str) -> None:
        address = Address("127.0.0.1", self._engine.host_port(container, _PORT))
        until = time.monotonic() + _WARM_UP_S
        with self._answers(container), Connection(address, _READY_WITHIN_S) as connection:
            for _ in range(_WARM_UP):
                connection.request(self._message)
                if time.monotonic() > until:
                    break

    @contextmanager
    def _answers(self, container: str) -> Iterator[None]:
        """A server that breaks off is the platform's failure, with the last that it said."""
        try:
            yield
        except (Broken, Unanswered, OSError) as error:
            last = self._engine.logs(container, tail=1).strip()
            raise PlatformError(
                f"the server broke off while it was measured ({error}); its last line is: {last or 'none'}"
            ) from error

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
