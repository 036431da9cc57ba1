"""Rows that changed sides, per class: lost to the left, gained to the right. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.contracts import ClassChange

#: Classes that are drawn; of thousands, the others would be a wall of thin lines.
_DRAWN = 30


@dataclass(frozen=True, slots=True)
class Bars:
    """One class; widths in per cent of half the axis."""

    change: ClassChange
    lost_width: float
    gained_width: float


@dataclass(frozen=True, slots=True)
class Changes:
    """One metric's classes: those that changed most, and how many of the others changed and did not."""

    metric: str
    bars: tuple[Bars, ...]
    more: int
    unchanged: int


def changes(classes: Sequence[ClassChange]) -> tuple[Changes, ...]:
    """Per metric, the classes with rows that changed sides; most rows lost first."""
    return tuple(
        _of(metric, [change for change in classes if change.metric == metric])
        for metric in dict.fromkeys(change.metric for change in classes)
    )


def _of(metric: str, classes: Sequence[ClassChange]) -> Changes:
    moved = sorted(
        (change for change in classes if change.lost or change.gained),
        key=lambda change: (change.gained - change.lost, -change.lost, change.label),
    )
    drawn = moved[:_DRAWN]
    largest = max((max(change.lost, change.gained) for change in drawn), default=1)
    bars = tuple(
        Bars(change, round(100 * change.lost / largest, 1), round(100 * change.gained / largest, 1)) for change in drawn
    )
    return Changes(metric, bars, len(moved) - len(drawn), len(classes) - len(moved))
