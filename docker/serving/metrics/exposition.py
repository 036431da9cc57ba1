"""The page for Prometheus: what was counted → prometheus_client's families, and that library's text.

Only a scrape needs this module; importing prometheus_client takes as long as some servers' whole start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.metrics.counters import Histogram
from serving.metrics.predictions import Classes, Labels, Scores
from serving.protocol import Response

if TYPE_CHECKING:
    from serving.metrics.recording import Metrics


class Page(Collector):
    """Writes the page of one server's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> Response:
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no version
            encode, content_type = choose_encoder("")
        return Response(200, encode(self._registry), (("content-type", content_type),))

    def collect(self) -> Iterator[Metric]:
        metrics, contract = self._metrics, self._metrics.contract
        for watch in (*metrics.inputs, *metrics.outputs):
            watch.gathered.settle()
        yield InfoMetricFamily(
            "slipway_package",
            "The package that answers: digest of its contract.json, model, version, format and runtime.",
            {
                "package": metrics.package_digest,
                "model": contract.name,
                "version": contract.version,
                "format": contract.format,
                "runtime": contract.runtime,
            },
        )
        yield from self._traffic()
        for reading in metrics.readings:
            family = CounterMetricFamily if reading.is_counter else GaugeMetricFamily
            yield family(reading.name, reading.help, value=reading.read())
        yield from self._inputs()
        yield from self._outputs()

    def _traffic(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily(
            "slipway_requests", "Inference requests that ended, by protocol and status.", labels=("protocol", "status")
        )
        for (protocol, status), count in metrics.requests.items():
            requests.add_metric((protocol, str(status)), count)
        yield requests
        errors = CounterMetricFamily("slipway_request_errors", "Requests without an answer, by kind.", labels=("kind",))
        for kind, count in metrics.errors.items():
            errors.add_metric((kind,), count)
        yield errors
        yield _histogram(
            "slipway_request_duration",
            "From a request's arrival to its response: answered, refused (not looked at further) or failed.",
            metrics.duration.items(),
            label="outcome",
            unit="seconds",
        )
        for part, histogram, help_text in (
            ("decode", metrics.decode, "From an answered request's arrival until its tensors were read."),
            ("queue", metrics.queue, "From a request's preprocessing until its work began."),
            ("preprocess", metrics.preprocess, "Preprocessing of answered requests."),
            ("inference", metrics.inference, "The model's own time of answered requests."),
            ("postprocess", metrics.postprocess, "Writing the response of answered requests."),
        ):
            yield _histogram(f"slipway_{part}_duration", help_text, [("", histogram)], unit="seconds")
        yield _histogram("slipway_request_rows", "Rows of answered requests.", [("", metrics.request_rows)])
        yield _histogram(
            "slipway_batch_rows",
            "Rows of the batch that an answered request was in.",
            [("", metrics.batch_rows)],
        )

    def _inputs(self) -> Iterator[Metric]:
        looked_at = _counter("slipway_input_values", "Values of requests that were looked at.", "input")
        missing = _counter("slipway_input_missing", "Of those, NaN or the empty string.", "input")
        for quality in self._metrics.inputs:
            looked_at.add_metric((quality.name,), quality.looked_at)
            missing.add_metric((quality.name,), quality.missing)
        refused = CounterMetricFamily(
            "slipway_input_refused", "Requests refused for the values of an input.", labels=("input", "reason")
        )
        for (name, reason), count in self._metrics.refused_inputs.items():
            refused.add_metric((name, reason), count)
        yield from (looked_at, missing, refused)

    def _outputs(self) -> Iterator[Metric]:
        predictions = CounterMetricFamily(
            "slipway_predictions", "Rows by the class or value that was predicted.", labels=("output", "class")
        )
        invalid = _counter("slipway_prediction_invalid", "Rows whose answer is NaN.", "output")
        scores: list[tuple[str, Histogram]] = []
        confidences: list[tuple[str, Histogram]] = []
        for watch in self._metrics.outputs:
            match watch:
                case Classes():
                    for index, count in enumerate(watch.counts):
                        predictions.add_metric((watch.name, watch.label(index)), count)
                    invalid.add_metric((watch.name,), watch.invalid)
                    if watch.confidence is not None:
                        confidences.append((watch.name, watch.confidence))
                case Scores():
                    scores.append((watch.name, watch.histogram))
                    invalid.add_metric((watch.name,), watch.invalid)
                case Labels():
                    for word, count in watch.counts.items():
                        predictions.add_metric((watch.name, word), count)
        yield from (predictions, invalid)
        yield _histogram("slipway_prediction_score", "Predicted values.", scores, label="output", summed=False)
        yield _histogram(
            "slipway_prediction_confidence", "Probability of the predicted class.", confidences, label="output"
        )


def _counter(name: str, help_text: str, label: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, help_text, labels=(label,))


def _histogram(
    name: str,
    help_text: str,
    series: Iterable[tuple[str, Histogram]],
    *,
    label: str = "",
    unit: str = "",
    summed: bool = True,
) -> HistogramMetricFamily:
    """A family of histograms by the value of `label`. A sum of values that may be negative is no counter, and left out
    (OpenMetrics 1.0, section "Histogram")."""
    family = HistogramMetricFamily(name, help_text, labels=(label,) if label else (), unit=unit)
    for value, histogram in series:
        buckets = [(_edge(edge), count) for edge, count in histogram.cumulative()]
        family.add_metric((value,) if label else (), buckets, histogram.sum if summed else None)
    return family


def _edge(edge: float) -> str:
    return "+Inf" if edge == float("inf") else repr(edge)
