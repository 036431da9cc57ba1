"""Everything that watches a server, put together: metrics, the log of requests, the record of predictions.

In: the package and the environment (SERVING_LOG, SERVING_PREDICTION_LOG…). Out: one observer, the page `/metrics`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from serving import prediction_log
from serving.application import Page
from serving.front import Front
from serving.inference import Inference
from serving.log import RequestLog, in_background, requests_to_log
from serving.metrics import Metrics, Reading
from serving.observation import Observer, Observers
from serving.package import Refusal, Refused, Served, contract_digest
from serving.prediction_log import Recorder


class Watch:
    """`observer` is told the outcomes, `pages` are the application's; `warm` loads what the first scrape needs."""

    def __init__(self, metrics: Metrics, observers: list[Observer]) -> None:
        self.metrics = metrics
        self.observer = Observers(observers)
        self.pages: dict[str, Page] = {"/metrics": metrics.page}

    def follow(self, front: Front, inference: Inference) -> None:
        """Put what they have in hand on the page."""
        self.metrics.readings += [
            Reading("slipway_requests_in_flight", "Requests that are being answered.", lambda: front.in_flight),
            Reading("slipway_queue_rows", "Rows that wait.", lambda: inference.waiting_rows),
            Reading("slipway_batches_at_work", "Batches that workers are at.", lambda: inference.busy),
        ]

    def warm(self) -> None:
        """Load what the first scrape needs, in a thread beside requests that come already."""
        self.metrics.prepared()


@contextlib.contextmanager
def watching(served: Served, folder: Path) -> Iterator[Watch]:
    """Watch while this lasts; what was not written yet is written at its end.

    Raises:
        Refused: SETTINGS, a variable does not say what it should.
    """
    contract, package = served.contract, contract_digest(folder)
    try:
        which = requests_to_log()
        recorded = prediction_log.settings(contract, served.raw)
    except ValueError as error:
        raise Refused(Refusal.SETTINGS, str(error)) from error
    metrics = Metrics(served, package)
    observers: list[Observer] = [metrics, RequestLog(served, which)]
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(in_background())
        metrics.readings.append(
            Reading("slipway_log_lost", "Lines that standard error did not take in time.", lambda: lines.lost, True)
        )
        if recorded is not None:
            key = os.environ.get("SERVING_PREDICTION_LOG_KEY", "").encode()
            recorder = Recorder(*recorded, contract, package, key)
            stack.callback(recorder.close)
            observers.append(recorder)
            metrics.readings += _recorded(recorder)
        watch = Watch(metrics, observers)
        metrics.readings.append(
            Reading(
                "slipway_observer_failures",
                "Outcomes that a metric or log could not take.",
                lambda: watch.observer.failures,
                True,
            )
        )
        yield watch


def _recorded(recorder: Recorder) -> tuple[Reading, ...]:
    name = "slipway_prediction_log"
    return (
        Reading(f"{name}_written", "Predictions that were recorded.", lambda: recorder.written, True),
        Reading(f"{name}_failed", "Predictions that the disk did not take.", lambda: recorder.failed, True),
        Reading(f"{name}_lost", "Predictions that found no room in memory.", lambda: recorder.lost, True),
    )
