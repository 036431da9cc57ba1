"""From a proven export to a serving image in the engine."""

from __future__ import annotations

from tasks.image.docker_engine import connect
from tasks.image.engine import Completed, ContainerSpec, ContainerState, Engine, ImageInfo, run, running

__all__ = ["Completed", "ContainerSpec", "ContainerState", "Engine", "ImageInfo", "connect", "run", "running"]
