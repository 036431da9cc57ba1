"""The serving image beside what one would pick instead, measured in the same run.

    make bench-serving                                          every row: about half an hour, with the installation
    .venv/bin/python -m benchmarks.serving --only cold-start    one row (`--list` names them)
    .venv/bin/python -m benchmarks.serving --quick              every row, shortly: does it run? The figures are rough

Peers are installed below SLIPWAY_HOME from the locks in `peers/`. All serve the same ONNX file through the same
onnxruntime with the same threads; whatever a server answers is held against bare onnxruntime before it is timed. A peer
that does not run is said so in the table, and does not stop the rest.

Prints the table; writes `bench/serving.json` and `bench/serving.md` below SLIPWAY_HOME, where rows that were taken
alone replace older ones. Exit code 1 where a figure misses its aim or Slipway's own could not be measured.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from rich.console import Console

from benchmarks.serving import images, speed, tails
from benchmarks.serving.bench import Bench
from benchmarks.serving.candidates import Home
from benchmarks.serving.figures import Figure, Measured, arguments, markdown, table, taken, write
from benchmarks.serving.machine import BUSY, Children, taken_by_others
from tasks.settings import Settings

PROGRAM = "benchmarks.serving"

#: Row → what measures it, in the order of the table.
ROWS: dict[str, Callable[[Bench], list[Figure]]] = {
    "size": images.size,
    "cold-start": images.cold_start,
    "overhead": speed.overhead,
    "requests": speed.requests,
    "resnet": speed.resnet,
    "slow-mix": tails.slow_mix,
    "large": tails.large,
    "rebuild": images.rebuild,
}


def main() -> int:
    """Measure the rows that are asked for."""
    asked = arguments(PROGRAM, "The serving image and its peers.", ROWS).parse_args()
    if asked.list:
        print("\n".join(ROWS))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended then, too
    console, settings = Console(width=None if sys.stdout.isatty() else 160), Settings.from_environment()
    folder, children = settings.home / "bench", Children()
    home = Home(folder / "serving", children)
    bench = Bench(home, settings, console, seconds=2, starts=3, rounds=1)
    if not asked.quick:
        bench = Bench(home, settings, console, seconds=8, starts=20, rounds=3)
    measured = []
    try:
        for key in asked.only or ROWS:
            measured.append(_measure(key, bench, asked.quick))
            rows = write(folder / "serving.json", measured[-1:])
            (folder / "serving.md").write_text(markdown(sorted(rows, key=lambda row: list(ROWS).index(row.key))))
    finally:
        children.end()
    console.print(table(measured))
    console.print(f"figures: {folder / 'serving.json'}, {folder / 'serving.md'}")
    figures = [figure for row in measured for figure in row.figures]
    missed = (not figure.met for figure in figures if figure.aim.startswith(("≤", "≥")) or figure.met is False)
    return 1 if any(missed) else 0


def _measure(key: str, bench: Bench, quick: bool) -> Measured:
    others = taken_by_others()
    bench.console.print(f"{key}: others take {others:.0%} of the CPU", style="yellow" if others >= BUSY else "")
    row = taken(PROGRAM, key, lambda: ROWS[key](bench), others, quick=quick)
    for figure in row.figures:
        if not figure.aim and figure.met is False:
            bench.console.print(f"  {figure.ours}", style="red")
    return row


if __name__ == "__main__":
    sys.exit(main())
