"""Who waits for whom: one slow request among a hundred, and four clients at the same time."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from benchmarks.serving.bench import Bench
from benchmarks.serving.candidates import LITSERVE_WINDOW, PEERS, SLIPWAY, SLIPWAY_WINDOW, WINDOW_MS, Running
from benchmarks.serving.figures import Figure
from benchmarks.serving.load import Load, drive, poisson
from benchmarks.serving.machine import all_cores
from benchmarks.serving.models import Model, mlp
from benchmarks.serving.throughput import saturate
from benchmarks.serving.wire import Client, Wire, short

#: The share of what a server bears that it is asked for: busy, and far from overload, whose queue would be measured.
_LOAD = 0.3
#: Requests a second at most: beyond that the driver's own time would be in the figures.
_MOST_RATE = 1000.0
_CONNECTIONS = 32
#: Every so many-th request is slow: 1 %.
_EVERY = 100
#: Rows of a slow request: some 110 times one row's time in bare onnxruntime, so that slow requests take several per
#: cent of the server's time. With less than one per cent no p99 would see them.
_SLOW_ROWS = 2048
_SLOW_AIM = 1.5
#: The driver's own lateness, as a share of the p99 that it measures, from which on it measures itself.
_LATE_SHARE = 0.25
_CLIENTS, _LARGE_ROWS = 4, 5000


@dataclass(frozen=True, slots=True)
class Tail:
    """Latencies of the quick requests alone, in milliseconds, at a rate in requests a second: medians over the rounds,
    so that one in which the machine stood still does not decide. `ratio` is of each round's p99 with to its without."""

    rate: float
    p50_ms: float
    without_ms: float
    with_ms: float
    ratio: float
    slow_ms: float
    late_ms: float
    failed: int

    @property
    def is_the_servers(self) -> bool:
        """Whether the latency is the server's, and not the driver's own on a machine that is too busy for it."""
        return self.late_ms <= _LATE_SHARE * self.without_ms

    def __str__(self) -> str:
        if not self.is_the_servers:
            return f"nothing can be said: the driver itself was {self.late_ms:.2f} ms late at its p99"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.ratio:.2f} × (p99 {self.without_ms:.2f} → {self.with_ms:.2f} ms at {self.rate:.0f}/s{failed})"


def slow_mix(bench: Bench) -> list[Figure]:
    """p99 of quick requests with 1 % slow ones among them against without, in an open loop."""
    model = mlp(bench.home.models)
    slow, quick = (bench.bare(model, rows, 1.0).p50_us for rows in (_SLOW_ROWS, 1))

    def measure(running: Running) -> dict[str, Tail]:
        return {wire.name: _tail(bench, running, model, wire) for wire in running.candidate.wires}

    found, broken = bench.each((SLIPWAY, SLIPWAY_WINDOW, LITSERVE_WINDOW, *PEERS), model, measure)
    late = max((tail.late_ms for tails in found.values() for tail in tails.values()), default=0.0)
    values = {
        f"{name} {wire} {what}": value
        for name, tails in found.items()
        for wire, tail in tails.items()
        for what, value in (
            ("per_second", tail.rate),
            ("p50_ms", tail.p50_ms),
            ("p99_without_ms", tail.without_ms),
            ("p99_with_ms", tail.with_ms),
            ("slow_p50_ms", tail.slow_ms),
            ("driver_late_p99_ms", tail.late_ms),
        )
    }
    ours = found.pop(SLIPWAY.title, None)
    binary = ours[SLIPWAY.wires[0].name] if ours else None
    return [
        Figure(
            "p99 with 1 % slow requests in the mix against without",
            f"≤ {_SLOW_AIM} ×",
            broken.pop(SLIPWAY.title, "")
            if ours is None
            else "; ".join(f"{short(wire)}: {tail}" for wire, tail in ours.items()),
            binary.ratio <= _SLOW_AIM and not binary.failed if binary and binary.is_the_servers else None,
            {name: "; ".join(map(str, tails.values())) for name, tails in found.items()} | broken,
            f"open loop, Poisson, each at {_LOAD:.0%} of what it bears (at most {_MOST_RATE:.0f}/s), {_CONNECTIONS} "
            f"connections, {bench.rounds} × {bench.seconds:.0f} s each way in turn, medians of the rounds; latency "
            f"from the planned moment (the driver itself was at most {late:.2f} ms late at its p99); one core for the "
            f"server. Every {_EVERY}th "
            f"request has {_SLOW_ROWS} rows ({slow / quick:.0f} × the time of one row in bare onnxruntime); p99 is of "
            f"the others. A window of {WINDOW_MS} ms shows what a fixed one costs: LitServe waits it out, Slipway only "
            "while its workers are busy",
            {"slow rows bare_us": slow, "one row bare_us": quick, **values},
        )
    ]


def _tail(bench: Bench, running: Running, model: Model, wire: Wire) -> Tail:
    asked = [running.message(model, rows, wire) for rows in (1, _SLOW_ROWS)]
    messages = [message.raw for message in asked]
    saturate(running.port, asked[0], 16, 1)  # warms up
    rate = min(_MOST_RATE, _LOAD * saturate(running.port, asked[0], 16, 2).per_second)
    drive(running.port, messages, poisson(rate, 1.0, _EVERY), _CONNECTIONS)  # warms up, with slow ones
    rounds: list[tuple[Load, Load]] = []
    for turn in range(bench.rounds):
        without, mixed = (
            drive(running.port, messages, poisson(rate, bench.seconds, every, seed=turn), _CONNECTIONS)
            for every in (0, _EVERY)
        )
        rounds.append((without, mixed))
    quick = [latency for without, _ in rounds for latency in without.latencies[0]]
    slow = [latency for _, mixed in rounds for latency in mixed.latencies[1]]
    return Tail(
        rate,
        1e3 * statistics.median(quick),
        1e3 * statistics.median(without.percentile(0.99) for without, _ in rounds),
        1e3 * statistics.median(mixed.percentile(0.99) for _, mixed in rounds),
        statistics.median(mixed.percentile(0.99) / without.percentile(0.99) for without, mixed in rounds),
        1e3 * statistics.median(slow) if slow else 0.0,
        1e3 * statistics.median(load.late_p99_s for pair in rounds for load in pair),
        sum(load.failed for pair in rounds for load in pair),
    )


@dataclass(frozen=True, slots=True)
class Together:
    """Seconds that four clients take for their work: one after the other, and at once."""

    in_turn_s: float
    at_once_s: float

    def __str__(self) -> str:
        in_turn, at_once = (f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.0f} ms" for value in self._both())
        return f"{self.in_turn_s / self.at_once_s:.2f} × ({in_turn} → {at_once})"

    def _both(self) -> tuple[float, float]:
        return self.in_turn_s, self.at_once_s


def large(bench: Bench) -> list[Figure]:
    """Four clients with 5,000 rows each, in one request and in 5,000: one client after the other, and at once."""
    model = mlp(bench.home.models)
    title = f"four clients × {_LARGE_ROWS:,} rows at once against one at a time"
    machine = f"server and clients share all {len(all_cores())} cores, each server with that many onnxruntime threads"
    whole = f"one request of {_LARGE_ROWS:,} rows a client, the median of {5 * bench.rounds}; {machine}"
    single = (
        f"requests of one row, from the rates of 1 and {_CLIENTS} connections over {bench.seconds:.0f} s; {machine}"
    )
    return [
        _together(bench, model, f"{title}, whole", whole, partial(_whole, bench, model)),
        _together(bench, model, f"{title}, row by row", single, partial(_single, bench, model)),
    ]


def _together(bench: Bench, model: Model, title: str, how: str, measure: Callable[[Running], Together]) -> Figure:
    found, broken = bench.each((SLIPWAY, *PEERS), model, measure, cores=all_cores())
    values = {
        f"{name} {what}": value
        for name, both in found.items()
        for what, value in (("in_turn_s", both.in_turn_s), ("at_once_s", both.at_once_s))
    }
    ours = found.pop(SLIPWAY.title, None)
    said = broken.pop(SLIPWAY.title, "") if ours is None else str(ours)
    return Figure(
        title, "the factor", said, None, {name: str(both) for name, both in found.items()} | broken, how, values
    )


def _single(bench: Bench, model: Model, running: Running) -> Together:
    message = running.message(model, 1)
    saturate(running.port, message, _CLIENTS, 1)  # warms up
    alone, together = (
        saturate(running.port, message, connections, bench.seconds).per_second for connections in (1, _CLIENTS)
    )
    rows = _CLIENTS * _LARGE_ROWS
    return Together(rows / alone, rows / together)


def _whole(bench: Bench, model: Model, running: Running) -> Together:
    raw = running.message(model, _LARGE_ROWS).raw
    in_turn, at_once = [], []
    clients = [Client(running.port) for _ in range(_CLIENTS)]
    barrier = threading.Barrier(_CLIENTS + 1)

    def ask(client: Client) -> None:
        barrier.wait()
        client.time(raw)

    try:
        with ThreadPoolExecutor(_CLIENTS) as pool:
            for client in clients:  # warms up
                client.time(raw)
            for _ in range(5 * bench.rounds):
                began = time.perf_counter()
                for client in clients:
                    client.time(raw)
                in_turn.append(time.perf_counter() - began)
                waiting = [pool.submit(ask, client) for client in clients]
                barrier.wait()
                began = time.perf_counter()
                for one in waiting:
                    one.result()
                at_once.append(time.perf_counter() - began)
    finally:
        for client in clients:
            client.close()
    return Together(statistics.median(in_turn), statistics.median(at_once))
