"""What the router costs users: requests lost over a whole release and back, and how exact and how prompt a split is.

A real HAProxy in its container, before servers that answer at once, but for one request in a hundred; 48 clients that
keep their connections. While they ask: 1 → 5 → 25 → 50 → 100 → 0 %, another canary, a reload by hand at every step, a
reload because the objective changed, a promotion, and a hundred decisions to take everything back.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.release.traffic import Users
from benchmarks.serving.figures import Figure
from tasks.image import connect
from tasks.release.contracts import Endpoint, Route
from tasks.release.removal import remove_all
from tasks.release.router.haproxy import HaproxyRouter
from tasks.settings import Settings
from tasks.workspace import scratch

#: Step → its share of all requests. Chance alone moves a split of n requests by sqrt(p (1 - p) / n): most of them at
#: those steps where that is large, for 0.2 points to mean something.
SHARES = {1: 0.1, 5: 0.12, 25: 0.3, 50: 0.38, 100: 0.05, 0: 0.05}
CLIENTS = 48
WITHIN_POINTS, WITHIN_MS = 0.2, 250


@dataclass
class Climbed:
    """What was seen. `split` is step → percent that the canary got; `last_ms` are from each decision to take everything
    back until the canary's last new request."""

    users: Users
    seconds: float
    split: dict[float, tuple[float, int]] = field(default_factory=dict)
    last_ms: list[float] = field(default_factory=list)
    reloads: int = 0

    @property
    def lost(self) -> int:
        return sum(self.users.lost.values())

    @property
    def worst_points(self) -> float:
        return max(abs(found - step) for step, (found, _) in self.split.items())


def measure(quick: bool) -> list[Figure]:
    """The figures of `make bench-release`."""
    requests, decisions = (60_000, 10) if quick else (1_000_000, 100)
    settings = Settings.from_environment()
    with scratch(settings.work) as folder:
        seen = climb(requests, decisions, Settings.from_environment({"SLIPWAY_HOME": str(folder)}))
    p99 = sorted(seen.last_ms)[math.ceil(0.99 * len(seen.last_ms)) - 1]
    rate = seen.users.answered / seen.seconds
    return [
        Figure(
            f"requests lost over the ladder, rollbacks and {seen.reloads} reloads, slow ones in flight",
            "0",
            f"{seen.lost} of {seen.users.sent:,}",
            seen.lost == 0 and seen.users.sent >= requests,
            how=f"{CLIENTS} clients, {rate:,.0f} requests/s, {seen.users.slow:,} of them slow; {seen.users.lost or ''}",
            values={"lost": seen.lost, "sent": seen.users.sent, "requests_per_s": rate},
        ),
        Figure(
            "split against its target, worst step",
            f"within {WITHIN_POINTS} points",
            f"{seen.worst_points:.3f} points",
            seen.worst_points <= WITHIN_POINTS,
            how="; ".join(f"{step:g} %: {found:.3f} of {asked:,}" for step, (found, asked) in seen.split.items()),
            values={f"percent_at_{step:g}": found for step, (found, _) in seen.split.items()},
        ),
        Figure(
            "decision to take everything back → the canary's last new request, p99",
            f"≤ {WITHIN_MS} ms",
            f"{p99:.1f} ms",
            p99 <= WITHIN_MS,
            how=f"{len(seen.last_ms)} decisions; median {statistics.median(seen.last_ms):.1f} ms",
            values={"p99_ms": p99, "median_ms": statistics.median(seen.last_ms)},
        ),
    ]


def climb(requests: int, decisions: int, settings: Settings) -> Climbed:
    """At least so many requests through a whole release and back; nothing is left running."""
    model, engine = f"bench-{uuid.uuid4().hex[:8]}", connect()
    router = HaproxyRouter(model, engine, settings)
    with _server("stable") as stable, _server("canary") as canary, _server("another") as another, _free_port() as port:
        route = Route(model=model, port=port, stable=stable, p99_ms=100)
        try:
            router.ensure(route)
            began = time.monotonic()
            with _users(port) as users:
                seen = Climbed(Users(), 0)
                route = route.model_copy(update={"canary": canary})
                router.ensure(route)
                for step, share in SHARES.items():
                    router.set_weight(step)
                    _reload(router)
                    seen.reloads += 1
                    seen.split[step] = _split(stable, canary, int(requests * share))
                seen.last_ms = [_taken_back(router, canary) for _ in range(decisions)]
                # The next release: another canary, another objective, and a promotion.
                router.ensure(route.model_copy(update={"canary": another, "weight": 50}))
                _split(stable, another, requests // 100)
                router.ensure(route.model_copy(update={"canary": another, "weight": 100, "p99_ms": 50}))
                seen.reloads += 1
                router.ensure(route.model_copy(update={"stable": another, "canary": None, "p99_ms": 50}))
                _split(stable, another, requests // 100)
            seen.users, seen.seconds = Users(**json.loads(users[0])), time.monotonic() - began
            return seen
        finally:
            remove_all(model, engine, settings)


def _split(stable: Endpoint, canary: Endpoint, requests: int) -> tuple[float, int]:
    """Percent that the canary got of the next so many requests, and of how many."""
    before = _seen(stable)[0], _seen(canary)[0]
    while True:
        time.sleep(0.02)
        stable_got, canary_got = _seen(stable)[0] - before[0], _seen(canary)[0] - before[1]
        if stable_got + canary_got >= requests:
            return 100 * canary_got / (stable_got + canary_got), stable_got + canary_got


def _taken_back(router: HaproxyRouter, canary: Endpoint) -> float:
    """From the decision until the last request that reached the canary, in ms; 0 where none came after it."""
    router.set_weight(50)
    time.sleep(0.05)
    decided = time.monotonic()
    router.set_weight(0)
    time.sleep(0.3)
    return max(0.0, (_seen(canary)[1] - decided) * 1000)


def _reload(router: HaproxyRouter) -> None:
    """As somebody else might: a signal to the process. The next command finds the new one."""
    command = ["docker", "kill", "--signal", "USR2", router.container]
    subprocess.run(command, check=True, capture_output=True)


def _seen(server: Endpoint) -> tuple[int, float]:
    with urllib.request.urlopen(f"http://{server.host}:{server.port}/_seen", timeout=10) as answer:
        said = json.load(answer)
    return said["count"], said["last"]


@contextlib.contextmanager
def _server(name: str) -> Iterator[Endpoint]:
    command = [sys.executable, "-m", "benchmarks.release.traffic", "serve", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        try:
            yield Endpoint(host="127.0.0.1", port=int(next(process.stdout or iter(()))))
        finally:
            process.kill()


@contextlib.contextmanager
def _users(port: int) -> Iterator[list[str]]:
    """Users that ask until the end; what they printed is then in the list."""
    command = [sys.executable, "-m", "benchmarks.release.traffic", "users", str(port), str(CLIENTS)]
    said: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        try:
            yield said
            said.append(process.communicate()[0])
        finally:
            process.kill()


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
    yield port
