"""What both versions did, from those who know: the router counts requests, each server counts its predictions.

In: a router and where the servers listen. Out: `ArmCounts`, or None for an arm of which not everything could be read:
half of the counters would be a wrong whole. The metrics' names are those of docs/observe.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.release.contracts import Arm, ArmCounts, Endpoint, Router, RouterCounts

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

#: Seconds for one page of metrics: a server that takes longer is one of which nothing is known now.
_PAGE_S = 1.0

_PREDICTED = "slipway_predictions_total"
_SCORED = "slipway_prediction_score_bucket"
_INVALID = "slipway_prediction_invalid_total"
_ROWS, _ANSWERED = "slipway_request_rows_sum", "slipway_request_rows_count"
_STARTED = "process_start_time_seconds"


@dataclass(frozen=True, slots=True)
class RouterAndServers:
    """See `tasks.release.contracts.Counted`."""

    router: Router
    servers: Mapping[Arm, Endpoint]

    def read(self) -> Mapping[Arm, ArmCounts | None]:
        # The servers first: what the router has counted by then, they have answered.
        pages = {arm: page_of(endpoint) for arm, endpoint in self.servers.items()}
        routed = self.router.counts()
        return {arm: None if routed is None else counts(routed.get(arm), page) for arm, page in pages.items()}


def page_of(endpoint: Endpoint) -> str | None:
    """A server's metrics; None where they do not come."""
    with Connection(Address(endpoint.host, endpoint.port), _PAGE_S) as connection:
        try:
            reply = connection.request(get("/metrics"))
        except (Unanswered, Broken):
            return None
    return reply.body.decode(errors="replace") if reply.status == 200 else None


def counts(routed: RouterCounts | None, page: str | None) -> ArmCounts | None:
    """One arm's counters, of both who count; None unless both are whole. Pure."""
    if routed is None or page is None or routed.slow is None:
        return None
    try:
        samples = list(_samples(page))
        started = next(sample.value for sample in samples if sample.name == _STARTED)
        errors = routed.errors + routed.failed
        return ArmCounts(
            incarnation=f"{routed.incarnation} {started}",
            # A failure that a retry hid is the arm's all the same, and may have been counted before its request ended.
            requests=max(routed.requests, errors, routed.slow),
            errors=errors,
            slow=routed.slow,
            rows=round(_sum(samples, _ROWS)),
            answered=round(_sum(samples, _ANSWERED)),
            predictions=_predictions(samples),
            invalid=round(_sum(samples, _INVALID)),
        )
    except (ValueError, KeyError, StopIteration, ValidationError):  # not a page of metrics, or not a whole one
        return None


def _samples(page: str) -> Iterator[Sample]:
    from prometheus_client.parser import text_string_to_metric_families

    families: Iterable[Metric] = text_string_to_metric_families(page)
    for family in families:
        yield from family.samples


def _sum(samples: list[Sample], name: str) -> float:
    return sum(sample.value for sample in samples if sample.name == name)


def _predictions(samples: list[Sample]) -> dict[str, dict[str, int]]:
    """Output → class, value or bin → rows."""
    found: dict[str, dict[str, int]] = {}
    for sample in samples:
        if sample.name == _PREDICTED:
            found.setdefault(sample.labels["output"], {})[sample.labels["class"]] = round(sample.value)
    edges: dict[str, list[tuple[float, int]]] = {}
    for sample in samples:
        if sample.name == _SCORED:
            edges.setdefault(sample.labels["output"], []).append((float(sample.labels["le"]), round(sample.value)))
    for output, cumulated in edges.items():  # a histogram's buckets hold those below them, too
        ordered = [(float("-inf"), 0), *sorted(cumulated)]
        found[output] = {f"to {high:g}": above - below for (_, below), (high, above) in pairwise(ordered)}
    return found
