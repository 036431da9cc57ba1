"""Where a release's counts come from, behind `tasks.release.contracts.Counted`.

    servers       each arm's own page of metrics, and what the router counted
    prometheus    the same figures from a Prometheus that scrapes the arms: `SLIPWAY_PROMETHEUS` is its address

Adding one is a module with a class that takes (arms, router, p99_ms), and a line in `SOURCES`. Whatever it is: figures
that are missing, NaN, negative or not whole are no figures, and the arm is None.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

from tasks.errors import BadInput
from tasks.release.contracts import Arm, Counted, Endpoint, Router

#: The address of the Prometheus to read from, such as http://prometheus:9090.
PROMETHEUS = "SLIPWAY_PROMETHEUS"

#: Name → `module:class`, imported only when asked for.
SOURCES: dict[str, str] = {
    "servers": "tasks.release.sources.servers:Servers",
    "prometheus": "tasks.release.sources.prometheus:Prometheus",
}


def find_source(name: str, arms: Mapping[Arm, Endpoint], router: Router | None, p99_ms: float) -> Counted:
    """The source of that name. `router` is the one that counts; None where none does, as with the Gateway API: then
    only what reached a server is seen.

    Raises:
        BadInput: there is none of that name, or it lacks a setting.
    """
    if name not in SOURCES:
        raise BadInput(f"there is no source of counts {name!r}; there are {', '.join(SOURCES)}")
    module, _, attribute = SOURCES[name].partition(":")
    return cast(Counted, getattr(importlib.import_module(module), attribute)(arms, router, p99_ms))
