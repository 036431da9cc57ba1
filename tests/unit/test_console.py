"""How packages look in a terminal: everything that matters, in the width there is, and nothing taken as markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tasks.console import Progress, finding_lines, matrix_table, package_lines, package_table
from tasks.contracts import Capacity, LineageRecord, MetricComparison, Package, Verdict
from tasks.pipeline import Event, Moment
from tasks.placement import matrix_of
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def printed(*renderables: object, width: int = 160) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, highlight=False)
    for item in renderables:
        console.print(item)
    return out.getvalue()


def table(*packages: Package, width: int = 160) -> str:
    return printed(package_table(packages, width), width=width)


def test_a_line_per_format_says_parity_size_start_latency_types_and_digest(store: LocalStore) -> None:
    _, onnx, savedmodel = table(samples.package(store)).splitlines()
    for expected in ("digits", "onnx (serves)", "✓ accuracy 0.9", "150.0 MB", "10.0 kB", "0.80 s", "2.0 ms"):
        assert expected in onnx
    assert "✓ c4.large ✓ c6i.large" in onnx
    assert samples.image("onnx").digest.removeprefix("sha256:")[:12] in onnx
    assert "(serves)" not in savedmodel


@pytest.mark.parametrize("width", [80, 100, 129])
def test_a_narrow_terminal_gets_whole_words(store: LocalStore, width: int) -> None:
    text = table(samples.package(store), width=width)
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("savedmodel", "150.0 MB", "✓ c6i.large", samples.image().digest.removeprefix("sha256:")[:12]):
        assert word in text


def test_what_did_not_happen_is_not_shown_as_a_figure(store: LocalStore) -> None:
    package = samples.package(
        store,
        exports=[samples.failed_export("onnx"), samples.export_report(store, "savedmodel")],
        parity=[], images=[], smoke=[],
    )  # fmt: skip
    _, onnx, savedmodel = table(package).splitlines()
    assert "✗ no export" in onnx
    assert "? not compared" in savedmodel
    assert "MB" not in onnx + savedmodel


@pytest.mark.parametrize(("drop", "said"), [(0.01, "(0.01 worse)"), (-0.01, "(0.01 better)"), (0.0, "0.9 ")])
def test_a_metric_that_moved_says_in_which_direction(store: LocalStore, drop: float, said: str) -> None:
    moved = MetricComparison(name="rmse", source=0.9, export=0.9, drop=drop, max_drop=0.1, rows=10)
    parity = [samples.parity_report(store, name, metrics=(moved,)) for name in samples.FORMATS]
    assert said in table(samples.package(store, parity=parity))


def test_what_blocks_comes_before_remarks_and_every_finding_says_what_to_do(store: LocalStore) -> None:
    findings = [
        samples.finding("A_REMARK", verdict=Verdict.PASSED),
        samples.finding("A_DOUBT", verdict=Verdict.INCONCLUSIVE),
        samples.finding("A_FAILURE"),
    ]
    lines = printed(*finding_lines(findings)).splitlines()
    assert [line.split()[:2] for line in lines[::3]] == [["✗", "A_FAILURE"], ["?", "A_DOUBT"], ["·", "A_REMARK"]]
    assert lines[2] == "    → replace it"
    assert "(for the model team)" in lines[0]


def test_shapes_in_brackets_are_text_and_no_markup(store: LocalStore) -> None:
    message = "expected [batch, 10], found [bold red][/]"
    assert message in printed(*finding_lines([samples.finding(message=message)]))


def test_the_lines_name_the_package_the_image_and_the_place_in_mlflow(store: LocalStore) -> None:
    package = samples.package(store)
    record = LineageRecord(
        tracking_uri="http://mlflow", experiment_id="1", run_id="r", run_url="http://mlflow/#/r",
        model_name="digits", model_version="3",
    )  # fmt: skip
    text = printed(*package_lines(package, record), width=300)
    for expected in (package.digest, samples.image("onnx").reference, "http://mlflow/#/r, digits version 3"):
        assert expected in text
    assert "not recorded" in printed(*package_lines(package, None))


def progress(*events: Event) -> list[str]:
    out = io.StringIO()
    with Progress(Console(file=out, width=160, markup=False, highlight=False), lambda: None) as shown:
        for event in events:
            shown(event)
    return out.getvalue().splitlines()


def test_where_no_terminal_is_progress_is_one_line_per_stage() -> None:
    lines = progress(
        Event(Moment.STARTED, "export", "onnx"),
        Event(Moment.FINISHED, "export", "onnx", Verdict.PASSED, 1.5),
        Event(Moment.REUSED, "image", "onnx", None, 0.1),
        Event(Moment.STARTED, "smoke", "onnx × c6i.large"),
        Event(Moment.STOPPED, "smoke", "onnx × c6i.large", None, 0.1),
    )
    assert [line.split() for line in lines] == [
        ["✓", "export", "onnx", "passed", "1.5", "s"],
        ["✓", "image", "onnx", "done", "reused"],
        ["!", "smoke", "onnx", "×", "c6i.large", "stopped", "0.1", "s"],
    ]


def test_waiting_for_another_process_is_said() -> None:
    assert "another process" in progress(Event(Moment.WAITING, "export", "onnx"))[0]


def test_what_the_check_raises_ends_the_work_between_stages() -> None:
    class Stop(BaseException):
        pass

    def check() -> None:
        raise Stop

    with Progress(Console(file=io.StringIO()), check) as shown, pytest.raises(Stop):
        shown(Event(Moment.FINISHED, "export", "onnx", Verdict.PASSED, 1.0))


def test_the_matrix_shows_what_was_measured_and_apart_what_was_reckoned(store: LocalStore) -> None:
    capacity = Capacity(max_rate_rps=1059, p99_ms=13.6, replicas=3, smallest_memory_bytes=1 << 30)
    smoke = [samples.smoke_report("onnx", samples.TYPES[0], capacity=capacity)]
    text = printed(matrix_table(matrix_of(samples.package(store, smoke=smoke), {})), width=200)
    assert "✓ 1,059 requests/s at a p99 of 13.6 ms; 3 replicas: 3,177/s by reckoning, 1 GiB" in text
