"""Counts from a Prometheus that scrapes the arms' pages of metrics.

An arm is the target whose `instance` is `host:port` of its endpoint, which is what Prometheus calls a target unless it
is told otherwise. A target that is down, or was not scraped for five minutes, has no samples, and the arm is None.
Figures are as old as the last scrape: scrape as often as the judge is to look.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any

from tasks.errors import BadInput
from tasks.release.contracts import Arm, ArmCounts, Endpoint, Router
from tasks.release.sources import PROMETHEUS
from tasks.release.sources.combination import combined
from tasks.release.sources.page import Measured, server_counts

_TIMEOUT_S = 5.0
#: Everything that a server's page says, in one query, so that all of it is of one scrape.
_NAMES = "up|process_start_time_seconds|slipway_.*"


class Prometheus:
    """See `tasks.release.contracts.Counted`. `router` is None where it does not count.

    Raises:
        BadInput: no address was given, by `url` or by the environment.
    """

    def __init__(
        self, arms: Mapping[Arm, Endpoint], router: Router | None, p99_ms: float, url: str | None = None
    ) -> None:
        self._arms = dict(arms)
        self._router = router
        self._p99_ms = p99_ms
        self._url = (url or os.environ.get(PROMETHEUS) or "").rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise BadInput(
                f"{PROMETHEUS}: expected the address of a Prometheus, like http://prometheus:9090, found {self._url!r}"
            )

    def read(self) -> Mapping[Arm, ArmCounts | None]:
        routed = self._router.counts() if self._router is not None else None
        if self._router is not None and routed is None:
            return dict.fromkeys(Arm)
        found: dict[Arm, ArmCounts | None] = {}
        for arm in Arm:
            try:
                counts = server_counts(self._samples(arm), self._p99_ms)
            except (OSError, HTTPException, ValueError, KeyError, TypeError):  # it does not answer, or not so
                found[arm] = None
            else:
                found[arm] = combined(counts, routed[arm] if routed else None)
        return found

    def _samples(self, arm: Arm) -> Iterator[Measured]:
        endpoint = self._arms[arm]
        query = f'{{__name__=~"{_NAMES}",instance="{endpoint.host}:{endpoint.port}"}}'
        asked = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as answer:  # noqa: S310  http alone, by the constructor
            document = json.load(answer)
        yield from samples_of(document)


def samples_of(document: Any) -> list[Measured]:
    """The samples of an instant query's answer (Prometheus' HTTP API, "Instant queries").

    Raises:
        ValueError, KeyError, TypeError: it is not one, or the target is down.
    """
    if document["status"] != "success" or document["data"]["resultType"] != "vector":
        raise ValueError(f"expected a vector, found {document.get('status')}")
    found = []
    for entry in document["data"]["result"]:
        labels = {key: str(value) for key, value in entry["metric"].items()}
        found.append(Measured(labels.pop("__name__"), labels, float(entry["value"][1])))
    if [sample.value for sample in found if sample.name == "up"] != [1.0]:
        raise ValueError("the target is not up, or there is more than one of that instance")
    return found
