"""A server's page and the router's counters → an arm's counts, and nothing where either is not whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tasks.release.contracts import RouterCounts
from tasks.release.sources.combination import combined
from tasks.release.sources.page import ServerCounts, server_counts
from tasks.release.sources.prometheus import samples_of
from tasks.release.sources.servers import measured

PAGE = (Path(__file__).with_name("page.txt")).read_text()


def counts(page: str = PAGE, p99_ms: float = 50) -> ServerCounts:
    return server_counts(measured(page), p99_ms)


def test_a_page_says_all_of_it() -> None:
    found = counts()
    assert found.incarnation == "sha256:abc@1700000000.25"
    assert (found.requests, found.errors, found.answered, found.rows) == (106, 3, 100, 250)
    assert found.predictions == {
        "logits": {"0": 150, "1": 100},
        "price": {"≤ 1": 40, "≤ 2": 30, "beyond": 30},
    }
    assert found.invalid == 2


@pytest.mark.parametrize(
    ("p99_ms", "edge_ms", "late"), [(50, 50, 4), (30, 50, 4), (50.1, 100, 1), (5, 50, 4), (20_000, 100, 1)]
)
def test_slow_answers_are_beyond_the_lowest_edge_that_is_not_below_the_objective(
    p99_ms: float, edge_ms: float, late: int
) -> None:
    found = counts(p99_ms=p99_ms)
    assert (found.edge_ms, found.late) == (pytest.approx(edge_ms), late)


@pytest.mark.parametrize("cut", range(0, len(PAGE) - 1, 97))
def test_a_page_that_breaks_off_says_nothing_or_all_that_matters(cut: int) -> None:
    try:
        found = counts(PAGE[:cut])
    except (ValueError, KeyError):
        return
    pytest.fail(f"a page of {cut} of {len(PAGE)} characters was taken for whole: {found}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"(slipway_requests_total\{[^}]*\}) 97\.0", r"\1 NaN"),
        (r"(slipway_requests_total\{[^}]*\}) 97\.0", r"\1 -1.0"),
        (r"(slipway_requests_total\{[^}]*\}) 3\.0", r"\1 2.5"),
        (r"(le=\"0\.05\"[^}]*\}) 96\.0", r"\1 101.0"),
        (r"process_start_time_seconds 1\S+", "process_start_time_seconds NaN"),
        (r"(slipway_prediction_invalid_total\{[^}]*\}) 2\.0", r"\1 +Inf"),
        (r"slipway_request_rows_sum 250\.0", "slipway_request_rows_sum NaN"),
        (r"slipway_package_info", "slipway_other_info"),
        (r"slipway", "some"),
    ],
)
def test_a_figure_that_is_none_spoils_the_page(old: str, new: str) -> None:
    spoiled = re.sub(old, new, PAGE)
    assert spoiled != PAGE
    with pytest.raises((ValueError, KeyError)):
        counts(spoiled)


def routed(**changes: Any) -> RouterCounts:
    values = {"incarnation": "7", "requests": 90, "errors": 2, "failed": 5, "hidden": 4, "slow": 6}
    return RouterCounts(**{**values, **changes})


def test_the_router_says_what_it_sent_and_the_server_what_it_predicted() -> None:
    found = combined(counts(), routed())
    assert (found.requests, found.errors, found.slow) == (90, 7, 13)
    assert (found.rows, found.answered, found.invalid) == (250, 100, 2)
    assert found.incarnation == "sha256:abc@1700000000.25/7"


def test_without_a_router_that_counts_it_is_all_the_servers() -> None:
    found = combined(counts(), None)
    assert (found.requests, found.errors, found.slow) == (106, 3, 7)


def test_a_router_that_knows_no_objective_leaves_it_to_the_servers_histogram() -> None:
    assert combined(counts(), routed(slow=None)).slow == 4 + 7


def test_an_outage_is_counted_whole_although_the_server_saw_none_of_it() -> None:
    found = combined(counts(), routed(requests=50, errors=0, failed=50, hidden=50, slow=0))
    assert (found.requests, found.errors, found.slow) == (50, 50, 50)


def vector(*samples: tuple[str, dict[str, str], str]) -> dict[str, Any]:
    result = [{"metric": {"__name__": name, **labels}, "value": [0, value]} for name, labels, value in samples]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def test_an_answer_of_prometheus_is_the_same_samples() -> None:
    page = [(sample.name, dict(sample.labels), str(sample.value)) for sample in measured(PAGE)]
    assert server_counts(samples_of(vector(("up", {}, "1"), *page)), 50) == counts()


@pytest.mark.parametrize("up", [(), ("0",), ("1", "1")])
def test_a_target_that_is_down_or_not_one_has_no_figures(up: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not up"):
        samples_of(vector(*(("up", {}, value) for value in up)))
