"""The real outside: HAProxy, containers, the servers' own counters, MLflow. Nothing is started by making it."""

from __future__ import annotations

from tasks.release.controller.protocols import Outside
from tasks.settings import Settings


def outside(settings: Settings) -> Outside:
    """Everything that a controller acts through, on this machine."""
    raise NotImplementedError("the router and the arms come with their own part")
