"""How many releases are promoted on data that is missing or broken: the whole suite of faults. Aim: none."""

from __future__ import annotations

from benchmarks.serving.figures import Figure
from tests.unit.release.judge.faults import FAULTS
from tests.unit.release.judge.traffic import Behaviour, Traffic, release, with_plan


def measure(quick: bool) -> list[Figure]:
    """Every fault, over several releases of a version that is good but for it."""
    seeds = range(2 if quick else 20)
    plan = with_plan(bake_s=10, extend_s=60, min_requests=100)
    promoted = [
        fault.name
        for fault in FAULTS
        for seed in seeds
        if release(
            Traffic(Behaviour(), fault.canary, per_s=3000, seed=seed), plan, broken=fault.through(), looks=150
        ).promoted
    ]
    whole = [release(Traffic(Behaviour(), Behaviour(), per_s=3000, seed=seed), plan).promoted for seed in seeds]
    done = len(FAULTS) * len(seeds)
    return [
        Figure(
            f"promotions on missing or broken data, {len(FAULTS)} faults",
            "0",
            f"{len(promoted)} of {done:,}" + (f": {', '.join(sorted(set(promoted)))}" if promoted else ""),
            not promoted,
            how=f"without a fault, {sum(whole)} of {len(whole)} are promoted",
            values={"promoted": len(promoted), "releases": done},
        )
    ]
