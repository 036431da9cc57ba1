"""The way through the layers: every operator's margin in the graph's order, on a logarithmic axis. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.contracts import Divergence, LayerDrift

#: Height of the plot, in pixels; its width is the page's.
HEIGHT, _TOP, _BOTTOM = 220, 24, 22
#: Points that are drawn: more than a wide screen can tell apart. Of a thousand operators, each is the worst of a few.
_POINTS = 240
#: Margins that are drawn; what lies beyond is drawn at the edge.
_LEAST, _MOST = 1e-6, 1e9


@dataclass(frozen=True, slots=True)
class Point:
    """An operator, or the worst of some that stand beside each other: `x` in per cent, `y` in pixels from the top."""

    layer: LayerDrift
    x: float
    y: float
    out: bool
    first: bool


@dataclass(frozen=True, slots=True)
class Way:
    """The plot, and what is said about it. `limit_y` is where the margin is 1; `ticks` are (pixels, exponent)."""

    divergence: Divergence
    points: tuple[Point, ...]
    limit_y: float
    ticks: tuple[tuple[float, int], ...]
    first_x: float | None
    worst: tuple[tuple[LayerDrift, float], ...]


def name(layer: LayerDrift) -> str:
    """What a layer is called: its module in the source, or the value in the graph where that is not known."""
    return layer.module or layer.node


def way(divergence: Divergence) -> Way:
    """The drift on one plot; without points where nothing could be compared."""
    drift = divergence.drift
    margins = [min(max(layer.margin, _LEAST), _MOST) for layer in drift if layer.margin > 0] or [1.0]
    low = min(math.floor(math.log10(min(margins))), -1)
    high = max(math.ceil(math.log10(max(margins))), 1)

    def y(margin: float) -> float:
        power = math.log10(min(max(margin, 10.0**low), 10.0**high))
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - power) / (high - low), 1)

    first = divergence.first
    points = tuple(
        Point(layer, _x(place, len(drift)), y(layer.margin), layer.margin > 1, layer == first)
        for place, layer in _drawn(drift, first)
    )
    step = math.ceil((high - low) / 5)
    largest = max((layer.margin for layer in divergence.worst), default=1.0)
    return Way(
        divergence=divergence,
        points=points,
        limit_y=y(1.0),
        ticks=tuple((y(10.0**power), power) for power in range(low, high + 1, step)),
        first_x=next((point.x for point in points if point.first), None),
        worst=tuple((layer, _width(layer.margin, largest)) for layer in divergence.worst),
    )


def _drawn(drift: Sequence[LayerDrift], first: LayerDrift | None) -> list[tuple[int, LayerDrift]]:
    """At most `_POINTS` of them, each the worst of its neighbours; the first diverging one is always there."""
    each = max(math.ceil(len(drift) / _POINTS), 1)
    kept = []
    for start in range(0, len(drift), each):
        beside = range(start, min(start + each, len(drift)))
        kept.append(
            next((place for place in beside if drift[place] == first), max(beside, key=lambda at: drift[at].margin))
        )
    return [(place, drift[place]) for place in kept]


def _x(place: int, count: int) -> float:
    return round(2 + 96 * (place / (count - 1) if count > 1 else 0.5), 2)


def _width(margin: float, largest: float) -> float:
    """A bar's length in per cent, on a logarithmic axis that begins at a margin of a tenth."""
    if margin <= 0.1 or largest <= 0.1:
        return 1.0
    return round(max(100 * math.log10(margin * 10) / math.log10(largest * 10), 1.0), 1)
