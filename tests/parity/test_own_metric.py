"""A metric of the user's own through the real gate: from the code that ingest stored to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Artifact, Verdict
from tasks.ingest.metric_code import store_metric_code
from tasks.spec import Direction, EvaluationSpec, MetricSpec
from tests import samples
from tests.parity.conftest import BIAS, WEIGHT, Gate, codes, linear, rows

METRIC = MetricSpec(
    name="closeness", callable="metric:closeness", direction=Direction.HIGHER, output="y", label="label", max_drop=0.01
)
BROKEN = "def closeness(answers, labels):\n    raise ValueError('nothing is close')\n"


class OwnGate(Gate):
    """Artifacts that carry the code of `METRIC`, as ingest stores it."""

    def artifact(self, *args: Any) -> Artifact:
        artifact = super().artifact(*args)
        evaluation = EvaluationSpec(data="eval.npz", metrics=(METRIC,))
        code = store_metric_code(samples.spec(self.folder, evaluation=evaluation), self.store)
        return artifact.model_copy(update={"evaluation": artifact.evaluation.model_copy(update={"code": code})})


@pytest.fixture
def gate(tmp_path: Path) -> OwnGate:
    (tmp_path / "metric.py").write_text(
        "def closeness(answers, labels):\n    return -abs(answers - labels).max(axis=1)\n"
    )
    return OwnGate(tmp_path)


def test_it_is_measured_on_both_models_and_decides(gate: OwnGate) -> None:
    inputs = rows(400)
    evaluation = {"x": inputs, "label": inputs @ WEIGHT + BIAS}
    clean = gate(linear(), linear(bias=BIAS * 1.0000001), evaluation, metrics=(METRIC,))
    [comparison] = clean.metrics
    assert (clean.verdict, comparison.name, "score bound" in comparison.method) == (Verdict.PASSED, "closeness", True)
    worse = gate(linear(), linear(bias=BIAS + 0.5), evaluation, metrics=(METRIC,))
    assert "PARITY_METRIC_DROP" in codes(worse)
    assert worse.metrics[0].drop == pytest.approx(0.5, rel=1e-3)


def test_what_it_raises_blocks_and_names_the_line(gate: OwnGate) -> None:
    (gate.folder / "metric.py").write_text(BROKEN)
    report = gate(linear(), linear(), {"x": rows(400), "label": rows(400)[:, :3]}, metrics=(METRIC,))
    assert codes(report) == ["PARITY_METRIC_MISSING"]
    assert "ValueError at metric.py:2: nothing is close" in report.findings[0].message
