"""Shadow's verdict on pairs of answers: what is the same model must answer the same, what is retrained be as good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.contracts import Finding, Owner, Verdict
from tasks.release.contracts import ShadowReport
from tasks.release.shadow.judge import judge
from tasks.release.shadow.replay import Fault, Replay
from tasks.release.shadow.requests import Origin, Request, Table
from tests.unit.release.shadow.versions import (
    ROWS,
    X,
    as_it_is,
    expectations,
    failing,
    pairs,
    parity,
    requests,
    version,
)


def codes(report: ShadowReport) -> list[str]:
    return [finding.code for finding in report.findings]


def other_classes(share: float) -> Any:
    """A model that gives the smallest input's class for a share of all rows."""

    def answer(x: NDArray[Any]) -> NDArray[Any]:
        return np.where(x[:, :1] < np.quantile(X[:, 0], share), -x, x)

    return answer


# --- the same model -----------------------------------------------------------------------------------------------


def test_answers_within_both_tolerances_are_the_same() -> None:
    report = judge(pairs(lambda x: x + 1.9e-6), expectations())
    assert (report.verdict, report.findings) == (Verdict.PASSED, ())
    assert (report.requests, report.errors, report.slow) == (1000, 0, 0)


def test_a_constant_that_changed_is_caught_though_every_class_is_the_same() -> None:
    report = judge(pairs(lambda x: 1.01 * x), expectations())
    [found] = report.findings
    assert (report.verdict, report.agreement) == (Verdict.FAILED, 1.0)
    assert (found.code, found.owner) == ("SHADOW_ANSWER_DIFFERS", Owner.MODEL)
    assert found.evidence["request"] == "golden sample 0"
    assert found.evidence["id"] == "shadow-0"
    assert found.evidence["rows"] == ROWS + 8


def test_rows_on_a_threshold_may_differ_as_often_as_parity_found_them() -> None:
    wanted = expectations(old=version(edges=0.02), new=version())
    few, many = judge(pairs(other_classes(0.01)), wanted), judge(pairs(other_classes(0.05)), wanted)
    assert (few.verdict, codes(few)) == (Verdict.PASSED, ["SHADOW_ROWS_ON_EDGE"])
    assert codes(many) == ["SHADOW_ANSWER_DIFFERS"]


def test_an_output_without_a_tolerance_is_no_pass() -> None:
    report = judge(pairs(), expectations(old=version(parity=parity(outputs=()))))
    assert (report.verdict, codes(report)) == (Verdict.INCONCLUSIVE, ["SHADOW_NO_TOLERANCE"])


def test_an_answer_of_another_shape_is_another_answer() -> None:
    report = judge(pairs(lambda x: x[:, :2]), expectations())
    assert "SHADOW_ANSWER_DIFFERS" in codes(report)


# --- a retrained model --------------------------------------------------------------------------------------------


def test_a_retrained_model_that_is_as_good_passes() -> None:
    report = judge(pairs(lambda x: 3 * x), expectations("retrained"))
    assert (report.verdict, report.findings) == (Verdict.PASSED, ())
    assert report.metrics == {"accuracy": (1.0, 1.0)}


def test_a_retrained_model_that_is_worse_is_caught_by_its_metric() -> None:
    report = judge(pairs(other_classes(0.1)), expectations("retrained"))
    [found] = report.findings
    assert (report.verdict, found.code) == (Verdict.FAILED, "SHADOW_METRIC_DROP")
    assert "0.02 is allowed" in found.message
    old, new = report.metrics["accuracy"]
    assert (old, new) == (1.0, pytest.approx(0.9, abs=0.01))


def test_rows_that_cannot_show_it_are_inconclusive_and_say_how_many_would_do() -> None:
    report = judge(pairs(other_classes(0.018)), expectations("retrained"))
    [found] = report.findings
    assert (report.verdict, found.code) == (Verdict.INCONCLUSIVE, "SHADOW_METRIC_UNDECIDED")
    assert int(found.evidence["rows_needed"]) > ROWS


def test_each_labelled_row_counts_once_however_often_it_was_sent() -> None:
    report = judge(pairs(asked=requests(3000)), expectations("retrained"))
    assert report.requests == 3000
    worse_model = other_classes(0.1)
    seen = pairs(worse_model, asked=requests(3000, golden_of=worse_model))
    [worse] = judge(seen, expectations("retrained")).findings
    assert worse.evidence["rows"] == ROWS


def test_fewer_equal_answers_than_declared_block() -> None:
    wanted = expectations("retrained", agreement=0.95, labels={}, evaluation=None)
    good, bad = judge(pairs(other_classes(0.04)), wanted), judge(pairs(other_classes(0.08)), wanted)
    assert (good.verdict, codes(good)) == (Verdict.PASSED, [])
    assert (bad.verdict, codes(bad)) == (Verdict.FAILED, ["SHADOW_DISAGREES"])
    assert bad.findings[0].evidence["complaint"] == "another class in 'y'"


def test_nothing_to_judge_by_says_what_to_declare() -> None:
    report = judge(pairs(), expectations("retrained", labels={}))
    [found] = report.findings
    assert (report.verdict, found.code) == (Verdict.INCONCLUSIVE, "SHADOW_NOTHING_TO_JUDGE_BY")
    assert "release.shadow.agreement" in found.advice


def test_a_metric_without_a_value_is_no_pass() -> None:
    labels = {"label": np.full(ROWS, 99)}
    report = judge(pairs(), expectations("retrained", labels=labels))
    assert (report.verdict, codes(report)) == (Verdict.INCONCLUSIVE, ["SHADOW_METRIC_MISSING"])


# --- the first version --------------------------------------------------------------------------------------------


def test_a_first_version_is_held_to_its_own_evidence() -> None:
    good = judge(pairs(old=None), expectations("first"))
    assert (good.verdict, good.findings, good.agreement) == (Verdict.PASSED, (), None)
    assert good.metrics == {"accuracy": (1.0, 1.0)}


def test_a_first_version_that_answers_golden_samples_otherwise_is_not_the_package() -> None:
    report = judge(pairs(lambda x: x + 1e-3, old=None, asked=requests()), expectations("first"))
    [found] = report.findings
    assert (found.code, found.evidence["samples"]) == ("SHADOW_GOLDEN_DIFFERS", 8)


def test_a_first_version_that_is_worse_than_parity_found_it_is_caught() -> None:
    wanted = expectations("first", new=version(parity=parity(tolerance=99.0)))
    assert codes(judge(pairs(other_classes(0.1), old=None), wanted)) == ["SHADOW_METRIC_DROP"]


# --- whatever is missing blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.FAILED, Fault.UNANSWERED, Fault.BROKEN, Fault.UNREADABLE])
def test_a_request_without_an_answer_blocks(fault: Fault) -> None:
    report = judge(failing(pairs(asked=requests(1100)), [200], fault, "status 500: oh"), expectations())
    [found] = report.findings
    assert (report.verdict, report.errors) == (Verdict.FAILED, 1)
    assert (found.code, found.evidence["id"], found.evidence["fault"]) == ("SHADOW_ERRORS", "shadow-200", fault.value)


def test_what_is_refused_names_the_input() -> None:
    said = 'status 400: {"error": "input \'x\': 7 is above 3"}'
    report = judge(failing(pairs(asked=requests(1100)), [5], Fault.REFUSED, said), expectations())
    [found] = report.findings
    assert (found.code, found.evidence["input"]) == ("SHADOW_REQUEST_REFUSED", "x")


def test_what_the_old_version_refuses_too_is_not_the_new_one_s_fault() -> None:
    both = failing(pairs(asked=requests(1100)), [5], Fault.REFUSED, "status 400", whose="old")
    report = judge(failing(both, [5], Fault.REFUSED, "status 400"), expectations())
    assert (report.verdict, report.errors) == (Verdict.PASSED, 0)


def test_fewer_pairs_than_asked_for_are_inconclusive_and_say_why() -> None:
    seen = pairs()
    report = judge(Replay(seen.pairs[:999], "its 900 s were over"), expectations())
    [found] = report.findings
    assert (report.verdict, found.code) == (Verdict.INCONCLUSIVE, "SHADOW_TOO_FEW_REQUESTS")
    assert "its 900 s were over" in found.message


def test_an_old_version_that_is_silent_leaves_too_few_pairs() -> None:
    report = judge(failing(pairs(), [1, 2, 3], Fault.UNANSWERED, "no answer", whose="old"), expectations())
    assert (report.verdict, codes(report)) == (Verdict.INCONCLUSIVE, ["SHADOW_TOO_FEW_REQUESTS"])
    assert "3" in report.findings[0].message


def test_pairs_without_an_old_answer_show_nothing_where_there_is_an_old_version() -> None:
    report = judge(pairs(old=None), expectations())
    assert report.verdict is Verdict.INCONCLUSIVE


def test_nothing_sent_is_no_pass() -> None:
    assert judge(Replay(()), expectations()).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("kind", ["equivalent", "retrained"])
def test_a_nan_that_was_a_number_before_blocks(kind: str) -> None:
    def broken(x: NDArray[Any]) -> NDArray[Any]:
        return np.where(x == X[77], np.nan, x)

    report = judge(pairs(broken), expectations(kind))
    [found] = [finding for finding in report.findings if finding.code == "SHADOW_NAN"]
    assert report.verdict is Verdict.FAILED
    assert (found.evidence["row"], found.evidence["rows"], found.evidence["output"]) == (77, 1, "y")


def test_a_nan_that_was_one_before_is_the_same_answer() -> None:
    def broken(x: NDArray[Any]) -> NDArray[Any]:
        return np.where(x == X[77], np.nan, x)

    assert judge(pairs(broken, broken), expectations()).verdict is Verdict.PASSED


def test_what_was_found_while_gathering_is_said() -> None:
    remark = Finding(
        code="SHADOW_LOG_UNREADABLE", owner=Owner.PLATFORM, verdict=Verdict.INCONCLUSIVE, message="m", advice="a"
    )
    report = judge(pairs(), expectations(remarks=(remark,)))
    assert (report.verdict, report.findings) == (Verdict.INCONCLUSIVE, (remark,))


# --- slow ---------------------------------------------------------------------------------------------------------


def slow(of: Replay, share: float, *, old: bool = False) -> Replay:
    from dataclasses import replace

    each = round(1 / share)
    found = []
    for number, pair in enumerate(of.pairs):
        if number % each:
            found.append(pair)
            continue
        assert pair.old is not None
        before = replace(pair.old, took_ms=90.0) if old else pair.old
        found.append(replace(pair, new=replace(pair.new, took_ms=80.0), old=before))
    return Replay(tuple(found))


def test_more_slow_requests_than_the_objective_leaves_room_for_block() -> None:
    report = judge(slow(pairs(), 0.05), expectations())
    assert (report.verdict, codes(report), report.slow) == (Verdict.FAILED, ["SHADOW_SLOW"], 50)


def test_a_few_slow_requests_are_within_the_objective() -> None:
    report = judge(slow(pairs(), 0.005), expectations())
    assert (report.verdict, report.slow) == (Verdict.PASSED, 5)


def test_a_machine_on_which_both_are_slow_is_not_the_new_version_s_fault() -> None:
    report = judge(slow(pairs(), 0.05, old=True), expectations())
    assert (report.verdict, codes(report)) == (Verdict.PASSED, ["SHADOW_BOTH_SLOW"])


def test_recorded_answers_have_no_time_to_compare_with() -> None:
    tables = [Table(Origin.LOG, {"x": row[None]}, 1) for row in X]
    asked = [Request(f"r{place}", table, None, {"y": table.inputs["x"]}) for place, table in enumerate(tables)]
    report = judge(slow(pairs(asked=asked), 0.05, old=True), expectations())
    assert "SHADOW_SLOW" in codes(report)


def test_the_same_pairs_give_the_same_report() -> None:
    seen, wanted = pairs(other_classes(0.1)), expectations("retrained", agreement=0.99)
    assert judge(seen, wanted) == judge(seen, wanted)
    assert as_it_is(X) is not X
