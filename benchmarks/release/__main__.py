"""The figures of a release, one part after the other.

    make bench-release                                             every part
    .venv/bin/python -m benchmarks.release --only detection        one part (`--list` names them)
    .venv/bin/python -m benchmarks.release --quick                 every part, shortly: does it run? Rough figures

Prints the table; writes `bench/release.json` and `bench/release.md` below SLIPWAY_HOME, where parts that were taken
alone replace older ones. Exit code 1 where a figure misses its aim or a part could not be measured.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial

from rich.console import Console

from benchmarks.serving.figures import Figure, arguments, markdown, table, taken, write
from benchmarks.serving.machine import taken_by_others
from tasks.settings import Settings

PROGRAM = "benchmarks.release"

#: Part → the function that measures it, `quick` or not; imported when it is asked for.
PARTS = {
    "false-rollbacks": "benchmarks.release.false_rollbacks:measure",
    "detection": "benchmarks.release.detection:measure",
    "broken-data": "benchmarks.release.broken_data:measure",
    "scenarios": "benchmarks.release.scenarios:measure",
    "router": "benchmarks.release.router:measure",
}


def main() -> int:
    """Measure the parts that are asked for."""
    asked = arguments(PROGRAM, "What a release is worth.", PARTS).parse_args()
    if asked.list:
        print("\n".join(PARTS))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = Settings.from_environment().home / "bench"
    measured = []
    for part in asked.only or PARTS:
        console.print(f"{part} …")
        measured.append(
            taken(PROGRAM, part, partial(_figures, part, asked.quick), taken_by_others(), quick=asked.quick)
        )
        rows = write(folder / "release.json", measured[-1:])
        (folder / "release.md").write_text(markdown(sorted(rows, key=lambda row: list(PARTS).index(row.key))))
    console.print(table(measured, "A release"))
    console.print(f"figures: {folder / 'release.json'}, {folder / 'release.md'}")
    return 1 if any(figure.met is False for row in measured for figure in row.figures) else 0


def _figures(part: str, quick: bool) -> list[Figure]:
    module, _, function = PARTS[part].partition(":")
    measure: Callable[[bool], list[Figure]] = getattr(importlib.import_module(module), function)
    return measure(quick)


if __name__ == "__main__":
    sys.exit(main())
