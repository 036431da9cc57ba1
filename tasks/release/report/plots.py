"""Places on the page: time from left to right, a figure from bottom to top. Pure.

In: series of (time, value). Out: `Plot`s whose places are in per cent of the width and pixels of the height, so that
the drawing stretches with the page and its text does not. Lines are told apart by dashes and by the shape of their
marks, not by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Height of a plot in pixels (and of a small one), and what is kept free above and below its lines.
HEIGHT, SMALL, _TOP, _BOTTOM = 150, 96, 20, 22
#: Where lines begin and end, in per cent of the width: figures stand to the left.
_LEFT, _RIGHT = 7.0, 98.5
#: Units of the stretched drawing that lines are drawn in: a tenth of a per cent.
WIDTH = 1000
#: Marks along one line: more stand so close that they become a line of their own.
_MARKS = 40

#: A value, and when it was so; None where nothing is known.
Point = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line to be drawn. `style` is its class in the style sheet: stable, canary, evidence or target."""

    name: str
    style: str
    points: tuple[Point, ...]
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line as drawn: an SVG path in units of the stretched drawing, and marks in per cent and pixels."""

    name: str
    style: str
    path: str
    marks: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Band:
    """A step of the release: where it stands, and what it is called."""

    left: float
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    """All that is drawn; `limit` is a horizontal line with words. `said` is the plot in a sentence."""

    said: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[float, str], ...]
    moments: tuple[tuple[float, str], ...]
    bands: tuple[Band, ...]
    limit: tuple[float, str] | None = None
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Times:
    """The span of time that every plot of a page shows, and the steps within it: (from, until, label)."""

    since: float
    until: float
    steps: tuple[tuple[float, float, str], ...] = ()

    def x(self, moment: float) -> float:
        """Place of a moment in per cent."""
        length = self.until - self.since or 1.0
        at = min(max((moment - self.since) / length, 0.0), 1.0)
        return round(_LEFT + (_RIGHT - _LEFT) * at, 2)

    @property
    def bands(self) -> tuple[Band, ...]:
        return tuple(
            Band(self.x(since), round(self.x(until) - self.x(since), 2), label) for since, until, label in self.steps
        )

    @property
    def moments(self) -> tuple[tuple[float, str], ...]:
        """Some round moments since the beginning."""
        length = self.until - self.since
        step = next((step for step in _STEPS_S if length / step <= 7), _STEPS_S[-1])
        return tuple((self.x(self.since + at), _clock(at)) for at in range(0, int(length) + 1, step))


_STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


def plot(
    said: str,
    series: Sequence[Series],
    times: Times,
    *,
    low: float | None = None,
    high: float | None = None,
    limit: tuple[float, str] | None = None,
    percent: bool = False,
    height: int = HEIGHT,
) -> Plot:
    """Lines over time. The range is that of the values and the limit, no wider than `low` and `high` where given:
    beyond, a line goes along the edge."""
    values = [value for each in series for _, value in each.points if value is not None and math.isfinite(value)]
    values += [limit[0]] if limit is not None else []
    bottom = min([0.0, *values]) if low is None else max(min([0.0, *values]), low)
    top = max(values, default=1.0) if high is None else min(max(values, default=high), high)
    if top <= bottom:
        top = bottom + 1.0
    top += 0.05 * (top - bottom)

    def y(value: float) -> float:
        held = min(max(value, bottom), top)
        return round(_TOP + (height - _TOP - _BOTTOM) * (top - held) / (top - bottom), 1)

    return Plot(
        said=said,
        lines=tuple(_line(each, times, y) for each in series),
        levels=tuple((y(level), _level(level, percent)) for level in _levels(bottom, top)),
        moments=times.moments,
        bands=times.bands,
        limit=None if limit is None else (y(limit[0]), limit[1]),
        height=height,
    )


def _line(series: Series, times: Times, y: Callable[[float], float]) -> Line:
    parts, pen = [], "M"
    places: list[tuple[float, float]] = []
    for moment, value in series.points:
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        x, height = times.x(moment), y(value)
        if series.stepped and pen == "L":
            parts.append(f"L{x * WIDTH / 100:g} {places[-1][1]:g}")
        parts.append(f"{pen}{x * WIDTH / 100:g} {height:g}")
        places.append((x, height))
        pen = "L"
    each = max(math.ceil(len(places) / _MARKS), 1)
    marks = () if series.stepped else tuple(places[len(places) - 1 :: -each][::-1])
    return Line(series.name, series.style, "".join(parts), marks)


def _levels(bottom: float, top: float) -> tuple[float, ...]:
    """Three to six round levels, 0 among them where it is in the range."""
    span = top - bottom
    power = 10.0 ** math.floor(math.log10(span))
    step = next(
        step for step in (0.1 * power, 0.2 * power, 0.5 * power, power, 2 * power, 5 * power) if span / step <= 5
    )
    first = math.ceil(bottom / step - 1e-9)
    return tuple(number * step for number in range(first, math.floor(top / step + 1e-9) + 1))


def _level(value: float, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"


def _clock(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h"
