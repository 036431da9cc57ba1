"""The observer that counts: every outcome into a handful of histograms and counters.

In: outcomes, on the event loop. Out: a page for Prometheus, written when it is asked for. Nothing that a client sends
becomes a label: protocols, statuses and kinds of error are the server's own, names are the contract's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.contract import TensorSpec
from serving.metrics.counters import Histogram
from serving.metrics.inputs import InputQuality
from serving.metrics.predictions import watches
from serving.observation import Outcome
from serving.package import Served
from serving.protocol import Response

if TYPE_CHECKING:
    from serving.metrics.exposition import Page

#: Edges of every duration, in seconds: a small model answers within the first, and nobody waits for more than the last.
DURATIONS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Kinds of error (`Outcome.error`) that cost the server nothing but the refusal; all others are failures.
REFUSALS = frozenset({"bad_request", "draining", "not_found", "overloaded", "too_large", "too_slow"})
ERRORS = (*sorted(REFUSALS), "cancelled", "deadline", "internal", "model")

ANSWERED, REFUSED, FAILED = "answered", "refused", "failed"


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure that another part of the server keeps, read when the page is written."""

    name: str
    help: str
    read: Callable[[], float]
    is_counter: bool = False


class Metrics:
    """Counts outcomes of one model. `readings` are figures of others that belong on the same page."""

    def __init__(self, served: Served, package_digest: str) -> None:
        self.contract = served.contract
        self.package_digest = package_digest
        self.readings: list[Reading] = []
        self.requests: dict[tuple[str, int], int] = {}
        # From the start on all that may come: a rate needs to have seen zero.
        self.errors = dict.fromkeys(ERRORS, 0)
        self.refused_inputs = {(spec.name, reason): 0 for spec in served.raw.inputs for reason in _reasons(spec)}
        self.duration = {outcome: Histogram(DURATIONS) for outcome in (ANSWERED, REFUSED, FAILED)}
        self.decode, self.queue, self.preprocess, self.inference, self.postprocess = (
            Histogram(DURATIONS) for _ in range(5)
        )
        rows = _powers_of_two(served)
        self.request_rows, self.batch_rows = Histogram(rows), Histogram(rows)
        self.inputs = tuple(InputQuality(spec) for spec in served.raw.inputs)
        self.outputs = watches(served.contract.signature, served.golden.outputs)
        self._rows = served.rows
        self._page: Page | None = None

    def observe(self, outcome: Outcome) -> None:
        key = (outcome.protocol, outcome.status)
        self.requests[key] = self.requests.get(key, 0) + 1
        error, answer, inputs = outcome.error, outcome.answer, outcome.inputs
        if error:
            self.errors[error] = self.errors.get(error, 0) + 1
            self.duration[REFUSED if error in REFUSALS else FAILED].observe(outcome.total_s)
            if (refused := outcome.refused_input) is not None:
                self.refused_inputs[refused] = self.refused_inputs.get(refused, 0) + 1
        else:
            self.duration[ANSWERED].observe(outcome.total_s)
        if inputs is not None:
            for quality in self.inputs:
                quality.observe(inputs[quality.name])
        if answer is not None and inputs is not None:
            timings = answer.timings
            self.decode.observe(outcome.decode_s)
            self.queue.observe(timings.queue_s)
            self.preprocess.observe(timings.preprocess_s)
            self.inference.observe(timings.inference_s)
            self.postprocess.observe(outcome.postprocess_s)
            self.batch_rows.observe(timings.batch_rows)
            self.request_rows.observe(self._rows(inputs))
            for watch in self.outputs:
                watch.observe(answer.outputs[watch.name])

    def page(self, accept: str) -> Response:
        """The page in the format that `accept`, the request's header, asks for: Prometheus' text or OpenMetrics."""
        return self.prepared().render(accept)

    def prepared(self) -> Page:
        """The page's writer, its library loaded: 70 ms that no scrape and no start should wait for."""
        if self._page is None:
            from serving.metrics.exposition import Page

            self._page = Page(self)
        return self._page


def _reasons(spec: TensorSpec) -> Iterator[str]:
    """Why the values of an input may be refused (`serving.tensors.BadRequest`)."""
    yield "missing"
    if spec.dtype.is_float:
        yield "not_finite"
    if spec.range is not None:
        yield "out_of_range"


def _powers_of_two(served: Served) -> list[float]:
    """1, 2, 4, … up to the most rows that a request may have."""
    batch = served.raw.batch
    allowed = served.raw.dynamic.get(batch) if batch else None
    most = max(served.contract.max_batch, allowed.max if allowed else 1)
    return [float(2**power) for power in range(min(most, 1 << 20).bit_length())] + (
        [float(most)] if most & (most - 1) and most < 1 << 20 else []
    )
