"""What every row is given, and what several of them ask: bare onnxruntime, and a candidate that may be broken."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from benchmarks.serving.candidates import SLIPWAY, Candidate, Home, Running, served
from benchmarks.serving.figures import NotMeasured
from benchmarks.serving.machine import client_core, on_cores, pinned, server_core
from benchmarks.serving.models import Model
from tasks.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bench:
    """`seconds` is how long one measurement lasts, `starts` how many cold starts are timed, `rounds` how often what
    may drift is measured in turn."""

    home: Home
    settings: Settings
    console: Console
    seconds: float
    starts: int
    rounds: int

    def bare(self, model: Model, rows: int, seconds: float) -> Bare:
        """Bare onnxruntime on the server's core with one thread, in the environment of Slipway's own image."""
        script = Path(__file__).with_name("bare.py")
        command = [str(self.home.python(SLIPWAY.lock)), str(script), str(model.path), "1", str(seconds), str(rows)]
        done = subprocess.run(
            on_cores({server_core()}, command),
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.home.children.environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NotMeasured(f"bare onnxruntime failed: {done.stderr.strip()[-300:]}")
        return Bare(**json.loads(done.stdout))

    def each(
        self,
        candidates: Iterable[Candidate],
        model: Model,
        measure: Callable[[Running], T],
        cores: frozenset[int] | None = None,
    ) -> tuple[dict[str, T], dict[str, str]]:
        """What `measure` says of every candidate that runs, by title, and why the others could not be measured.

        The server has the server's core and this process the client's, unless `cores` says otherwise.
        """
        found: dict[str, T] = {}
        broken: dict[str, str] = {}
        for candidate in candidates:
            self.console.print(f"  {candidate.title} …", style="dim")
            try:
                with served(candidate, self.home, model, cores or frozenset({server_core()})) as running:
                    if cores:
                        found[candidate.title] = measure(running)
                    else:
                        with pinned(client_core()):
                            found[candidate.title] = measure(running)
            except (NotMeasured, OSError) as error:
                broken[candidate.title] = f"not measured: {error}"
                self.console.print(f"  {candidate.title} {broken[candidate.title]}", style="red")
        return found, broken


@dataclass(frozen=True, slots=True)
class Bare:
    """Single runs of bare onnxruntime, one after the other."""

    per_second: float
    p50_us: float
