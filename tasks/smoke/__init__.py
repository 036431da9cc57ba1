"""Smoke: the real image, started under an instance type's limits, must answer as the source model did.

hardware           what an instance type is; `catalogue` reads those that there are (`instance_types.yaml`)
host               the machine that this runs on, which is an instance type too
golden, protocol   what is asked, and whether an answer is right
load               how it is asked, one by one and at once; under load: `tasks.load`
instruction_set    which of the type's processors this host can stand for: as it is, by `emulation`, by `masking`
run, trial         image + type + golden → Observation: containers, and nothing judged; `quiet` for the times
under_load         the highest rate and the fullest moment; `spent` for where the time goes, `bisection` for memory
gpu                a GPU package against the tables of drivers, libraries and GPUs (`accelerators.yaml`), and a plan of
                   the GPU's memory (`gpu_memory`): nothing runs
earlier            what was found on another type with the same vCPUs, and need not be measured again
judge              Observation + budgets → verdict, figures, and `findings`, `misanswered`, `claims`: no containers
capacity           Observation → what the type bears
served             what an image says of itself, in the place of a spec
stage              contracts in, report out
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.smoke.catalogue import InstanceType, load_catalogue

if TYPE_CHECKING:
    from tasks.contracts import Image, ParityReport, SmokeReport
    from tasks.image import Engine
    from tasks.smoke.earlier import Earlier
    from tasks.smoke.served import Served
    from tasks.store import Store

__all__ = ["InstanceType", "load_catalogue", "smoke"]


def smoke(
    spec: Served,
    image: Image,
    parity: ParityReport,
    instance_type: str,
    store: Store,
    engine: Engine,
    work: Path,
    earlier: Earlier | None = None,
) -> SmokeReport:
    """Run `image` under the limits of `instance_type` and hold it to the spec's budgets and the source's answers.

    What it bears is not measured again where `earlier` knows it of another type with as many vCPUs. Every container
    that is started is gone when this returns or raises; what a killed process left is removed first.

    Raises:
        BadInput: no such instance type.
        EngineUnavailable: the engine does not answer.
        PlatformError: the image is not in the engine, or its container could not be started.
        CorruptObject: the golden samples in the store were altered.
    """
    from tasks.smoke.stage import prove_here  # spec validation imports this package for the catalogue alone

    return prove_here(spec, image, parity, instance_type, store, engine, work, earlier)
