"""The smallest memory that smoke finds, against images whose need is known.

    .venv/bin/python -m benchmarks.smoke_memory

Each image is the tiny model with one layer more, by which its container is kept at so many bytes that it cannot do
without (all that its control group is charged with, but files in the page cache that no process maps). Smoke does not
know that: it finds the limit by starting the image again and again under peak load.

Prints a table; writes `bench/smoke-memory.json` under SLIPWAY_HOME. Exit code 1 where a figure is more than 5 % off.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.contracts import Verdict
from tasks.image import connect
from tasks.settings import Settings
from tasks.workspace import scratch, use_own_temporary_folder
from tests.integration.smoke.bench import MIB, QUICK, Bench, needing
from tests.integration.smoke.packages import Packages

#: A model that is hardly more than its server, one of an ordinary size, and a large one for a small machine.
NEEDS_MIB = (200, 450, 900)
PROMISED = 0.05


@dataclass(frozen=True, slots=True)
class Found:
    """What smoke found for one need, in MiB; `error` is the share that it is off."""

    need_mib: int
    enough_mib: float
    too_little_mib: float | None
    error: float
    seconds: float


def main() -> int:
    use_own_temporary_folder()
    settings = Settings.from_environment()
    console = Console(highlight=False)
    with scratch(settings.work) as folder, Packages(folder, connect()) as packages:
        bench = packages.tiny("onnx")
        found = [_bisected(packages, bench, need) for need in NEEDS_MIB]
        console.print(_table(found))
        _write(settings.home / "bench" / "smoke-memory.json", found)
    return int(any(abs(item.error) > PROMISED for item in found))


def _bisected(packages: Packages, bench: Bench, need_mib: int) -> Found:
    image = packages.spoiled(bench, needing(need_mib * MIB))
    started = time.monotonic()
    report = bench.smoke(
        image,
        effort=replace(QUICK, memory_within_s=300),
        kind=bench.kind.model_copy(update={"memory_bytes": 2048 * MIB}),
    )
    if report.verdict is not Verdict.PASSED or report.capacity is None:
        raise SystemExit(f"smoke of the image that needs {need_mib} MiB says: {report.findings}")
    enough, too_little = report.capacity.smallest_memory_bytes or 0, report.capacity.too_little_memory_bytes
    return Found(
        need_mib,
        enough / MIB,
        None if too_little is None else too_little / MIB,
        enough / (need_mib * MIB) - 1,
        time.monotonic() - started,
    )


def _table(found: list[Found]) -> Table:
    table = Table("needs MiB", "found MiB", "too little MiB", "off", "seconds", title="smallest memory, by bisection")
    for item in found:
        too_little = "-" if item.too_little_mib is None else f"{item.too_little_mib:.0f}"
        table.add_row(
            str(item.need_mib), f"{item.enough_mib:.0f}", too_little, f"{item.error:+.1%}", f"{item.seconds:.0f}"
        )
    return table


def _write(path: Path, found: list[Found]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(item) for item in found], indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
