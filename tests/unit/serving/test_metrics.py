"""The page for Prometheus: read by Prometheus' own parsers, and held against what happened."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from serving.contract import DimRange, DType, Signature, TensorSpec
from serving.metrics import Metrics, Reading
from serving.metrics.counters import Histogram
from serving.metrics.inputs import InputQuality
from serving.observation import Observers, Outcome, request_id
from serving.tensors import BadRequest, from_json
from tests.unit.serving.observed import outcome, served

DOCUMENT = (Path(__file__).parents[3] / "docs" / "observe.md").read_text()
#: Figures that other parts of the server put on the page (`serving.watch`).
ELSEWHERE = (
    *("slipway_log_", "slipway_prediction_log_", "slipway_observer_"),
    *("slipway_requests_in", "slipway_queue_rows", "slipway_batches_"),
)
OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"


def watching(**changes: Any) -> Metrics:
    return Metrics(served(**changes), "sha256:abc")


def samples(metrics: Metrics, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    parse = openmetrics if "openmetrics" in accept else plain
    families = parse(metrics.page(accept).body.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def rows(*values: list[float]) -> dict[str, Any]:
    return {"x": np.array(values, dtype=np.float32)}


def one_output(dtype: DType, *shape: int) -> Signature:
    return Signature(
        inputs=(TensorSpec("x", DType.FLOAT32, ("batch", 4)),),
        outputs=(TensorSpec("y", dtype, ("batch", *shape)),),
        dynamic={"batch": DimRange(1, 8)},
    )


def answered(metrics: Metrics, outputs: Any, name: str = "y") -> None:
    metrics.observe(outcome({"x": np.zeros((len(outputs), 4), np.float32)}, {name: outputs}))


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", OPENMETRICS, "text/plain;version=nonsense"])
def test_the_page_is_what_prometheus_parsers_read(accept: str) -> None:
    metrics = watching()
    metrics.observe(outcome(rows([0, 1, 2, 3]), {"logits": np.ones((1, 4), np.float32)}))
    found = samples(metrics, accept)
    assert found["slipway_requests_total", (("protocol", "http"), ("status", "200"))] == 1
    assert ("process_cpu_seconds_total", ()) in found
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    metrics = watching()
    assert dict(metrics.page(OPENMETRICS).headers)["content-type"].startswith("application/openmetrics-text")
    assert metrics.page(OPENMETRICS).body.endswith(b"# EOF\n")
    assert dict(metrics.page("*/*").headers)["content-type"].startswith("text/plain; version=0.0.4")


def test_the_package_is_named_on_one_metric_and_nowhere_else() -> None:
    metrics = watching()
    metrics.observe(outcome(rows([0, 1, 2, 3]), {"logits": np.ones((1, 4), np.float32)}))
    labels = {"package": "sha256:abc", "model": "m", "version": "7", "format": "onnx", "runtime": "onnx"}
    assert value(metrics, "slipway_package_info", **labels) == 1
    others = [key for name, key in samples(metrics) if name != "slipway_package_info"]
    assert not {label for key in others for label, _ in key} & set(labels)


def test_durations_fall_into_buckets_from_a_quarter_of_a_millisecond() -> None:
    metrics = watching()
    for total_s in (0.0002, 0.00025, 0.0003, 99.0):
        metrics.observe(outcome(rows([0, 1, 2, 3]), {"logits": np.ones((1, 4), np.float32)}, total_s=total_s))
    name = "slipway_request_duration_seconds"
    assert value(metrics, f"{name}_bucket", outcome="answered", le="0.00025") == 2
    assert value(metrics, f"{name}_bucket", outcome="answered", le="10.0") == 3
    assert value(metrics, f"{name}_count", outcome="answered") == 4
    assert value(metrics, f"{name}_sum", outcome="answered") == pytest.approx(99.00075)
    assert value(metrics, "slipway_inference_duration_seconds_sum") == pytest.approx(0.012)


def test_reading_a_request_and_writing_its_response_have_their_own_durations() -> None:
    metrics = watching()
    given = {"logits": np.ones((1, 4), np.float32)}
    metrics.observe(outcome(rows([0, 1, 2, 3]), given, decode_s=0.0007, postprocess_s=0.0003))
    metrics.observe(Outcome("a", "http", 500, 2.0, "model", "no", decode_s=9.0))
    assert value(metrics, "slipway_decode_duration_seconds_sum") == pytest.approx(0.0007)
    assert value(metrics, "slipway_postprocess_duration_seconds_sum") == pytest.approx(0.0003)


def test_what_was_refused_does_not_make_the_latency_of_answers_look_better() -> None:
    metrics = watching()
    metrics.observe(Outcome("a", "http", 400, 0.0001, "bad_request", "no"))
    metrics.observe(Outcome("a", "grpc", 504, 2.0, "deadline", "late"))
    count = "slipway_request_duration_seconds_count"
    found = [value(metrics, count, outcome=each) for each in ("answered", "refused", "failed")]
    assert found == [0, 1, 1]
    assert value(metrics, "slipway_request_errors_total", kind="deadline") == 1
    assert value(metrics, "slipway_requests_total", protocol="grpc", status="504") == 1


def test_rows_are_counted_up_to_the_most_that_a_request_may_have() -> None:
    metrics = watching()
    metrics.observe(outcome(rows(*[[0.0] * 4] * 40), {"logits": np.ones((40, 4), np.float32)}))
    assert value(metrics, "slipway_request_rows_bucket", le="32.0") == 0
    assert value(metrics, "slipway_request_rows_bucket", le="48.0") == 1
    assert value(metrics, "slipway_batch_rows_sum") == 40


def test_missing_values_are_counted_per_input() -> None:
    metrics = watching()
    metrics.observe(outcome(rows([0, math.nan, 2, math.nan], [math.inf, -math.inf, 0, 0])))
    assert value(metrics, "slipway_input_values_total", input="x") == 8
    assert value(metrics, "slipway_input_missing_total", input="x") == 2


def test_small_requests_that_are_counted_together_are_all_counted() -> None:
    metrics = watching()
    for number in range(75):
        metrics.observe(outcome(rows([math.nan, 0, 0, 0]), {"logits": np.eye(4, dtype=np.float32)[[number % 4]]}))
    assert value(metrics, "slipway_input_missing_total", input="x") == 75
    classes = [value(metrics, "slipway_predictions_total", output="logits", **{"class": str(n)}) for n in range(4)]
    assert classes == [19, 19, 19, 18]


def test_what_waits_to_be_counted_keeps_no_request_alive() -> None:
    metrics = watching()
    batch = np.zeros((10_000, 4), np.float32)
    before = sys.getrefcount(batch)
    metrics.observe(outcome({"x": batch[:1]}, {"logits": batch[:1]}))
    assert sys.getrefcount(batch) == before


def test_an_empty_string_is_missing() -> None:
    quality = InputQuality(TensorSpec("word", DType.STRING, ("batch",)))
    quality.observe(np.array(["a", "", "b"], dtype=object))
    quality.gathered.settle()
    assert (quality.looked_at, quality.missing) == (3, 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [([0.5, None], "missing"), ([0.5, 1e39], "not_finite"), ([0.5, 1.5], "out_of_range")],
)
def test_what_an_input_is_refused_for_is_counted_by_reason(values: list[float | None], reason: str) -> None:
    spec = TensorSpec("x", DType.FLOAT32, ("batch",), range=(0.0, 1.0))
    signature = Signature((spec,), (TensorSpec("y", DType.FLOAT32, ("batch",)),), {"batch": DimRange(1, 8)})
    metrics = watching(signature=signature, golden={"y": np.zeros(1, np.float32)})
    assert value(metrics, "slipway_input_refused_total", input="x", reason=reason) == 0
    with pytest.raises(BadRequest) as refused:
        from_json(spec, (2,), values)
    error = refused.value
    metrics.observe(
        Outcome("a", "http", 400, 0.1, "bad_request", str(error), refused_input=(error.input, error.reason))
    )
    assert value(metrics, "slipway_input_refused_total", input="x", reason=reason) == 1


def test_the_winning_class_of_each_row_is_counted_with_how_sure_the_model_was() -> None:
    metrics = watching()
    logits = np.array([[7, 0, 0, 0], [0, 0, 7, 0], [7, 0, 0, 0], [math.nan] * 4], dtype=np.float32)
    answered(metrics, logits, "logits")
    classes = [value(metrics, "slipway_predictions_total", output="logits", **{"class": str(n)}) for n in range(4)]
    assert classes == [2, 0, 1, 0]
    assert value(metrics, "slipway_prediction_invalid_total", output="logits") == 1
    bucket = "slipway_prediction_confidence_bucket"
    assert value(metrics, bucket, output="logits", le="0.99") == 0
    assert value(metrics, bucket, output="logits", le="0.999") == 3  # 1 / (1 + 3 exp(-7)) is 0.9973


@pytest.mark.parametrize("log", [False, True])
def test_probabilities_and_their_logarithms_are_known_by_the_golden_answers(log: bool) -> None:
    golden = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
    turned = np.log(golden) if log else golden
    metrics = watching(signature=one_output(DType.FLOAT32, 3), golden={"y": turned})
    answered(metrics, turned)
    assert value(metrics, "slipway_prediction_confidence_bucket", output="y", le="0.6") == 0
    assert value(metrics, "slipway_prediction_confidence_bucket", output="y", le="0.9") == 2


def test_numbers_that_are_no_probabilities_have_no_confidence() -> None:
    metrics = watching(signature=one_output(DType.FLOAT32, 3), golden={"y": np.array([[5.0, -2.0, 7.0]], np.float32)})
    answered(metrics, np.array([[5.0, -2.0, 7.0]], np.float32))
    assert not [name for name, _ in samples(metrics) if name.startswith("slipway_prediction_confidence")]


def test_thousands_of_classes_share_bounded_bins() -> None:
    signature = one_output(DType.FLOAT32, 1000)
    metrics = watching(signature=signature, golden={"y": np.zeros((1, 1000), np.float32)})
    answers = np.zeros((2, 1000), np.float32)
    answers[0, 17], answers[1, 999] = 1, 1
    answered(metrics, answers)
    bins = {dict(key)["class"]: found for (name, key), found in samples(metrics).items() if "predictions" in name}
    assert len(bins) == 125
    assert {label for label, count in bins.items() if count} == {"16-23", "992-999"}


def test_scores_are_binned_by_the_golden_answers() -> None:
    golden = np.linspace(-10, 10, 21, dtype=np.float32)
    metrics = watching(signature=one_output(DType.FLOAT32), golden={"y": golden})
    answered(metrics, np.array([-99, -7, 0, 99, math.nan], dtype=np.float32))
    found = [
        value(metrics, "slipway_prediction_score_bucket", output="y", le=edge) for edge in ("-10.0", "0.0", "10.0")
    ]
    assert found == [1, 3, 3]
    assert value(metrics, "slipway_prediction_score_bucket", output="y", le="+Inf") == 4
    assert value(metrics, "slipway_prediction_invalid_total", output="y") == 1
    samples(metrics, OPENMETRICS)  # negative values may have no sum there


@pytest.mark.parametrize(
    ("dtype", "golden", "answers", "expected"),
    [
        (DType.STRING, ["cat", "dog"], ["cat", "cat", "ox"], {"cat": 2, "dog": 0, "other": 1}),
        (DType.INT64, [3, 1, 3], [1, 3, 9], {"1": 1, "3": 1, "other": 1}),
        (DType.BOOL, [True], [True, False], {"True": 1, "other": 1}),
    ],
)
def test_labels_are_counted_as_far_as_the_golden_answers_know_them(
    dtype: DType, golden: list[Any], answers: list[Any], expected: dict[str, int]
) -> None:
    metrics = watching(signature=one_output(dtype), golden={"y": np.array(golden, dtype.numpy)})
    answered(metrics, np.array(answers, dtype.numpy))
    assert {
        dict(key)["class"]: found for (name, key), found in samples(metrics).items() if "predictions" in name
    } == expected


def test_the_number_of_series_does_not_follow_the_traffic() -> None:
    metrics = watching(signature=one_output(DType.STRING), golden={"y": np.array(["a"], object)})
    answered(metrics, np.array(["a"], object))
    before = samples(metrics).keys()
    for number in range(200):
        answered(metrics, np.array([f"word-{number}"], object))
    assert samples(metrics).keys() == before


def test_every_metric_of_the_page_is_explained_and_nothing_else_is() -> None:
    """docs/observe.md, its alert rules too. Metrics of the process are the client library's own."""
    found = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"`?slipway_[a-z_]+", DOCUMENT)}
    explained = {name[1:] for name in found if name.startswith("`")}
    used = found - {f"`{name}" for name in explained}
    several = [watching(), watching(signature=one_output(DType.FLOAT32), golden={"y": np.zeros(2, np.float32)})]
    families = [family for metrics in several for family in plain(metrics.page("").body.decode())]
    ours = {_full(family) for family in families if family.name.startswith("slipway")}
    elsewhere = {name for name in explained if name.startswith(ELSEWHERE)}
    assert explained - elsewhere == ours - elsewhere
    assert {name for name in used if not name.startswith(ELSEWHERE)} <= ours


def _full(family: Any) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def test_readings_of_others_are_on_the_page() -> None:
    metrics = watching()
    metrics.readings += [
        Reading("slipway_requests_in_flight", "Now.", lambda: 3),
        Reading("slipway_log_lost", "Ever.", lambda: 2, is_counter=True),
    ]
    assert value(metrics, "slipway_requests_in_flight") == 3
    assert value(metrics, "slipway_log_lost_total") == 2


@given(st.lists(st.floats(-100, 100), max_size=60), st.lists(st.floats(-50, 50), min_size=1, max_size=9, unique=True))
def test_a_histogram_counts_one_by_one_what_it_counts_at_once(values: list[float], edges: list[float]) -> None:
    at_once, one_by_one = Histogram(sorted(edges)), Histogram(sorted(edges))
    at_once.observe_each(np.array(values))
    for number in values:
        one_by_one.observe(number)
    assert at_once.counts == one_by_one.counts
    assert at_once.cumulative()[-1] == (math.inf, len(values))
    for edge, count in at_once.cumulative():
        assert count == sum(number <= edge for number in values)


class Raises:
    def observe(self, outcome: Outcome) -> None:
        raise ZeroDivisionError(outcome.id)


def test_an_observer_that_raises_hurts_no_other() -> None:
    metrics = watching()
    observers = Observers((Raises(), metrics))
    observers.observe(Outcome("a", "http", 400, 0.1, "bad_request"))
    assert value(metrics, "slipway_requests_total", protocol="http", status="400") == 1
    assert observers.failures == 1


@pytest.mark.parametrize("odd", [None, "", "a b", "ü", "a\nx-evil: 1", "x" * 129])
def test_an_id_that_no_header_can_carry_is_replaced(odd: str | None) -> None:
    assert request_id(odd, "from-header") == "from-header"
    made = request_id(odd, None)
    assert made.isascii()
    assert made != request_id(odd, None)
