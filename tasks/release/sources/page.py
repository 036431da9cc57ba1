"""A server's metrics → what it counted. Pure.

In: samples as Prometheus has them, name, labels and value, from a page or from a query. Out: `ServerCounts`. Which
metrics there are is in docs/observe.md; what is needed and missing is an error, because a page that breaks off in the
middle must not look like a server without errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

#: How requests ended (`serving.metrics.recording`).
_OUTCOMES = ("answered", "refused", "failed")


@dataclass(frozen=True, slots=True)
class Measured:
    """One sample: a number, and what it is of."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """What one server counted since it started. `late` are answers that took longer than `edge_ms`, the lowest edge of
    its histogram that is not below the objective (or its highest edge)."""

    incarnation: str
    requests: int
    errors: int
    late: int
    edge_ms: float
    rows: int
    answered: int
    predictions: Mapping[str, Mapping[str, int]]
    invalid: int


def server_counts(samples: Iterable[Measured], p99_ms: float) -> ServerCounts:
    """
    Raises:
        ValueError: something is missing, NaN, negative or no whole number; the message says what.
    """
    found = _Samples(samples)
    durations = {outcome: found.histogram("slipway_request_duration_seconds", outcome=outcome) for outcome in _OUTCOMES}
    answered = durations["answered"]
    ended = [(sample.labels["status"], _whole(sample)) for sample in found.named("slipway_requests_total")]
    edge = _edge(answered, p99_ms / 1000)
    return ServerCounts(
        incarnation=f"{found.text('slipway_package_info', 'package')}@{found.one('process_start_time_seconds'):.2f}",
        requests=sum(counts[math.inf] for counts in durations.values()),
        errors=sum(count for status, count in ended if status >= "500"),
        late=answered[math.inf] - answered[edge],
        edge_ms=edge * 1000,
        rows=_whole(Measured("slipway_request_rows_sum", {}, found.one("slipway_request_rows_sum"))),
        answered=answered[math.inf],
        predictions={**_classes(found), **dict(_scores(found))},
        invalid=sum(_whole(sample) for sample in found.named("slipway_prediction_invalid_total")),
    )


class _Samples:
    """Samples by name."""

    def __init__(self, samples: Iterable[Measured]) -> None:
        self._by_name: dict[str, list[Measured]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    def named(self, name: str) -> list[Measured]:
        return self._by_name.get(name, [])

    def one(self, name: str) -> float:
        found = self.named(name)
        if len(found) != 1 or not math.isfinite(found[0].value):
            raise ValueError(f"expected one number {name}, found {[sample.value for sample in found]}")
        return found[0].value

    def text(self, name: str, label: str) -> str:
        found = self.named(name)
        if len(found) != 1 or label not in found[0].labels:
            raise ValueError(f"expected one {name} with {label}, found {len(found)}")
        return found[0].labels[label]

    def histogram(self, name: str, **labels: str) -> dict[float, int]:
        """Edge → values up to it, the last edge being infinity."""
        counts = {
            float(sample.labels["le"]): _whole(sample)
            for sample in self.named(f"{name}_bucket")
            if labels.items() <= sample.labels.items()
        }
        if math.inf not in counts:
            raise ValueError(f"{name} of {labels} has no end")
        ordered = dict(sorted(counts.items()))
        if list(ordered.values()) != sorted(ordered.values()):
            raise ValueError(f"{name} of {labels} is no histogram: it goes down from one edge to the next")
        return ordered


def _edge(histogram: Mapping[float, int], objective_s: float) -> float:
    finite = [edge for edge in histogram if edge != math.inf]
    if not finite:
        raise ValueError("the durations of answered requests have no edge")
    # Of an edge that is the objective written in other digits, it is the same.
    return next((edge for edge in finite if edge >= objective_s * (1 - 1e-9)), finite[-1])


def _classes(found: _Samples) -> dict[str, dict[str, int]]:
    outputs: dict[str, dict[str, int]] = {}
    for sample in found.named("slipway_predictions_total"):
        outputs.setdefault(sample.labels["output"], {})[sample.labels["class"]] = _whole(sample)
    return outputs


def _scores(found: _Samples) -> Iterator[tuple[str, dict[str, int]]]:
    """Each output's rows by the bin that their score is in, called by its upper edge."""
    name = "slipway_prediction_score"
    for output in sorted({sample.labels["output"] for sample in found.named(f"{name}_bucket")}):
        below, bins = 0, {}
        for edge, count in found.histogram(name, output=output).items():
            bins["beyond" if edge == math.inf else f"≤ {edge:g}"] = count - below
            below = count
        yield output, bins


def _whole(sample: Measured) -> int:
    if not (sample.value >= 0 and float(sample.value).is_integer()):
        raise ValueError(f"expected a count, found {sample.name} {dict(sample.labels)} = {sample.value}")
    return int(sample.value)
