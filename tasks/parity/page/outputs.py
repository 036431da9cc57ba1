"""Each output's difference against the source's own noise, pool by pool; and the batch sizes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.contract import TensorSpec
from tasks.parity.confrontation import Judgement
from tasks.parity.inputs import Pool
from tasks.parity.outcomes import Outcome
from tasks.parity.reference import Reference


@dataclass(frozen=True, slots=True)
class Bar:
    """One output on one pool: figures, and their places on a logarithmic axis in per cent (None: nothing to show)."""

    pool: str
    rows: int
    compared: int
    exact: bool
    noise: float | None
    difference: float | None
    margin: float | None
    allowed: float | None
    wrong: bool
    noise_at: float | None = None
    difference_at: float | None = None
    allowed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """All pools of one output on one axis; `ticks` are decades: place in per cent, exponent."""

    output: str
    dtype: str
    method: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, int], ...]
    noise: tuple[tuple[str, str, float], ...]


def chart(tensor: TensorSpec, judged: Judgement) -> Chart:
    """One output's chart, of an export that was asked."""
    name = tensor.name
    bars = [
        _bar(tensor, pool, judged.references[number], [o for o in judged.outcomes if o.batch.pool == number])
        for number, pool in enumerate(judged.pools)
    ]
    shown = [
        value for bar in bars for value in (bar.noise, bar.difference, bar.allowed) if value and math.isfinite(value)
    ]
    noise = tuple(
        (pool.name, condition, value)
        for pool, found in zip(judged.pools, judged.references, strict=True)
        for condition, value in found.noise[name].largest.items()
    )
    if not shown or bars[0].exact:
        return Chart(name, tensor.dtype.value, "compared exactly", tuple(bars), (), noise)
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    high = max(high, low + 1)

    def at(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return 0.0 if value <= 0 else round(100 * (math.log10(value) - low) / (high - low), 2)

    placed = tuple(
        Bar(
            **{field: getattr(bar, field) for field in Bar.__slots__ if not field.endswith("_at")},
            noise_at=at(bar.noise),
            difference_at=at(bar.difference),
            allowed_at=at(bar.allowed),
        )
        for bar in bars
    )
    step = math.ceil((high - low) / 4)
    ticks = tuple((round(100 * (power - low) / (high - low), 2), power) for power in range(low, high + 1, step))
    twin = judged.references[0].noise[name].twin
    method = "noise against the source in float64" if twin else "noise from moved inputs, and the rounding bound"
    if not tensor.dtype.is_float:
        method = "a rounded float: what the format's noise in the float lets it become"
    return Chart(name, tensor.dtype.value, method, placed, ticks, noise)


def _bar(tensor: TensorSpec, pool: Pool, source: Reference, outcomes: Sequence[Outcome]) -> Bar:
    found = [outcome.against_source[tensor.name] for outcome in outcomes if outcome.error is None]
    worst = max(found, key=lambda item: item.worst_margin or -1.0, default=None)
    exact = not tensor.dtype.is_float and tensor.name not in source.whole
    return Bar(
        pool=pool.name,
        rows=pool.rows,
        compared=sum(item.compared for item in found),
        exact=exact,
        noise=source.noise[tensor.name].level if tensor.dtype.is_float else None,
        difference=max((item.max_abs_diff for item in found if item.max_abs_diff is not None), default=None),
        margin=worst.worst_margin if worst else None,
        allowed=worst.worst.allowed if worst and worst.worst and not exact else None,
        wrong=any(item.mismatch is not None for item in found) or len(found) < len(outcomes),
    )


def batches(outcomes: Sequence[Outcome], pools: Sequence[Pool]) -> Sequence[Mapping[str, Any]]:
    """Per pool: every size that was asked for, and whether all its batches were answered right."""
    table = []
    for number, pool in enumerate(pools):
        mine = [outcome for outcome in outcomes if outcome.batch.pool == number]
        sizes = {
            asked: all(
                outcome.error is None
                and all(
                    found.mismatch is None
                    for found in (*outcome.against_source.values(), *outcome.against_itself.values())
                )
                for outcome in mine
                if outcome.batch.size == asked
            )
            for asked in sorted({outcome.batch.size for outcome in mine})
        }
        if sizes:
            table.append({"pool": pool.name, "rows": pool.rows, "sizes": sizes})
    return table
