"""A metric of the user's own through ingest: stored, probed on the first rows, and found again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import SourceError
from tasks.ingest import fingerprint
from tasks.ingest.metric_code import MetricFunction, load_metrics
from tasks.spec import Direction, EvaluationSpec, MetricSpec
from tests.unit.ingest.conftest import Workplace

Made = Callable[[str], Path]

METRIC = """
from shares import share

def profit(answers, labels):
    return share(answers.argmax(1) == labels)
"""
SHARES = "def share(right):\n    return right.astype(float)\n"


def wanted() -> EvaluationSpec:
    metric = MetricSpec(
        name="profit",
        callable="metric:profit",
        direction=Direction.HIGHER,
        output="y",
        label="label",
        max_drop=0.1,
    )
    return EvaluationSpec(data="eval.npz", metrics=(metric,))


@pytest.fixture
def given(workplace: Workplace, made: Made) -> Workplace:
    (workplace.folder / "m.onnx").write_bytes(made("onnx").read_bytes())
    (workplace.folder / "metric.py").write_text(METRIC)
    (workplace.folder / "shares.py").write_text(SHARES)
    return workplace


def ingested(workplace: Workplace) -> Any:
    return workplace.ingest("m.onnx", "onnx", evaluation=wanted())


def test_the_metric_is_stored_with_what_it_imports_and_found_again(given: Workplace, tmp_path: Path) -> None:
    artifact = ingested(given)
    assert artifact.code is None
    assert [file.path for file in artifact.evaluation.code.files] == ["metric.py", "shares.py"]
    (given.folder / "metric.py").unlink()
    functions = load_metrics(wanted(), artifact.evaluation, given.store, tmp_path / "elsewhere")
    answers, labels = np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])
    assert list(functions["metric:profit"].ask(answers, labels)) == [1.0, 0.0]


def test_another_metric_is_other_evaluation_data_and_the_same_model(given: Workplace) -> None:
    first = ingested(given)
    before = fingerprint(given.spec("m.onnx", "onnx", evaluation=wanted()), given.settings)
    (given.folder / "shares.py").write_text(SHARES.replace("float", "'float32'"))
    second = ingested(given)
    assert fingerprint(given.spec("m.onnx", "onnx", evaluation=wanted()), given.settings) != before
    assert first.evaluation.digest != second.evaluation.digest
    assert first.files == second.files


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def profit(answers): return 1.0", "raised TypeError"),
        ("def profit(answers, labels): return nowhere", "raised NameError at metric.py:1: name 'nowhere'"),
        ("def profit(answers, labels): return 'good'", "gave str; expected one number, or an array of"),
        ("def profit(answers, labels): return [1.0]", "gave an array of shape [1]; expected one number"),
        ("import no_such_library\ndef profit(answers, labels): return 1.0", "imports no_such_library"),
        ("profit = 3", "expected a function, found a value of type int"),
    ],
)
def test_a_mistake_in_the_code_is_told_before_anything_is_exported(given: Workplace, body: str, says: str) -> None:
    (given.folder / "metric.py").write_text(body)
    with pytest.raises(SourceError) as caught:
        ingested(given)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "def profit(answers, labels):\n    raise ValueError('only one class')",
        "def profit(answers, labels):\n    return float('nan')",
    ],
)
def test_what_a_few_rows_may_lack_is_left_to_parity(given: Workplace, body: str) -> None:
    (given.folder / "metric.py").write_text(body)
    assert ingested(given).evaluation.code is not None


def test_a_metric_gets_copies() -> None:
    def greedy(answers: np.ndarray, labels: np.ndarray) -> float:
        answers[:] = 0
        labels[:] = 0
        return 1.0

    answers, labels = np.ones(3), np.ones(3)
    assert MetricFunction("metric:greedy", greedy).ask(answers, labels) == 1.0
    assert answers.all()
    assert labels.all()


def test_a_metric_that_calls_exit_is_a_mistake_in_its_code(given: Workplace) -> None:
    (given.folder / "metric.py").write_text("import sys\n\ndef profit(answers, labels):\n    sys.exit(0)\n")
    with pytest.raises(SourceError, match=r"metric:profit raised SystemExit at metric.py:4"):
        ingested(given)
