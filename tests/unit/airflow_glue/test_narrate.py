from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.airflow_glue.narrate import reason, story
from tasks.contracts import ExportReport, ExportRun, Owner, ParityRun, SmokeRun, Verdict, digest_of
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_a_reused_result_is_called_reused(store: LocalStore) -> None:
    run = ExportRun(
        stage="export",
        label="onnx",
        key=digest_of("key"),
        reused=True,
        duration_s=0.1,
        result=samples.export_report(store),
    )
    assert any("reused" in line for line in story(run))
    assert not any("reused" in line for line in story(run.model_copy(update={"reused": False})))
    made = run.model_copy(update={"made_at": datetime(2026, 11, 24, 13, 20, tzinfo=UTC)})
    assert "reused: nothing that it follows from has changed since 2026-11-24 13:20 UTC" in story(made)


def test_figures_of_parity_are_told(store: LocalStore) -> None:
    run = ParityRun(
        stage="parity",
        label="onnx",
        key=digest_of("key"),
        reused=False,
        duration_s=2,
        result=samples.parity_report(store),
    )
    told = "\n".join(story(run))
    assert "accuracy: source 0.9, export 0.9, drop 0 of at most 0.005" in told
    assert "batch sizes 1, 2, 3, 7, 64" in told


def test_figures_that_were_not_measured_are_called_unknown() -> None:
    report = samples.smoke_report()
    without = report.model_copy(
        update={"figures": report.figures.model_copy(update={"p99_ms": None, "peak_memory_bytes": None})}
    )
    run = SmokeRun(
        stage="smoke", label="onnx × c6i.large", key=digest_of("key"), reused=False, duration_s=2, result=without
    )
    told = "\n".join(story(run))
    assert "p99 unknown ms" in told
    assert "peak memory unknown" in told


def test_a_finding_is_told_with_its_place_its_owner_and_advice() -> None:
    found = samples.finding(evidence={"format": "onnx", "instance_type": "c6i.large"})
    report = ExportReport(verdict=Verdict.FAILED, findings=(found,), format="onnx")
    assert reason(report, "export of onnx").splitlines() == [
        "export of onnx: failed",
        "EXPORT_UNSUPPORTED_OPERATOR at onnx on c6i.large (for the model team): "
        "the operator aten::foo has no counterpart",
        "    → replace it",
    ]


def test_what_blocks_is_told_once_with_the_failure_and_remarks_before_it() -> None:
    remark = samples.finding("EXPORT_SLOW", verdict=Verdict.PASSED)
    report = ExportReport(verdict=Verdict.FAILED, findings=(remark, samples.finding()), format="onnx")
    run = ExportRun(stage="export", label="onnx", key=digest_of("key"), reused=False, duration_s=2, result=report)
    told = "\n".join(story(run))
    assert "EXPORT_SLOW" in told
    assert "EXPORT_UNSUPPORTED_OPERATOR" not in told


def test_the_reason_of_a_failure_leaves_remarks_out() -> None:
    remark = samples.finding("EXPORT_SLOW", verdict=Verdict.PASSED, owner=Owner.PLATFORM)
    report = ExportReport(verdict=Verdict.FAILED, findings=(remark, samples.finding()), format="onnx")
    said = reason(report, "export of onnx")
    assert said.startswith("export of onnx: failed\n")
    assert "EXPORT_UNSUPPORTED_OPERATOR" in said
    assert "EXPORT_SLOW" not in said
