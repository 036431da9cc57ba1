"""What was measured, as a table for people and as JSON for machines."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from benchmarks.serving.machine import BUSY, describe
from tasks.errors import SlipwayError

_MARKS = {True: "✓", False: "✗", None: ""}


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `ours` and `peers` are for reading, `values` the numbers behind them with their units in their names.
    `met` is `None` where there is no aim to meet or nothing could be measured."""

    figure: str
    aim: str
    ours: str
    met: bool | None = None
    peers: dict[str, str] = field(default_factory=dict)
    how: str = ""
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """A row with when, where and by which command it was taken; `others` is the share of the CPU that others took
    just before."""

    key: str
    command: str
    machine: str
    at: str
    others: float
    seconds: float
    figures: tuple[Figure, ...]

    @property
    def under_load(self) -> bool:
        return self.others >= BUSY


def write(path: Path, measured: Iterable[Measured]) -> list[Measured]:
    """Put rows into the file, in place of older ones of the same key; all rows that it holds now."""
    held = {row.key: row for row in _read(path)} | {row.key: row for row in measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps([asdict(row) for row in held.values()], indent=1, ensure_ascii=False) + "\n")
    aside.rename(path)
    return list(held.values())


def _read(path: Path) -> list[Measured]:
    if not path.is_file():
        return []
    rows = json.loads(path.read_text())
    return [Measured(**{**row, "figures": tuple(Figure(**figure) for figure in row["figures"])}) for row in rows]


def table(measured: Iterable[Measured], title: str = "The serving image and its peers") -> Table:
    """For a terminal."""
    shown = Table("figure", "aim", "Slipway", "", "peers", "how", show_lines=True, title=title)
    for row in measured:
        for figure in row.figures:
            peers = "\n".join(f"{name}: {text}" for name, text in figure.peers.items())
            shown.add_row(figure.figure, figure.aim, figure.ours, _MARKS[figure.met], peers, figure.how)
    return shown


def markdown(measured: Iterable[Measured]) -> str:
    """For a page: the table, and below it how each row was taken."""
    rows = list(measured)
    lines = ["| Figure | Aim | Slipway | | Peers |", "|---|---|---|---|---|"]
    for row in rows:
        for figure in row.figures:
            peers = "<br>".join(f"{name}: {text}" for name, text in figure.peers.items()) or "–"
            lines.append(f"| {figure.figure} | {figure.aim} | {figure.ours} | {_MARKS[figure.met]} | {peers} |")
    lines += ["", "How each was taken:", ""]
    for row in rows:
        load = f"**under load**: others took {row.others:.0%} of the CPU" if row.under_load else "quiet machine"
        lines.append(f"- `{row.command}`, {row.at}, {row.machine}; {load}.")
        lines += [f"  {figure.figure}: {figure.how}" for figure in row.figures if figure.how]
    return "\n".join(lines) + "\n"


class NotMeasured(Exception):
    """A figure that could not be taken, in a sentence; the others go on."""


def taken(
    program: str, key: str, measure: Callable[[], Iterable[Figure]], others: float, *, quick: bool = False
) -> Measured:
    """A row as it is measured now; one that cannot be is a figure that misses its aim and says why."""
    began = time.monotonic()
    try:
        figures = tuple(measure())
    except (NotMeasured, SlipwayError, OSError) as error:
        figures = (Figure(key, "", f"not measured: {error}", met=False),)
    return Measured(
        key,
        f".venv/bin/python -m {program} --only {key}{' --quick' if quick else ''}",
        describe(),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        others,
        time.monotonic() - began,
        figures,
    )


def arguments(program: str, description: str, rows: Iterable[str]) -> argparse.ArgumentParser:
    """The options of a benchmark of several rows."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--only", action="append", choices=tuple(rows), help="a row; again for more")
    parser.add_argument("--quick", action="store_true", help="short measurements, for trying the benchmark itself")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    return parser
