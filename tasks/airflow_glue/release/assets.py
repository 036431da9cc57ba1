"""A package that passed and whose spec says `release: {automatic: true}` starts its release.

`package_model` says so by an event of the asset below, and `release_model` is scheduled on it. The event goes through
an alias, because an outlet of a task otherwise has an event whenever the task succeeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Asset, AssetAlias, get_current_context

from tasks.contracts import Contract, Digest

READY = Asset(name="slipway-package-ready", uri="slipway://packages/ready")
MAY_BE_READY = AssetAlias("slipway-package-may-be-ready")


class Ready(Contract):
    """What the event says: this package is to be released now."""

    model: str
    package: Digest


def offer(ready: Ready) -> None:
    """Leave the event; it counts once the running task has succeeded. `MAY_BE_READY` must be among its outlets."""
    get_current_context()["outlet_events"][MAY_BE_READY].add(READY, extra=ready.model_dump(mode="json"))


def offered(events: Mapping[Any, Iterable[Any]]) -> list[Ready]:
    """The packages that started this run, newest first; none where a person started it.

    One run can have several events: they came while Airflow's scheduler was away or the DAG was paused.
    """
    of_asset = events.get(READY, ())
    newest_first = sorted(of_asset, key=lambda event: event.timestamp, reverse=True)
    return [Ready.model_validate(event.extra) for event in newest_first]
