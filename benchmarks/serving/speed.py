"""What a request costs, how many a core bears, and whether a large model notices its server."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.serving.bench import Bench
from benchmarks.serving.candidates import PEERS, SLIPWAY, Running
from benchmarks.serving.figures import Figure
from benchmarks.serving.machine import pinned, server_core
from benchmarks.serving.models import Model, mlp, resnet50
from benchmarks.serving.throughput import saturate, steady
from benchmarks.serving.wire import Client, Wire, short

_CONNECTIONS = 16
_OVERHEAD_AIM_US = 250.0
_REQUESTS_AIM = 2.0
_RESNET_AIM = 0.95
#: Those that the aim is set against; MLflow's server is beside them.
_RIVALS = ("MLServer", "BentoML", "LitServe")


def overhead(bench: Bench) -> list[Figure]:
    """The median of a request to an idle server, over bare onnxruntime.

    One of client and server always waits for the other, so both have the server's core: on another one the waiting core
    would sleep, and waking it (100 µs and more in a virtual machine, twice) would be in the figure.
    """
    model = mlp(bench.home.models)
    bare = [bench.bare(model, 1, 1.0).p50_us]

    def measure(running: Running) -> dict[str, float]:
        with pinned(server_core()):
            return {wire.name: _median_us(bench, running, model, wire) for wire in running.candidate.wires}

    found, broken = bench.each((SLIPWAY, *PEERS), model, measure)
    bare.append(bench.bare(model, 1, 1.0).p50_us)
    alone = statistics.median(bare)
    over = {name: {wire: us - alone for wire, us in took.items()} for name, took in found.items()}
    ours = over.pop(SLIPWAY.title, None)
    peers = {name: ", ".join(f"{us:,.0f} µs" for us in took.values()) for name, took in over.items()}
    return [
        Figure(
            "p50 over bare onnxruntime, small MLP, batch 1",
            f"≤ {_OVERHEAD_AIM_US:.0f} µs (binary)",
            broken.pop(SLIPWAY.title, "")
            if ours is None
            else f"{ours['OIP v2 binary']:.0f} µs binary, {ours['OIP v2 JSON']:.0f} µs JSON",
            None if ours is None else ours["OIP v2 binary"] <= _OVERHEAD_AIM_US,
            peers | broken,
            "one connection, one request after the other, client and server in turn on one core; bare onnxruntime "
            f"takes {alone:.0f} µs there. Peers in their own JSON",
            {
                "bare_us": alone,
                **{f"{name} {wire} us": us for name, took in found.items() for wire, us in took.items()},
            },
        )
    ]


def _median_us(bench: Bench, running: Running, model: Model, wire: Wire) -> float:
    raw = running.message(model, 1, wire).raw
    with Client(running.port) as client:
        times = [client.time(raw) for _ in range(int(400 * bench.seconds))]
    return statistics.median(times[len(times) // 10 :]) * 1e6


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second, and the server's CPU time for each, which hardly depends on what else the machine does."""

    per_second: float
    cpu_us: float

    def __str__(self) -> str:
        return f"{self.per_second:,.0f}/s ({self.cpu_us:,.0f} µs CPU each)"


def requests(bench: Bench) -> list[Figure]:
    """Requests a second of one core with 16 connections. Slipway is measured before and after its peers."""
    model, clients = mlp(bench.home.models), set()

    def measure(running: Running) -> dict[str, Rate]:
        rates = {}
        for wire in running.candidate.wires:
            message = running.message(model, 1, wire)
            saturate(running.port, message, _CONNECTIONS, 1)  # warms up
            before = bench.home.children.cpu_seconds()
            found = saturate(running.port, message, _CONNECTIONS, bench.seconds)
            used = bench.home.children.cpu_seconds() - before
            clients.add(found.client)
            rates[wire.name] = Rate(found.per_second, 1e6 * used / (found.per_second * bench.seconds))
        return rates

    before, broken = bench.each((SLIPWAY,), model, measure)
    others, broken_others = bench.each(PEERS, model, measure)
    after, _ = bench.each((SLIPWAY,), model, measure)
    runs = [run[SLIPWAY.title] for run in (before, after) if SLIPWAY.title in run]
    ours = {wire: _mean([run[wire] for run in runs]) for wire in runs[0]} if runs else {}
    peers = {name: rate for name, rates in others.items() for rate in rates.values()}
    best = max((rate.per_second for name, rate in peers.items() if name.startswith(_RIVALS)), default=None)
    ratios = {wire: rate.per_second / best for wire, rate in ours.items()} if best else {}
    said = [
        f"{short(wire)}: {rate}" + (f", {ratios[wire]:.1f} × the best" if ratios else "") for wire, rate in ours.items()
    ]
    return [
        Figure(
            f"requests/s, {_CONNECTIONS} connections, small MLP, batch 1",
            f"≥ {_REQUESTS_AIM:.0f} × the best of {', '.join(_RIVALS)}",
            "; ".join(said) or broken[SLIPWAY.title],
            min(ratios.values()) >= _REQUESTS_AIM if ratios else None,
            {name: str(rate) for name, rate in peers.items()} | broken_others,
            f"closed loop for {bench.seconds:.0f} s each ({', '.join(sorted(clients)) or 'no client'}), client on one "
            "core, server on another; peers in their own JSON; Slipway is the mean of a run before and one after them",
            {
                f"{name} {what}": value
                for name, rate in {**{f"Slipway {wire}": rate for wire, rate in ours.items()}, **peers}.items()
                for what, value in (("per_second", rate.per_second), ("cpu_us", rate.cpu_us))
            },
        )
    ]


def _mean(rates: list[Rate]) -> Rate:
    return Rate(statistics.mean(rate.per_second for rate in rates), statistics.mean(rate.cpu_us for rate in rates))


def resnet(bench: Bench) -> list[Figure]:
    """ResNet-50 images a second through the server, as a share of a bare onnxruntime loop's on the same core."""
    model = resnet50(bench.home.models)
    return [_resnet(bench, model, batch) for batch in (1, 8)]


def _resnet(bench: Bench, model: Model, batch: int) -> Figure:
    def measure(running: Running) -> list[tuple[float, float]]:
        raw = running.message(model, batch).raw
        pairs = []
        for _ in range(bench.rounds):
            bare = bench.bare(model, batch, bench.seconds).per_second
            pairs.append((bare * batch, steady(running.port, raw, 2, bench.seconds) * batch))
        return pairs

    found, broken = bench.each((SLIPWAY,), model, measure)
    title = f"ResNet-50 throughput against a bare loop, batch {batch}"
    aim = f"≥ {_RESNET_AIM}"
    if SLIPWAY.title not in found:
        return Figure(title, aim, broken[SLIPWAY.title])
    pairs = found[SLIPWAY.title]
    ratio = statistics.median(ours / bare for bare, ours in pairs)
    bare, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
    return Figure(
        title,
        aim,
        f"{ratio:.2f} ({ours:.1f} of {bare:.1f} images/s)",
        ratio >= _RESNET_AIM,
        {"bare onnxruntime": f"{bare:.1f} images/s"},
        f"one thread on one core for both, in turn, {bench.rounds} × {bench.seconds:.0f} s; two connections, binary",
        {"ratio": ratio, "bare images_per_second": bare, "Slipway images_per_second": ours},
    )
