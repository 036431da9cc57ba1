"""Thousands of simulated releases at once, on the way up: the judge's own comparisons, looked at every second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.spec import GuardsSpec, ReleaseSpec

Floats = NDArray[np.float64]

PLAN = ReleaseSpec()
GUARDS = GuardsSpec()


@dataclass(frozen=True)
class Look:
    """One second of every release: what each arm was asked. `anew`: the step's first."""

    canary: NDArray[np.int64]
    stable: NDArray[np.int64]
    anew: bool


def climb(rng: np.random.Generator, releases: int, per_s: float, seconds: int) -> Iterator[Look]:
    """Every step in which both arms serve, `seconds` long each."""
    for number, weight in enumerate(step for step in PLAN.steps if step < 100):
        for second in range(seconds):
            yield Look(
                rng.poisson(per_s * weight / 100, releases),
                rng.poisson(per_s * (1 - weight / 100), releases),
                anew=number > 0 and second == 0,
            )


def stay(rng: np.random.Generator, releases: int, weight: float, canary_per_look: float) -> Iterator[Look]:
    """One step, as long as anybody looks, from its first look on."""
    first = True
    while True:
        yield Look(
            rng.poisson(canary_per_look, releases),
            rng.poisson(canary_per_look * (100 - weight) / weight, releases),
            anew=first,
        )
        first = False
