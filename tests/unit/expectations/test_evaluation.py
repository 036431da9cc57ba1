"""Evaluation data of every bad kind is caught through the real Great Expectations, and a clean one passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.contract import DType, NanPolicy, TensorSpec
from tasks.contracts import DataReport, Verdict
from tasks.expectations import validation
from tasks.expectations.evaluation import examine
from tasks.spec import EvaluationSpec, MetricSpec
from tasks.store import LocalStore, fetch_tree
from tests import samples

Columns = dict[str, NDArray[Any]]

ROWS = 200


def clean() -> Columns:
    """Rows of `samples.spec`: four pixels, and which of two classes."""
    generator = np.random.default_rng(0)
    return {
        "pixels": generator.normal(size=(ROWS, 4)).astype(np.float32),
        "label": np.arange(ROWS) % 2,
    }


@pytest.fixture
def looked_at(tmp_path: Path) -> Callable[..., DataReport]:
    def look(columns: Mapping[str, NDArray[Any]], folder: str = "work", **changes: Any) -> DataReport:
        work = tmp_path / folder
        work.mkdir()
        return examine(columns, samples.spec(**changes), LocalStore(tmp_path / "store"), work)

    return look


Look = Callable[..., DataReport]


def of(report: DataReport) -> dict[str, Verdict]:
    return {finding.code: finding.verdict for finding in report.findings}


def test_clean_data_passes_every_expectation(looked_at: Look) -> None:
    report = looked_at(clean())
    assert report.verdict is Verdict.PASSED
    assert report.findings == ()
    assert len(report.expectations) == 13
    assert {each.verdict for each in report.expectations} == {Verdict.PASSED}


def _nan(columns: Columns) -> None:
    columns["pixels"][[3, 7], 1] = np.nan


def _infinite(columns: Columns) -> None:
    columns["pixels"][5, 0] = -np.inf


def _all_equal(columns: Columns) -> None:
    columns["pixels"][:] = columns["pixels"][0]


def _mostly_copies(columns: Columns) -> None:
    columns["pixels"][:] = columns["pixels"][np.arange(ROWS) % 20]


def _off_by_one(columns: Columns) -> None:
    columns["label"] += 1


def _halves(columns: Columns) -> None:
    columns["label"] = columns["label"] / 2


def _one_class(columns: Columns) -> None:
    columns["label"][:] = 1


@pytest.mark.parametrize(
    ("spoil", "code", "verdict"),
    [
        (_nan, "DATA_MISSING_VALUES", Verdict.FAILED),
        (_infinite, "DATA_INFINITE_VALUES", Verdict.FAILED),
        (_all_equal, "DATA_ROWS_ALL_EQUAL", Verdict.FAILED),
        (_mostly_copies, "DATA_MOSTLY_DUPLICATES", Verdict.INCONCLUSIVE),
        (_off_by_one, "DATA_LABEL_NO_CLASS", Verdict.FAILED),
        (_halves, "DATA_LABEL_NO_CLASS", Verdict.FAILED),
        (_one_class, "DATA_ONE_CLASS", Verdict.INCONCLUSIVE),
    ],
)
def test_data_that_does_not_hold_blocks(
    looked_at: Look, spoil: Callable[[Columns], None], code: str, verdict: Verdict
) -> None:
    columns = clean()
    spoil(columns)
    report = looked_at(columns)
    assert of(report)[code] is verdict
    assert report.verdict is Verdict.worst(of(report).values())


@pytest.mark.parametrize(("bounds", "there"), [((-1, None), "lies in its range -1 to …"), ((-9, 2.5), "-9 to 2.5")])
def test_values_outside_the_declared_range_block(looked_at: Look, bounds: Any, there: str) -> None:
    columns = clean()
    columns["pixels"] = np.clip(columns["pixels"], -1, 2.5)
    inside = looked_at(columns, "inside", inputs=(TensorSpec("pixels", DType.FLOAT32, ("batch", 4), bounds),))
    columns["pixels"][[3, 3, 7], [0, 1, 2]] = -1.5 if bounds[1] is None else 2.75
    outside = looked_at(columns, "outside", inputs=(TensorSpec("pixels", DType.FLOAT32, ("batch", 4), bounds),))
    assert inside.verdict is Verdict.PASSED
    assert of(outside) == {"DATA_OUT_OF_RANGE": Verdict.FAILED}
    assert there in outside.findings[0].message
    assert "2 of 200 rows otherwise: row 3 (pixels: out of range 2," in outside.findings[0].message


def test_missing_values_that_the_model_knows_do_not_block(looked_at: Look) -> None:
    columns = clean()
    _nan(columns)
    knows = TensorSpec("pixels", DType.FLOAT32, ("batch", 4), (-9, 9), NanPolicy.ACCEPT)
    assert of(looked_at(columns, inputs=(knows,))) == {}


def _some_copies(columns: Columns) -> None:
    columns["pixels"][1] = columns["pixels"][0]


def _constant_position(columns: Columns) -> None:
    columns["pixels"][:, 2] = 0


def _stand_ins(columns: Columns) -> None:
    columns["pixels"][::9, 2] = -999


def _few_of_a_class(columns: Columns) -> None:
    columns["label"] = (np.arange(ROWS) < 5).astype(np.int64)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_some_copies, "DATA_DUPLICATE_ROWS"),
        (_constant_position, "DATA_CONSTANT_POSITIONS"),
        (_stand_ins, "DATA_STAND_IN_VALUES"),
        (_few_of_a_class, "DATA_FEW_ROWS_OF_CLASS"),
    ],
)
def test_what_a_model_may_have_been_trained_on_is_a_remark(
    looked_at: Look, spoil: Callable[[Columns], None], code: str
) -> None:
    columns = clean()
    spoil(columns)
    report = looked_at(columns)
    assert of(report) == {code: Verdict.PASSED}
    assert report.verdict is Verdict.PASSED


def test_a_finding_names_the_rows_and_what_stands_there(looked_at: Look) -> None:
    columns = clean()
    _nan(columns)
    [finding] = looked_at(columns).findings
    assert "2 of 200 rows" in finding.message
    assert "row 3 (pixels: missing 1, label 1)" in finding.message
    assert finding.evidence["row"] == "3, 7"


def test_a_number_to_predict_must_not_be_constant(looked_at: Look) -> None:
    columns = clean() | {"label": np.full(ROWS, 2.5)}
    metric = MetricSpec(name="rmse", output="logits", label="label", max_drop=1)
    report = looked_at(columns, evaluation=EvaluationSpec(data="eval.npz", metrics=(metric,)))
    assert of(report) == {"DATA_LABEL_CONSTANT": Verdict.INCONCLUSIVE}


def test_text_and_whole_numbers_are_looked_at_too(looked_at: Look) -> None:
    inputs = (TensorSpec("words", DType.STRING, ("batch", 2)), TensorSpec("ids", DType.INT64, ("batch", 3)))
    columns = {
        "words": np.array([["a", "b"]] * ROWS, dtype=object),
        "ids": np.arange(3 * ROWS).reshape(ROWS, 3),
        "label": np.array(["yes", "no"] * (ROWS // 2), dtype=object),
    }
    outputs = (TensorSpec("logits", DType.STRING, ("batch",)),)
    report = looked_at(columns, inputs=inputs, outputs=outputs)
    assert of(report) == {"DATA_CONSTANT_POSITIONS": Verdict.PASSED}  # the words are always the same


def test_wide_rows_need_no_more_expectations_than_narrow_ones(looked_at: Look) -> None:
    columns = clean() | {"pixels": np.random.default_rng(0).normal(size=(ROWS, 3000)).astype(np.float32)}
    inputs = (TensorSpec("pixels", DType.FLOAT32, ("batch", 3000)),)
    assert len(looked_at(columns, inputs=inputs).expectations) == 13


def test_the_docs_are_the_same_again_and_need_no_network_and_name_no_machine(looked_at: Look, tmp_path: Path) -> None:
    columns = clean()
    _nan(columns)
    first, second = looked_at(columns, "one"), looked_at(columns, "two")
    assert first.docs is not None
    assert first == second
    folder = fetch_tree(LocalStore(tmp_path / "store"), first.docs, tmp_path / "docs")
    assert sorted(path.name for path in folder.iterdir()) == ["expectations.html", "index.html"]
    for page in folder.iterdir():
        text = page.read_text()
        assert "://" not in text
        assert str(tmp_path) not in text
        assert "Traceback" not in text
        assert "no value of 'pixels' is missing (NaN) (DATA_MISSING_VALUES)" in text


def test_names_are_text_in_the_docs_and_never_markup(looked_at: Look, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    columns = {name: clean()["pixels"], "label": clean()["label"]}
    report = looked_at(columns, inputs=(TensorSpec(name, DType.FLOAT32, ("batch", 4)),))
    assert report.docs is not None
    folder = fetch_tree(LocalStore(tmp_path / "store"), report.docs, tmp_path / "docs")
    assert not [page for page in folder.iterdir() if "<script" in page.read_text()]


def test_what_great_expectations_cannot_answer_is_inconclusive(
    looked_at: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(tables: object) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(validation, "_validated", broken)
    report = looked_at(clean())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.docs is None
    assert [finding.code for finding in report.findings] == ["DATA_NOT_CHECKED"]
    assert "no more memory" in report.findings[0].message


def test_nothing_is_printed_and_nothing_is_left_beside_the_report(
    looked_at: Look, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    looked_at(clean())
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "here").iterdir()) == []
