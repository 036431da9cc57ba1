from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.console import unproven_lines
from tasks.contracts import Capacity, LineageRecord, Package, ProcessorProof, Verdict
from tasks.overview import render_matrix, render_page, view_of
from tasks.placement import HourlyPrice, matrix_of, recommend
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def _record(**changes: str) -> LineageRecord:
    values = {
        "tracking_uri": "http://mlflow.test",
        "experiment_id": "1",
        "run_id": "ab",
        "run_url": "http://mlflow.test/#/experiments/1/runs/ab",
        "model_name": "digits",
        "model_version": "3",
    }
    return LineageRecord.model_validate({**values, **changes})


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in {"href", "src"}]
        self.scripts += tag == "script"


def _links(page: str) -> _Links:
    links = _Links()
    links.feed(page)
    return links


def test_a_package_is_shown_with_its_figures_and_its_run(store: LocalStore) -> None:
    package = samples.package(store)
    page = render_page([view_of(package, _record())], dag_url="/dags/package_model")
    for text in ("digits", "passed", "version 3", "150.0 MB", "accuracy 0.9 → 0.9", "c4.large"):
        assert text in page
    assert package.digest in page
    assert "http://mlflow.test/#/experiments/1/runs/ab" in _links(page).found


def test_the_worst_instance_type_counts(store: LocalStore) -> None:
    slow = samples.smoke_report("onnx", samples.TYPES[1])
    slow = slow.model_copy(update={"figures": slow.figures.model_copy(update={"p99_ms": 9.0, "cold_start_s": 2.5})})
    quick = samples.smoke_report("onnx", samples.TYPES[0])
    package = samples.package(store, samples.spec(formats=("onnx",)), smoke=[quick, slow])
    (row,) = view_of(package, None).rows
    assert (row.p99_ms, row.cold_start_s) == (9.0, 2.5)


def test_a_format_stands_at_the_first_gate_that_did_not_pass(store: LocalStore) -> None:
    package = samples.package(
        store,
        exports=[samples.failed_export("onnx"), samples.export_report(store, "savedmodel")],
        parity=[samples.parity_report(store, "savedmodel")],
        images=[],
        smoke=[],
    )
    rows = {row.format: (row.stage, row.verdict) for row in view_of(package, None).rows}
    assert rows == {"onnx": ("export", Verdict.FAILED), "savedmodel": ("image", Verdict.INCONCLUSIVE)}


def test_an_instance_type_without_a_report_is_not_a_pass(store: LocalStore) -> None:
    package = samples.package(store, samples.spec(formats=("onnx",)), smoke=[samples.smoke_report("onnx")])
    (row,) = view_of(package, None).rows
    assert row.verdict is Verdict.INCONCLUSIVE


def test_findings_are_shown_with_owner_and_advice(store: LocalStore) -> None:
    package = samples.package(
        store, exports=[samples.failed_export(name) for name in samples.FORMATS], parity=[], images=[], smoke=[]
    )
    page = render_page([view_of(package, None)], dag_url="/dags/package_model")
    assert "EXPORT_UNSUPPORTED_OPERATOR" in page
    assert "replace it" in page
    assert "not in MLflow" in page


def test_whatever_a_model_is_called_it_stays_text(store: LocalStore) -> None:
    hostile = "<script>alert(1)</script>"
    view = dataclasses.replace(view_of(samples.package(store), _record()), owner=hostile, name=hostile)
    plain = dataclasses.replace(view_of(samples.package(store), _record()))
    page = render_page([view], dag_url="/dags/package_model")
    assert hostile not in page
    assert _links(page).scripts == _links(render_page([plain], dag_url="/dags/package_model")).scripts


def test_a_link_that_would_run_code_is_no_link(store: LocalStore) -> None:
    view = view_of(samples.package(store), _record(run_url="javascript:alert(1)"))
    page = render_page([view], dag_url="/dags/package_model")
    assert "javascript:" not in page


def test_nothing_is_loaded_from_elsewhere(store: LocalStore) -> None:
    package = samples.package(store)
    page = render_page([view_of(package, None)], dag_url="/dags/package_model")
    assert _links(page).found == ["/dags/package_model", f"matrix/{package.digest}"]


def test_earlier_packages_of_a_model_are_folded_under_the_newest(store: LocalStore) -> None:
    def of(name: str, owner: str) -> Package:
        return samples.package(store, samples.spec(name=name, owner=owner))

    views = [view_of(package, None) for package in (of("b", "x"), of("a", "x"), of("b", "y"))]
    page = render_page(views, dag_url="/dags/package_model")
    assert page.count("<article>") == 2
    assert "1 earlier" in page
    assert page.index(">b</h2>") < page.index(">a</h2>")


def test_an_empty_store_says_what_to_do() -> None:
    assert "Nothing is packaged yet" in render_page([], dag_url="/dags/package_model")


def test_a_store_that_cannot_be_read_is_said(store: LocalStore) -> None:
    page = render_page([], dag_url="/dags/package_model", problem="the store <x> does not answer")
    assert "the store &lt;x&gt; does not answer" in page
    assert "Nothing is packaged yet" not in page


# --- one package's instance types ---------------------------------------------------------------------------------


def test_the_matrix_shows_each_cell_with_its_verdict_reason_and_figures(store: LocalStore) -> None:
    slow = samples.finding("SMOKE_LATENCY", message="p99 was 80 ms, allowed are 50 ms")
    measured = Capacity(max_rate_rps=250, p99_ms=13.6, smallest_memory_bytes=120_000_000, replicas=7)
    smoke = [
        samples.smoke_report("onnx", samples.TYPES[0], capacity=measured),
        samples.smoke_report("onnx", samples.TYPES[1], verdict=Verdict.FAILED, findings=(slow,)),
    ]
    package = samples.package(store, samples.spec(formats=("onnx",)), smoke=smoke)
    matrix = matrix_of(package, {samples.TYPES[0]: HourlyPrice(amount=6.3, currency="EUR")})
    page = render_matrix(matrix, recommend(matrix))
    for text in (
        "1 of 2 cells proven",
        "SMOKE_LATENCY",
        "p99 was 80 ms",
        "one replica: 250 requests/s at a p99 of 13.6 ms; 7 replicas: 1,750/s by reckoning",
        "one client alone: p99",
        "0.112 GiB",
        "7 fit side by side",
        "4 GiB",
    ):
        assert text in page
    assert "Take onnx on c6i.large" in page
    assert "1\u202fEUR" in page  # 6.3 EUR for 6,300,000 requests


def test_the_matrix_says_how_each_processor_was_tried_and_why_one_is_not_proven(store: LocalStore) -> None:
    said = "the instruction set of cascade-lake was not proven: this host has no avx512_vnni"
    tried = (
        ProcessorProof(cpu="skylake-sp", level="x86-64-v4", proof="masked", verdict=Verdict.PASSED, note="gfni hidden"),
        ProcessorProof(
            cpu="cascade-lake", level="x86-64-v4", proof="unproven", verdict=Verdict.INCONCLUSIVE, note=said
        ),
    )
    blocking = samples.finding("SMOKE_INSTRUCTION_SET_UNPROVEN", message=said, verdict=Verdict.INCONCLUSIVE)
    unproven: dict[str, Any] = {"verdict": Verdict.INCONCLUSIVE, "findings": (blocking,), "processors": tried}
    smoke = [samples.smoke_report("onnx", kind, **unproven) for kind in samples.TYPES]
    package = samples.package(store, samples.spec(formats=("onnx",)), smoke=smoke)
    matrix = matrix_of(package, {})
    page = render_matrix(matrix, recommend(matrix))
    assert "skylake-sp (x86-64-v4): masked" in page
    assert "gfni hidden" in page
    assert page.count(said) == len(samples.TYPES)  # once for each cell, not twice
    lines = [line.plain for line in unproven_lines(matrix)]
    assert [line.split("  ")[0] for line in lines] == [
        f"? onnx on {kind}: cascade-lake (x86-64-v4), unproven" for kind in matrix.instance_types
    ]
    assert said in lines[0]


def test_what_a_finding_says_cannot_break_out_of_the_matrix(store: LocalStore) -> None:
    hostile = samples.finding("SMOKE_WRONG_ANSWER", message="</td><script>alert(1)</script>")
    smoke = [samples.smoke_report("onnx", kind, verdict=Verdict.FAILED, findings=(hostile,)) for kind in samples.TYPES]
    package = samples.package(store, samples.spec(formats=("onnx",)), smoke=smoke)
    matrix = matrix_of(package, {})
    page = render_matrix(matrix, recommend(matrix))
    assert "No recommendation" in page
    assert "<script>alert" not in page
