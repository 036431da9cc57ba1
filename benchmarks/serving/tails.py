"""Who waits for whom: one slow request among a hundred, and four large ones at the same time."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.serving.bench import Bench
from benchmarks.serving.candidates import LITSERVE_WINDOW, PEERS, SLIPWAY, WINDOW_MS, Running
from benchmarks.serving.figures import Figure
from benchmarks.serving.load import drive, percentile, poisson
from benchmarks.serving.machine import all_cores
from benchmarks.serving.models import Model, mlp
from benchmarks.serving.wire import Client

#: Requests a second: what every peer bears on one core, so that it is not overload that is measured.
_RATE = 150.0
_CONNECTIONS = 32
_EVERY = 100
#: A slow request has so many rows that onnxruntime alone takes more than a hundred times as long as for one.
_SLOW_ROWS = 4096
_SLOW_AIM = 1.5
_CLIENTS, _LARGE_ROWS = 4, 5000


@dataclass(frozen=True, slots=True)
class Tail:
    """Latencies of the quick requests alone, in milliseconds."""

    p50_ms: float
    without_ms: float
    with_ms: float
    slow_ms: float
    late_ms: float
    failed: int

    @property
    def ratio(self) -> float:
        return self.with_ms / self.without_ms

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.ratio:.2f} × (p99 {self.without_ms:.2f} → {self.with_ms:.2f} ms{failed})"


def slow_mix(bench: Bench) -> list[Figure]:
    """p99 of quick requests with 1 % slow ones among them against without, in an open loop."""
    model = mlp(bench.home.models)
    slow, quick = (bench.bare(model, rows, 1.0).p50_us for rows in (_SLOW_ROWS, 1))
    candidates = (SLIPWAY, LITSERVE_WINDOW, *PEERS)
    found, broken = bench.each(candidates, model, lambda running: _tail(bench, running, model))
    ours = found.pop(SLIPWAY.title, None)
    late = max((tail.late_ms for tail in (*found.values(), *([ours] if ours else []))), default=0.0)
    return [
        Figure(
            "p99 with 1 % slow requests in the mix against without",
            f"≤ {_SLOW_AIM} ×",
            broken.pop(SLIPWAY.title, "") if ours is None else str(ours),
            None if ours is None else ours.ratio <= _SLOW_AIM and not ours.failed,
            {name: str(tail) for name, tail in found.items()} | broken,
            f"open loop, Poisson, {_RATE:.0f}/s over {_CONNECTIONS} connections, {bench.rounds} × {bench.seconds:.0f} s "
            "each way in turn, latency from the planned moment (the driver itself was at most "
            f"{late:.2f} ms late at its p99), one core for the server; every {_EVERY}th request has {_SLOW_ROWS} rows "
            f"({slow / quick:.0f} × the time of one row in bare onnxruntime), p99 is of the others. "
            f"LitServe with a window of {WINDOW_MS} ms shows what a fixed window costs",
            {
                "slow rows bare_us": slow,
                "one row bare_us": quick,
                **{
                    f"{name} {what}": value
                    for name, tail in {**({SLIPWAY.title: ours} if ours else {}), **found}.items()
                    for what, value in (
                        ("p50_ms", tail.p50_ms),
                        ("p99_without_ms", tail.without_ms),
                        ("p99_with_ms", tail.with_ms),
                        ("slow_p50_ms", tail.slow_ms),
                    )
                },
            },
        )
    ]


def _tail(bench: Bench, running: Running, model: Model) -> Tail:
    messages = [running.message(model, rows).raw for rows in (1, _SLOW_ROWS)]
    without: list[float] = []
    mixed: list[float] = []
    slow: list[float] = []
    late, failed = 0.0, 0
    drive(running.port, messages, poisson(_RATE, 1.0, _EVERY), _CONNECTIONS)  # warms up, both kinds
    for turn in range(bench.rounds):
        for every, into in ((0, without), (_EVERY, mixed)):
            load = drive(running.port, messages, poisson(_RATE, bench.seconds, every, seed=turn), _CONNECTIONS)
            into.extend(load.latencies[0])
            slow += load.latencies[1]
            late, failed = max(late, load.late_p99_s), failed + load.failed
    return Tail(
        1e3 * statistics.median(without),
        1e3 * percentile(without, 0.99),
        1e3 * percentile(mixed, 0.99),
        1e3 * statistics.median(slow) if slow else 0.0,
        1e3 * late,
        failed,
    )


@dataclass(frozen=True, slots=True)
class Together:
    """Seconds for four large requests."""

    in_turn_s: float
    at_once_s: float

    def __str__(self) -> str:
        return f"{self.in_turn_s / self.at_once_s:.2f} × ({1e3 * self.in_turn_s:.0f} → {1e3 * self.at_once_s:.0f} ms)"


def large(bench: Bench) -> list[Figure]:
    """Four clients with 5,000 rows each: one after the other, and at once."""
    model = mlp(bench.home.models)
    found, broken = bench.each(
        (SLIPWAY, *PEERS), model, lambda running: _together(bench, running, model), cores=all_cores()
    )
    ours = found.pop(SLIPWAY.title, None)
    return [
        Figure(
            f"four clients × {_LARGE_ROWS:,} rows at once against one at a time",
            "the factor",
            broken.pop(SLIPWAY.title, "") if ours is None else str(ours),
            None,
            {name: str(both) for name, both in found.items()} | broken,
            f"one request of {_LARGE_ROWS:,} rows a client, until the last is answered; the median of "
            f"{5 * bench.rounds}; server and clients share all {len(all_cores())} cores, each server with that many "
            "onnxruntime threads",
            {
                f"{name} {what}": value
                for name, both in {**({SLIPWAY.title: ours} if ours else {}), **found}.items()
                for what, value in (("in_turn_s", both.in_turn_s), ("at_once_s", both.at_once_s))
            },
        )
    ]


def _together(bench: Bench, running: Running, model: Model) -> Together:
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
