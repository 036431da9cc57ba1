"""Both versions of one value, held against each other. Functions of arrays.

A converter may keep a value in another layout (channels first where the source has them last): that is the same value.
Any other shape is another value, and lies as far off as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A margin, and a difference, of what cannot be measured: another shape, NaN on one side only.
FAR, LARGEST = 1e30, float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True)
class Found:
    """How far a value lies from its counterpart. `axes` brings the source's version into the file's layout.

    `axes` is None where it has another shape; `scale` is the counterpart's largest finite magnitude.
    """

    difference: float
    margin: float
    scale: float
    axes: tuple[int, ...] | None


def hold(value: NDArray[Any], source: NDArray[Any], allowed: float) -> Found:
    """Compare, in the layout in which they are nearest."""
    scale = float(np.abs(source[np.isfinite(source)].astype(np.float64)).max(initial=0.0))
    best = Found(LARGEST, FAR, scale, None)
    for axes in _layouts(source.ndim):
        moved = source.transpose(axes)
        if moved.shape != value.shape and not (value.size == moved.size == 1):
            continue
        difference = _difference(value.astype(np.float64), moved.astype(np.float64).reshape(value.shape))
        if best.axes is None or difference < best.difference:
            best = Found(difference, min(difference / allowed, FAR), scale, axes)
    return best


def _layouts(rank: int) -> Iterator[tuple[int, ...]]:
    """As it is, channels first, channels last, and with the first two axes changed (sequences, batch first or not)."""
    yield tuple(range(rank))
    if rank >= 3:
        yield (1, 0, *range(2, rank))
        yield (0, rank - 1, *range(1, rank - 1))
        yield (0, *range(2, rank), 1)


def _difference(value: NDArray[np.float64], source: NDArray[np.float64]) -> float:
    same = (value == source) | (np.isnan(value) & np.isnan(source))
    finite = np.isfinite(value) & np.isfinite(source)
    if (~finite & ~same).any():
        return LARGEST
    with np.errstate(over="ignore"):
        return min(float(np.abs(np.where(finite, value - source, 0.0)).max(initial=0.0)), LARGEST)
