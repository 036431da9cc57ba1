"""The matrix says of each cell what was proven, and never more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import Capacity, Owner, Package, SmokeReport, Verdict, digest_of
from tasks.placement import HourlyPrice, matrix_of
from tasks.store import LocalStore
from tests import samples

NEW, OLD = samples.TYPES


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def _with(store: LocalStore, report: SmokeReport) -> Package:
    """A package whose smoke of one cell said `report`, and passed everywhere else."""
    cells = [samples.smoke_report(name, kind) for name in samples.FORMATS for kind in samples.TYPES]
    asked = (report.format, report.instance_type)
    return samples.package(
        store, smoke=[report if (cell.format, cell.instance_type) == asked else cell for cell in cells]
    )


def test_what_passed_every_gate_is_proven_with_its_figures(store: LocalStore) -> None:
    cell = matrix_of(samples.package(store), {}).cell("onnx", NEW)
    assert cell.is_proven
    assert cell.reasons == ()
    assert cell.figures == samples.smoke_report().figures


def test_what_failed_says_the_codes_that_failed_it(store: LocalStore) -> None:
    slow = samples.finding("SMOKE_LATENCY", owner=Owner.PLATFORM)
    matrix = matrix_of(_with(store, samples.smoke_report("onnx", OLD, verdict=Verdict.FAILED, findings=(slow,))), {})
    cell = matrix.cell("onnx", OLD)
    assert (cell.verdict, [reason.code for reason in cell.reasons]) == (Verdict.FAILED, ["SMOKE_LATENCY"])
    assert [cell.instance_type for cell in matrix.proven("onnx")] == [NEW]


def test_a_type_with_a_processor_that_was_not_tried_is_not_proven_though_smoke_passed(store: LocalStore) -> None:
    untried = samples.finding("SMOKE_INSTRUCTION_SET_UNPROVEN", verdict=Verdict.PASSED)
    cell = matrix_of(_with(store, samples.smoke_report("onnx", NEW, findings=(untried,))), {}).cell("onnx", NEW)
    assert cell.verdict is Verdict.INCONCLUSIVE
    assert [reason.code for reason in cell.reasons] == ["SMOKE_INSTRUCTION_SET_UNPROVEN"]


def test_a_smoke_report_of_another_image_proves_nothing(store: LocalStore) -> None:
    other = samples.smoke_report("onnx", NEW, image_digest=digest_of("another"))
    assert not matrix_of(_with(store, other), {}).cell("onnx", NEW).is_proven


def test_a_format_that_parity_blocked_is_blocked_on_every_type(store: LocalStore) -> None:
    differs = samples.finding("PARITY_TENSOR_DIFFERS")
    parity = [
        samples.parity_report(store, "onnx", verdict=Verdict.FAILED, findings=(differs,)),
        samples.parity_report(store, "savedmodel"),
    ]
    matrix = matrix_of(samples.package(store, parity=parity), {})
    assert [cell.verdict for cell in matrix.cells if cell.format == "onnx"] == [Verdict.FAILED, Verdict.FAILED]
    assert {cell.format for cell in matrix.proven()} == {"savedmodel"}


def test_a_cell_that_was_never_tried_is_inconclusive(store: LocalStore) -> None:
    smoke = [samples.smoke_report(name, NEW) for name in samples.FORMATS]
    cell = matrix_of(samples.package(store, smoke=smoke), {}).cell("onnx", OLD)
    assert cell.verdict is Verdict.INCONCLUSIVE
    assert cell.reasons


def test_what_a_million_requests_cost_follows_from_price_and_rate(store: LocalStore) -> None:
    measured = samples.smoke_report("onnx", NEW, capacity=Capacity(max_rate_rps=100))
    prices = {NEW: HourlyPrice(amount=0.36, currency="USD")}
    matrix = matrix_of(_with(store, measured), prices)
    assert matrix.cell("onnx", NEW).price_per_million == pytest.approx(1.0)  # 360,000 requests an hour
    assert matrix.cell("savedmodel", NEW).price_per_million is None  # no rate was measured


def test_a_machine_bears_what_its_replicas_do_side_by_side(store: LocalStore) -> None:
    measured = samples.smoke_report("onnx", NEW, vcpus=8.0, capacity=Capacity(max_rate_rps=100, replicas=4))
    cell = matrix_of(_with(store, measured), {NEW: HourlyPrice(amount=1.44, currency="USD")}).cell("onnx", NEW)
    assert (cell.rate_rps, cell.rps_per_vcpu) == (400, 50)
    assert cell.price_per_million == pytest.approx(1.0)  # 1,440,000 requests an hour


def test_figures_hold_for_the_vcpus_that_were_really_tried(store: LocalStore) -> None:
    capped = samples.finding("SMOKE_CPUS_CAPPED", verdict=Verdict.PASSED, evidence={"vcpus": 2, "type_vcpus": 8.0})
    report = samples.smoke_report("onnx", NEW, vcpus=8.0, findings=(capped,))
    cell = matrix_of(_with(store, report), {}).cell("onnx", NEW)
    assert (cell.is_proven, cell.vcpus, cell.tried_vcpus) == (True, 8.0, 2.0)


def test_a_rate_is_the_measured_one_with_its_own_p99_and_what_follows_from_it_is_said_to(store: LocalStore) -> None:
    three = Capacity(max_rate_rps=1059, p99_ms=13.6, replicas=3)
    cell = matrix_of(_with(store, samples.smoke_report("onnx", NEW, capacity=three)), {}).cell("onnx", NEW)
    assert cell.rate == "1,059 requests/s at a p99 of 13.6 ms; 3 replicas: 3,177/s by reckoning"
    one = Capacity(max_rate_rps=1059, p99_ms=13.6, replicas=1)
    alone = matrix_of(_with(store, samples.smoke_report("onnx", NEW, capacity=one)), {}).cell("onnx", NEW)
    assert alone.rate == "1,059 requests/s at a p99 of 13.6 ms"
    assert matrix_of(samples.package(store), {}).cell("savedmodel", OLD).rate is None  # nothing was measured
