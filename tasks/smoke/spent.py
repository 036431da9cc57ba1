"""Where a server's time goes, by its own account: the sums of the histograms on its page of metrics.

Sums and not buckets: they are exact, where a median between two edges is a guess, and they add up.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields

from tasks.load.client import Address, Broken, Connection, Unanswered, get

_DURATIONS = ("decode", "queue", "preprocess", "inference", "postprocess")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of all answered requests together, and how many rows they and the batches that they were in had."""

    requests: float
    decode_s: float
    queue_s: float
    preprocess_s: float
    inference_s: float
    postprocess_s: float
    request_rows: float
    batch_rows: float

    def since(self, before: Spent) -> Spent:
        """What came after an earlier reading."""
        return Spent(*(getattr(self, item.name) - getattr(before, item.name) for item in fields(Spent)))

    @property
    def preparation_s(self) -> float:
        """Before the model can begin: reading requests and preprocessing them."""
        return self.decode_s + self.preprocess_s

    @property
    def model_s(self) -> float:
        """The model's own time. A batch's time is in the sum once for each request in it, so it is shared out."""
        return self.inference_s * self.request_rows / self.batch_rows if self.batch_rows else 0.0


def spent(address: Address, timeout_s: float) -> Spent | None:
    """What the server at `address` says so far; None where it does not, or not all of it."""
    with Connection(address, timeout_s) as connection, suppress(Unanswered, Broken):
        reply = connection.request(get("/metrics"))
        if reply.status == 200:
            return read_spent(reply.body.decode(errors="replace"))
    return None


def read_spent(page: str) -> Spent | None:
    """`spent` of a page in Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if not sample.labels
        }
    except ValueError:
        return None
    try:
        return Spent(
            requests=found["slipway_inference_duration_seconds_count"],
            request_rows=found["slipway_request_rows_sum"],
            batch_rows=found["slipway_batch_rows_sum"],
            **{f"{part}_s": found[f"slipway_{part}_duration_seconds_sum"] for part in _DURATIONS},
        )
    except KeyError:
        return None
