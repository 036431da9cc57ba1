"""What router and server counted of one arm: whole, or nothing."""

from __future__ import annotations

from tasks.release.contracts import RouterCounts
from tasks.release.controller.counts import counts

ROUTED = RouterCounts(incarnation="17", requests=100, errors=3, failed=2, hidden=1, slow=4)
PAGE = """\
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.5e9
# TYPE slipway_request_rows histogram
slipway_request_rows_bucket{le="+Inf"} 90
slipway_request_rows_count 90
slipway_request_rows_sum 270
# TYPE slipway_predictions_total counter
slipway_predictions_total{output="logits",class="0"} 200
slipway_predictions_total{output="logits",class="1"} 70
# TYPE slipway_prediction_score histogram
slipway_prediction_score_bucket{output="score",le="0.5"} 10
slipway_prediction_score_bucket{output="score",le="1.0"} 40
slipway_prediction_score_bucket{output="score",le="+Inf"} 41
# TYPE slipway_prediction_invalid_total counter
slipway_prediction_invalid_total{output="logits"} 1
slipway_prediction_invalid_total{output="score"} 2
"""


def test_failures_are_the_router_s_and_predictions_the_server_s() -> None:
    found = counts(ROUTED, PAGE)
    assert found is not None
    assert (found.requests, found.errors, found.slow) == (100, 5, 4)
    assert (found.rows, found.answered, found.invalid) == (270, 90, 3)
    assert found.predictions["logits"] == {"0": 200, "1": 70}


def test_a_score_s_rows_are_counted_by_bin_each_once() -> None:
    found = counts(ROUTED, PAGE)
    assert found is not None
    assert list(found.predictions["score"].values()) == [10, 30, 1]


def test_a_server_or_a_router_that_began_anew_is_another_incarnation() -> None:
    before = counts(ROUTED, PAGE)
    server = counts(ROUTED, PAGE.replace("1.5e9", "1.6e9"))
    router = counts(ROUTED.model_copy(update={"incarnation": "18"}), PAGE)
    assert before is not None
    assert server is not None
    assert router is not None
    assert len({before.incarnation, server.incarnation, router.incarnation}) == 3


def test_half_of_the_counters_are_none() -> None:
    assert counts(None, PAGE) is None
    assert counts(ROUTED, None) is None
    assert counts(ROUTED.model_copy(update={"slow": None}), PAGE) is None
    assert counts(ROUTED, "this is no page of metrics {") is None
    assert counts(ROUTED, PAGE.replace("process_start_time_seconds 1.5e9\n", "")) is None


def test_failures_that_were_counted_before_their_request_ended_are_no_error_of_ours() -> None:
    found = counts(ROUTED.model_copy(update={"requests": 4}), PAGE)
    assert found is not None
    assert found.requests == 5
