"""Counts from the servers themselves: their pages of metrics, and what the router counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.release.contracts import Arm, ArmCounts, Endpoint, Router, RouterCounts
from tasks.release.sources.combination import combined
from tasks.release.sources.page import Measured, ServerCounts, server_counts

#: Seconds that a page may take: it is written in a few milliseconds, beside what the server answers.
_TIMEOUT_S = 2.0


class Servers:
    """See `tasks.release.contracts.Counted`. `router` is None where it does not count."""

    def __init__(self, arms: Mapping[Arm, Endpoint], router: Router | None, p99_ms: float) -> None:
        self._arms = dict(arms)
        self._router = router
        self._p99_ms = p99_ms

    def read(self) -> Mapping[Arm, ArmCounts | None]:
        # The router's first: what a server answers in between is then in neither, or in the server's alone.
        routed = self._router.counts() if self._router is not None else None
        if self._router is not None and routed is None:
            return dict.fromkeys(Arm)
        return {arm: self._read(arm, routed) for arm in Arm}

    def _read(self, arm: Arm, routed: Mapping[Arm, RouterCounts] | None) -> ArmCounts | None:
        counts = self._page(arm)
        return None if counts is None else combined(counts, routed[arm] if routed else None)

    def _page(self, arm: Arm) -> ServerCounts | None:
        endpoint = self._arms.get(arm)
        if endpoint is None:
            return None
        with Connection(Address(endpoint.host, endpoint.port), _TIMEOUT_S) as connection:
            try:
                reply = connection.request(get("/metrics"))
            except (Unanswered, Broken):
                return None
        if reply.status != 200:
            return None
        try:
            return server_counts(measured(reply.body.decode()), self._p99_ms)
        except (ValueError, KeyError):  # a page that breaks off, or is none
            return None


def measured(page: str) -> Iterator[Measured]:
    """The samples of a page in Prometheus' text format.

    Raises:
        ValueError: it is none.
    """
    from prometheus_client.parser import text_string_to_metric_families

    if not page.endswith("\n"):
        raise ValueError("the page ends within a line")
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            yield Measured(sample.name, sample.labels, float(sample.value))
