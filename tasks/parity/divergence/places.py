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

#: So many values are compared at once: 8 MiB of float64 on either side.
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """How far a value lies from its counterpart. `axes` brings the source's version into the file's layout.

    `axes` is None where it has another shape.
    """

    difference: float
    margin: float
    axes: tuple[int, ...] | None


def hold(value: NDArray[Any], source: NDArray[Any], allowed: float, any_layout: bool = True) -> Found:
    """Compare, in the layout in which they are nearest; or, unless it may be `any_layout`, as they are."""
    best = Found(LARGEST, FAR, None)
    for axes in _layouts(source.ndim) if any_layout else [tuple(range(source.ndim))]:
        moved = source.transpose(axes)
        if moved.shape != value.shape and not (value.size == moved.size == 1):
            continue
        difference = max((_difference(*part) for part in _parts(value, moved.reshape(value.shape))), default=0.0)
        if best.axes is None or difference < best.difference:
            best = Found(difference, min(difference / allowed, FAR), axes)
    return best


def _layouts(rank: int) -> Iterator[tuple[int, ...]]:
    """As it is, channels first, channels last, and with the first two axes changed (sequences, batch first or not)."""
    yield tuple(range(rank))
    if rank >= 3:
        yield (1, 0, *range(2, rank))
        yield (0, rank - 1, *range(1, rank - 1))
        yield (0, *range(2, rank), 1)


def _parts(value: NDArray[Any], source: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Both, a few rows at a time: what is compared is widened, and need not be so all at once."""
    if value.ndim == 0:
        yield value, source
        return
    step = max(1, _AT_ONCE * len(value) // max(value.size, 1))
    for start in range(0, len(value), step):
        yield value[start : start + step], source[start : start + step]


def _difference(value: NDArray[Any], source: NDArray[Any]) -> float:
    value, source = value.astype(np.float64), source.astype(np.float64)
    same = (value == source) | (np.isnan(value) & np.isnan(source))
    finite = np.isfinite(value) & np.isfinite(source)
    if (~finite & ~same).any():
        return LARGEST
    with np.errstate(over="ignore"):
        return min(float(np.abs(np.where(finite, value - source, 0.0)).max(initial=0.0)), LARGEST)
