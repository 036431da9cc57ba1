"""The recommendation takes the best of what is proven, and says what was given up for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Capacity, SmokeFigures, Verdict, digest_of
from tasks.placement import Cell, HourlyPrice, Matrix, Recommendation, matrix_of, recommend
from tasks.placement.matrix import Reason
from tasks.placement.recommendation import Basis
from tasks.store import LocalStore
from tests import samples

NEW, OLD = samples.TYPES
FAILED = {"verdict": Verdict.FAILED, "findings": (samples.finding("SMOKE_LATENCY"),)}
UNTRIED = {"findings": (samples.finding("SMOKE_INSTRUCTION_SET_UNPROVEN", verdict=Verdict.PASSED),)}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def _recommend(
    store: LocalStore, cells: Mapping[tuple[str, str], Mapping[str, Any]], prices: Mapping[str, float] | None = None
) -> Recommendation:
    """Of a package whose smoke reports are changed by `cells`; the rest of them passed."""
    smoke = [
        samples.smoke_report(name, kind, **cells.get((name, kind), {}))
        for name in samples.FORMATS
        for kind in samples.TYPES
    ]
    hourly = {name: HourlyPrice(amount=amount, currency="USD") for name, amount in (prices or {}).items()}
    return recommend(matrix_of(samples.package(store, smoke=smoke), hourly))


def _rates(*rates: float) -> dict[tuple[str, str], dict[str, Any]]:
    cells = [(name, kind) for name in samples.FORMATS for kind in samples.TYPES]
    return {cell: {"capacity": Capacity(max_rate_rps=rate)} for cell, rate in zip(cells, rates, strict=True)}


def test_where_nothing_is_proven_nothing_is_recommended(store: LocalStore) -> None:
    found = _recommend(store, {(name, kind): FAILED for name in samples.FORMATS for kind in samples.TYPES})
    assert (found.format, found.instance_type) == (None, None)
    assert "Nothing is proven" in found.words


def test_with_prices_the_cheapest_request_wins_and_not_the_fastest_machine(store: LocalStore) -> None:
    found = _recommend(store, _rates(300, 200, 150, 100), {NEW: 0.3, OLD: 0.1})
    assert (found.format, found.instance_type, found.basis) == ("onnx", OLD, Basis.PRICE)
    faster = next(other for other in found.given_up if (other.format, other.instance_type) == ("onnx", NEW))
    assert "able to bear more" in faster.better[0]
    assert "USD for a million requests is worse" in faster.why_not


def test_without_prices_the_most_requests_per_vcpu_win(store: LocalStore) -> None:
    found = _recommend(store, _rates(300, 200, 150, 100))
    assert (found.format, found.instance_type, found.basis) == ("onnx", NEW, Basis.DENSITY)


@pytest.mark.parametrize("unproven", [FAILED, UNTRIED], ids=["failed", "processor not tried"])
def test_a_cell_that_is_not_proven_is_never_taken_however_good_its_figures(
    store: LocalStore, unproven: dict[str, Any]
) -> None:
    cells = _rates(9000, 200, 150, 100)
    cells["onnx", NEW] |= unproven
    found = _recommend(store, cells, {NEW: 0.09, OLD: 0.1})
    assert (found.format, found.instance_type) == ("onnx", OLD)
    left = next(other for other in found.given_up if (other.format, other.instance_type) == ("onnx", NEW))
    assert any("cheaper" in better for better in left.better)
    assert unproven["findings"][0].code in left.why_not
    assert left.why_not in found.words


def test_prices_in_several_currencies_are_not_compared(store: LocalStore) -> None:
    smoke = [
        samples.smoke_report(name, kind, capacity=Capacity(max_rate_rps=100))
        for name in samples.FORMATS
        for kind in samples.TYPES
    ]
    prices = {NEW: HourlyPrice(amount=1, currency="USD"), OLD: HourlyPrice(amount=1, currency="EUR")}
    found = recommend(matrix_of(samples.package(store, smoke=smoke), prices))
    assert found.basis is Basis.DENSITY
    assert "prices are in EUR and USD, which are not compared" in found.reasons


def test_of_equally_good_ones_the_format_that_loses_least_of_the_metrics_wins(store: LocalStore) -> None:
    worse = samples.parity_report(store, "onnx").metrics[0].model_copy(update={"drop": 0.004})
    parity = [samples.parity_report(store, "onnx", metrics=(worse,)), samples.parity_report(store, "savedmodel")]
    cells = _rates(102, 102, 100, 100)
    smoke = [
        samples.smoke_report(name, kind, **cells[name, kind]) for name in samples.FORMATS for kind in samples.TYPES
    ]
    found = recommend(matrix_of(samples.package(store, parity=parity, smoke=smoke), {}))
    assert found.format == "savedmodel"


def test_requests_per_vcpu_are_of_the_vcpus_that_smoke_had(store: LocalStore) -> None:
    capped = samples.finding("SMOKE_CPUS_CAPPED", verdict=Verdict.PASSED, evidence={"vcpus": 2, "type_vcpus": 8.0})
    cells = _rates(200, 150, 100, 100)
    cells["onnx", NEW] |= {"vcpus": 8.0, "findings": (capped,)}
    found = _recommend(store, cells)
    assert (found.format, found.instance_type) == ("onnx", NEW)
    assert "figures hold for 2 of its 8 vCPUs, which is what smoke's host has" in found.reasons


def test_a_proven_cell_without_a_rate_is_said_to_be_not_comparable(store: LocalStore) -> None:
    cells = _rates(300, 200, 150, 100)
    quick = SmokeFigures(p99_ms=0.1, cold_start_s=0.1, peak_memory_bytes=1000)
    cells["savedmodel", OLD] = {"figures": quick}
    found = _recommend(store, cells)
    left = next(other for other in found.given_up if (other.format, other.instance_type) == ("savedmodel", OLD))
    assert "its highest rate was not measured" in left.why_not


def test_without_any_rate_the_p99_decides_and_it_says_so(store: LocalStore) -> None:
    quick = samples.smoke_report().figures.model_copy(update={"p99_ms": 0.5})
    found = _recommend(store, {("savedmodel", OLD): {"figures": quick}})
    assert (found.format, found.instance_type, found.basis) == ("savedmodel", OLD, Basis.LATENCY)
    assert any("no highest rate was measured" in reason for reason in found.reasons)


def test_a_rate_is_told_with_its_own_p99_and_what_is_reckoned_apart(store: LocalStore) -> None:
    cells = _rates(300, 200, 150, 100)
    cells["onnx", NEW] = {"capacity": Capacity(max_rate_rps=1059, p99_ms=13.6, replicas=3)}
    words = _recommend(store, cells).words
    measured = "one replica was measured to bear 1,059 requests/s at a p99 of 13.6 ms"
    assert f"{measured}; 3 replicas: 3,177/s by reckoning" in words
    assert "the p99 of one client alone is" in words


_CELL = st.builds(
    lambda verdict, rate, price, p99, needed: {
        "verdict": verdict,
        "reasons": () if verdict is Verdict.PASSED else (Reason(code="SMOKE_LATENCY", message="slow"),),
        "vcpus": 2.0,
        "tried_vcpus": 2.0,
        "memory_bytes": 4 << 30,
        "figures": SmokeFigures(p99_ms=p99, peak_memory_bytes=needed),
        "capacity": Capacity(max_rate_rps=rate),
        "price": price,
    },
    st.sampled_from(Verdict),
    st.none() | st.floats(0.1, 1e5),
    st.none()
    | st.builds(
        lambda amount, currency: HourlyPrice(amount=amount, currency=currency), st.floats(0.01, 9), st.just("USD")
    )
    | st.just(HourlyPrice(amount=1, currency="EUR")),
    st.none() | st.floats(0.1, 1e4),
    st.none() | st.integers(1, 1 << 33),
)


@given(st.lists(_CELL, min_size=4, max_size=4))
def test_whatever_the_figures_only_a_proven_cell_is_taken_and_everything_given_up_says_why(
    cells: list[dict[str, Any]],
) -> None:
    places = [(name, kind) for kind in samples.TYPES for name in samples.FORMATS]
    matrix = Matrix(
        package=digest_of("a package"),
        name="digits",
        formats=samples.FORMATS,
        instance_types=samples.TYPES,
        cells=tuple(
            Cell(format=name, instance_type=kind, **cell) for (name, kind), cell in zip(places, cells, strict=True)
        ),
    )
    found = recommend(matrix)
    measured = [cell for cell in matrix.proven() if cell.rate_rps or (cell.figures and cell.figures.p99_ms)]
    assert (found.format is None) == (measured == [])
    if found.format is not None and found.instance_type is not None:
        assert matrix.cell(found.format, found.instance_type).is_proven
    assert all(other.why_not and other.better for other in found.given_up)
    assert found.words
