"""Which format on which instance type: by what was measured, never one that was not proven. Pure.

In: the matrix. Out: a `Recommendation`, as data and in words. Candidates are proven cells alone. They are ranked by
what a request costs where the user gave prices, else by requests per vCPU and then per GiB, else (no rate was measured)
by the p99. What differs by less than can be told apart is a tie: the format that loses less of the task metrics wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from tasks.contracts import Contract
from tasks.figures import amount, figure, gib
from tasks.placement.matrix import Cell, Matrix

#: The highest rate and the smallest memory are found to within 5 %: what is nearer than that is the same.
INDISTINGUISHABLE = 0.05


class Basis(StrEnum):
    """What candidates were ranked by."""

    PRICE = "price per request"
    DENSITY = "requests per vCPU"
    LATENCY = "p99 latency"


class GivenUp(Contract):
    """A cell that was not taken though it has something better, and why not."""

    format: str
    instance_type: str
    better: tuple[str, ...] = Field(min_length=1, description="e.g. `cheaper: 0.04 USD/h instead of 0.09 USD/h`")
    why_not: str


class Recommendation(Contract):
    """A format and an instance type; neither where nothing is proven."""

    format: str | None = None
    instance_type: str | None = None
    basis: Basis | None = None
    reasons: tuple[str, ...] = ()
    given_up: tuple[GivenUp, ...] = ()

    @property
    def words(self) -> str:
        """In sentences, for people."""
        if self.format is None:
            return " ".join(self.reasons)
        taken = f"Take {self.format} on {self.instance_type}: {'; '.join(self.reasons)}."
        left = [
            f"{each.format} on {each.instance_type} would be {', '.join(each.better)}, but {each.why_not}."
            for each in self.given_up
        ]
        return " ".join([taken, *(["Given up:", *left] if left else ["Nothing better was given up."])])


@dataclass(frozen=True, slots=True)
class _Ranking:
    basis: Basis
    cost: Callable[[Cell], float | None]  # less is better
    said: Callable[[Cell], str]
    missing: str


def recommend(matrix: Matrix) -> Recommendation:
    """The best of the proven cells."""
    proven = matrix.proven()
    if not proven:
        return Recommendation(reasons=(f"Nothing is proven for {matrix.name}, so nothing is recommended.",))
    ranking = _ranking(proven)
    ranked = [cell for cell in proven if ranking.cost(cell) is not None]
    if not ranked:
        return Recommendation(reasons=(f"No figure of {matrix.name} was measured, so nothing is recommended.",))
    chosen = _best(ranked, ranking, matrix)
    return Recommendation(
        format=chosen.format,
        instance_type=chosen.instance_type,
        basis=ranking.basis,
        reasons=tuple(_reasons(chosen, ranked, ranking, matrix)),
        given_up=tuple(_given_up(chosen, matrix, ranking)),
    )


# --- ranking ------------------------------------------------------------------------------------------------------


def _ranking(proven: tuple[Cell, ...]) -> _Ranking:
    currencies = {cell.price.currency for cell in proven if cell.price and cell.price_per_million is not None}
    if len(currencies) == 1:
        currency = next(iter(currencies))
        return _Ranking(
            Basis.PRICE,
            lambda cell: cell.price_per_million,
            lambda cell: f"{amount(cell.price_per_million)} {currency} for a million requests",
            "its price or its highest rate is not known",
        )
    if any(cell.rps_per_vcpu for cell in proven):
        return _Ranking(
            Basis.DENSITY,
            lambda cell: 1 / cell.rps_per_vcpu if cell.rps_per_vcpu else None,
            lambda cell: (
                f"{amount(cell.rps_per_vcpu)} requests/s per vCPU, {amount(cell.rps_per_gib)} per GiB"
                f"{' by reckoning' if cell.replicas > 1 else ''}"
            ),
            "its highest rate was not measured",
        )
    return _Ranking(
        Basis.LATENCY,
        lambda cell: cell.figures.p99_ms if cell.figures else None,
        lambda cell: f"a p99 of {figure(cell.figures.p99_ms if cell.figures else None)} ms for one client alone",
        "its p99 was not measured",
    )


def _best(ranked: list[Cell], ranking: _Ranking, matrix: Matrix) -> Cell:
    def cost(cell: Cell) -> float:
        found = ranking.cost(cell)
        return float("inf") if found is None else found

    best = min(map(cost, ranked))
    ties = [cell for cell in ranked if cost(cell) <= best * (1 + INDISTINGUISHABLE)]
    return min(
        ties,
        key=lambda cell: (
            _drop(cell, matrix),
            -(cell.rps_per_gib or 0.0) if ranking.basis is Basis.DENSITY else 0.0,
            cost(cell),
            cell.needed_bytes or 0,
            matrix.formats.index(cell.format),
            matrix.instance_types.index(cell.instance_type),
        ),
    )


def _drop(cell: Cell, matrix: Matrix) -> float:
    """The most that the cell's format loses of any task metric."""
    return max((drop.value for drop in matrix.drops.get(cell.format, ())), default=0.0)


# --- words --------------------------------------------------------------------------------------------------------


def _reasons(chosen: Cell, ranked: list[Cell], ranking: _Ranking, matrix: Matrix) -> Iterator[str]:
    best = f"the best of {len(ranked)} proven" if len(ranked) > 1 else "the only one that is proven and measured"
    yield f"{ranking.said(chosen)}, {best} by {ranking.basis}"
    if ranking.basis is not Basis.PRICE:
        yield _why_no_price(matrix.proven())
    if chosen.rate:
        yield f"one replica was measured to bear {chosen.rate}"
    if chosen.figures and chosen.figures.p99_ms is not None and ranking.basis is not Basis.LATENCY:
        yield f"the p99 of one client alone is {figure(chosen.figures.p99_ms)} ms"
    if chosen.needed_bytes:
        yield f"it needs {gib(chosen.needed_bytes)} of memory under load"
    for drop in matrix.drops.get(chosen.format, ()):
        if drop.value > 0:
            yield f"{drop.metric} is {figure(drop.value)} worse than the source model's"
    if chosen.tried_vcpus and chosen.vcpus and chosen.tried_vcpus < chosen.vcpus:
        yield f"figures hold for {chosen.tried_vcpus:g} of its {chosen.vcpus:g} vCPUs, which is what smoke's host has"
    yield "rates and times are those of smoke's host under the type's limits"


def _why_no_price(proven: tuple[Cell, ...]) -> str:
    if not any(cell.rate_rps for cell in proven):
        return "no highest rate was measured, so what a request costs is not known"
    currencies = {cell.price.currency for cell in proven if cell.price}
    if len(currencies) > 1:
        return f"prices are in {' and '.join(sorted(currencies))}, which are not compared"
    return "no price is given for it or another proven type whose rate is known"


def _given_up(chosen: Cell, matrix: Matrix, ranking: _Ranking) -> Iterator[GivenUp]:
    for cell in matrix.cells:
        better = () if cell == chosen else tuple(_better(cell, chosen, matrix))
        if better:
            yield GivenUp(
                format=cell.format,
                instance_type=cell.instance_type,
                better=better,
                why_not=_why_not(cell, chosen, matrix, ranking),
            )


def _why_not(cell: Cell, chosen: Cell, matrix: Matrix, ranking: _Ranking) -> str:
    if not cell.is_proven:
        first = cell.reasons[0]
        return f"it is {cell.verdict} ({first.code}: {first.message})"
    cost, least = ranking.cost(cell), ranking.cost(chosen)
    if cost is None or least is None:
        return f"{ranking.missing}, so it cannot be compared by {ranking.basis}"
    if cost <= least * (1 + INDISTINGUISHABLE):
        more = ", and it loses more of the task metrics" if _drop(cell, matrix) > _drop(chosen, matrix) else ""
        return f"the two cannot be told apart by {ranking.basis}{more}"
    return f"{ranking.said(cell)} is worse"


def _better(cell: Cell, chosen: Cell, matrix: Matrix) -> Iterator[str]:
    """What `cell` has that is better than `chosen` by more than can be told apart."""
    if cell.price and chosen.price and cell.price.currency == chosen.price.currency:
        hour = f"{cell.price.currency}/h"
        if _less(cell.price.amount, chosen.price.amount):
            yield f"cheaper ({amount(cell.price.amount)} {hour} instead of {amount(chosen.price.amount)} {hour})"
    if _less(chosen.rate_rps, cell.rate_rps):
        reckoned = " by reckoning" if max(cell.replicas, chosen.replicas) > 1 else ""
        yield f"able to bear more ({amount(cell.rate_rps)} requests/s instead of {amount(chosen.rate_rps)}{reckoned})"
    theirs, ours = (each.figures.p99_ms if each.figures else None for each in (cell, chosen))
    if _less(theirs, ours):
        yield f"faster for one client alone (p99 {figure(theirs)} ms instead of {figure(ours)} ms)"
    if cell.needed_bytes and chosen.needed_bytes and _less(cell.needed_bytes, chosen.needed_bytes):
        yield f"smaller ({gib(cell.needed_bytes)} of memory instead of {gib(chosen.needed_bytes)})"
    drops = {drop.metric: drop.value for drop in matrix.drops.get(cell.format, ())}
    for drop in matrix.drops.get(chosen.format, ()):
        if drop.value > max(0.0, drops.get(drop.metric, drop.value)):
            yield f"more accurate ({drop.metric} {figure(drop.value - drops[drop.metric])} better)"


def _less(one: float | None, other: float | None) -> bool:
    """Whether `one` is less by more than can be told apart; what was not measured is not."""
    return one is not None and other is not None and one < other * (1 - INDISTINGUISHABLE)
