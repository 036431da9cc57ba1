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

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Console

from benchmarks.serving import images, speed, tails
from benchmarks.serving.bench import Bench
from benchmarks.serving.candidates import Home, NotMeasured
from benchmarks.serving.figures import Figure, Measured, markdown, table, write
from benchmarks.serving.machine import BUSY, Children, describe, taken_by_others
from tasks.errors import SlipwayError
from tasks.settings import Settings

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
    asked = _parser().parse_args()
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
    return 1 if any(figure.aim.startswith(("≤", "≥")) and not figure.met for figure in figures) else 0


def _measure(key: str, bench: Bench, quick: bool) -> Measured:
    others = taken_by_others()
    bench.console.print(f"{key}: others take {others:.0%} of the CPU", style="yellow" if others >= BUSY else "")
    began = time.monotonic()
    try:
        figures = ROWS[key](bench)
    except (NotMeasured, SlipwayError, OSError) as error:
        figures = [Figure(key, "", f"not measured: {error}")]
        bench.console.print(f"  {figures[0].ours}", style="red")
    return Measured(
        key,
        f".venv/bin/python -m benchmarks.serving --only {key}{' --quick' if quick else ''}",
        describe(),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        others,
        time.monotonic() - began,
        tuple(figures),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description="The serving image and its peers.")
    parser.add_argument("--only", action="append", choices=ROWS, help="a row; again for more")
    parser.add_argument("--quick", action="store_true", help="short measurements, for trying the benchmark itself")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
