"""The parity table decides on figures alone, and says where it does not agree with the findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.contracts import Finding, MetricComparison, Owner, Verdict
from tasks.expectations.parity_table import disagreement, tables
from tasks.expectations.validation import Checked, check
from tasks.parity.compare import Comparison, Mismatch
from tasks.parity.inputs import Batch, Part, Pool
from tasks.parity.outcomes import Outcome

SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", 4)),),
    (TensorSpec("y", DType.FLOAT32, ("batch", 3)),),
    {"batch": DimRange(1, 16)},
)
POOL = Pool("evaluation", {}, {"x": np.zeros((4, 4), np.float32)}, 4)


def outcome(mismatch: Mismatch | None = None, margin: float | None = 0.5, **changes: Any) -> Outcome:
    wrong = np.full(4, mismatch is not None)
    found = Comparison(mismatch, "", wrong, compared=12, worst_margin=margin)
    values: dict[str, Any] = {"against_source": {"y": found}}
    return Outcome(Batch(0, 0, 4, 4, Part.WHOLE), POOL, np.arange(4), **{**values, **changes})


def metric(**changes: Any) -> MetricComparison:
    values: dict[str, Any] = {"name": "accuracy", "source": 0.9, "export": 0.89, "drop": 0.01, "max_drop": 0.02}
    return MetricComparison(**{**values, "upper": changes.get("drop", 0.01), "rows": 100, **changes})


def held(outcomes: Sequence[Outcome], asked: int = 1, metrics: Sequence[MetricComparison] = (metric(),)) -> Checked:
    return check(tables(SIGNATURE, ["evaluation"], [asked], outcomes, metrics), "PARITY_TABLE")


def test_figures_within_what_is_allowed_pass() -> None:
    assert held([outcome()]).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([outcome(Mismatch.VALUE, 1.5)], "PARITY_TABLE_MARGIN"),
        ([outcome(Mismatch.DTYPE, None)], "PARITY_TABLE_DTYPE"),
        ([outcome(Mismatch.SHAPE, None)], "PARITY_TABLE_SHAPE"),
        ([outcome(Mismatch.NON_FINITE, None)], "PARITY_TABLE_FINITE"),
        ([outcome(error="no", against_source={})], "PARITY_TABLE_ANSWERED"),
        ([], "PARITY_TABLE_ANSWERED"),
        ([outcome(against_itself={"y": Comparison(Mismatch.VALUE, "", np.ones(4, bool))})], "PARITY_TABLE_ITSELF"),
    ],
    ids=["margin", "dtype", "shape", "nan", "error", "nothing", "itself"],
)
def test_every_figure_that_is_wrong_fails(outcomes: Sequence[Outcome], code: str) -> None:
    checked = held(outcomes)
    assert checked.verdict is Verdict.FAILED
    assert code in [finding.code for finding in checked.findings]


@pytest.mark.parametrize(
    "metrics",
    [
        metric(drop=0.03),
        metric(drop=0.01, upper=0.03),
        metric(source=None, export=None, drop=None),
        metric(export=None, drop=None),
    ],
    ids=["drop", "bound", "no source", "no export"],
)
def test_a_metric_that_may_have_dropped_too_far_or_has_no_value_blocks(metrics: MetricComparison) -> None:
    assert held([outcome()], metrics=[metric(), metrics]).verdict is not Verdict.PASSED


def test_a_metric_without_a_bound_is_not_decided() -> None:
    assert held([outcome()], metrics=[metric(upper=None)]).verdict is Verdict.INCONCLUSIVE


def test_a_drop_of_exactly_what_is_allowed_passes() -> None:
    assert held([outcome()], metrics=[metric(source=0.3, export=0.1, drop=0.3 - 0.1, max_drop=0.2)]).verdict == "passed"


def finding(code: str) -> Finding:
    return Finding(code=code, owner=Owner.PLATFORM, message="it is so", advice="do something")


def test_a_table_and_findings_that_say_the_same_agree() -> None:
    assert disagreement(Verdict.PASSED, []) is None
    assert disagreement(Verdict.FAILED, [finding("PARITY_TENSOR_DIFFERS")]) is None
    assert disagreement(Verdict.INCONCLUSIVE, [finding("PARITY_METRIC_DROP")]) is None


@pytest.mark.parametrize(
    ("table", "codes"),
    [(Verdict.FAILED, []), (Verdict.INCONCLUSIVE, []), (Verdict.PASSED, ["PARITY_TENSOR_DIFFERS"])],
)
def test_a_table_and_findings_that_do_not_agree_are_inconclusive_and_named(table: Verdict, codes: list[str]) -> None:
    found = disagreement(table, [finding(code) for code in codes])
    assert found is not None
    assert (found.code, found.verdict) == ("PARITY_TABLE_DISAGREES", Verdict.INCONCLUSIVE)


def test_what_the_table_does_not_hold_is_the_findings_alone() -> None:
    assert disagreement(Verdict.PASSED, [finding("PARITY_OUTPUT_EXTRA")]) is None
