"""From a proven export to a serving image in the engine."""

from __future__ import annotations

from tasks.image.build import build, contract_bytes
from tasks.image.docker_engine import connect
from tasks.image.engine import Completed, ContainerSpec, ContainerState, Engine, ImageInfo, run, running
from tasks.image.registry import Pushed, pull, push
from tasks.image.runtimes import RUNTIMES, Runtime, ensure_runtime

__all__ = [
    "RUNTIMES",
    "Completed",
    "ContainerSpec",
    "ContainerState",
    "Engine",
    "ImageInfo",
    "Pushed",
    "Runtime",
    "build",
    "connect",
    "contract_bytes",
    "ensure_runtime",
    "pull",
    "push",
    "run",
    "running",
]
