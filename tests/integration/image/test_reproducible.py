"""Built twice, in other folders, under another umask and at another time, layers are the same to the byte."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tasks.image import Engine
from tasks.image.context import Context
from tasks.image.runtimes import EXTRAS, RUNTIMES, add_libraries, add_serving, base_image, ensure_runtime

pytestmark = pytest.mark.docker
Fill = Callable[[Context, Path], None]
DOCKER = Path(__file__).parents[3] / "docker"


def extra(name: str) -> Fill:
    return lambda context, work: add_libraries(context, work, EXTRAS[name].lock, EXTRAS[name].folder / "trim")


def written(fill: Fill, folder: Path, umask: int) -> bytes:
    """The context that is written in a folder of its own, by a process with that umask."""
    folder.mkdir()
    before = os.umask(umask)
    try:
        with (folder / "context.tar").open("w+b") as stream:
            context = Context(stream)
            context.add_file("Dockerfile", DOCKER / "runtimes" / "serving.Dockerfile")
            fill(context, folder)
            finished: IO[bytes] = context.finish()
            return finished.read()
    finally:
        os.umask(before)


@pytest.mark.parametrize("fill", [add_serving, extra("text")], ids=["server", "extra"])
def test_what_goes_into_a_layer_follows_from_its_sources_alone(fill: Fill, tmp_path: Path) -> None:
    first = written(fill, tmp_path / "first", 0o022)
    assert written(fill, tmp_path / "a-second-and-longer-name", 0o077) == first


def test_the_engine_makes_the_same_layer_of_it_again(engine: Engine, tmp_path: Path) -> None:
    context = written(add_serving, tmp_path / "context", 0o022)
    base = base_image(engine)
    found = [_built(context, base.id), _built(context, base.id)]
    try:
        assert found[0]["Id"] != found[1]["Id"]  # the engine's own configuration has the time of day
        assert found[0]["RootFS"]["Layers"] == found[1]["RootFS"]["Layers"]
    finally:
        for each in found:
            engine.remove_image(each["Id"])


def _built(context: bytes, below: str) -> dict[str, Any]:
    command = ["docker", "build", "--no-cache", "--quiet", "--build-arg", f"LIBRARIES={below}", "-"]
    identity = subprocess.run(command, input=context, capture_output=True, check=True).stdout.decode().strip()
    inspected: list[dict[str, Any]] = json.loads(subprocess.check_output(["docker", "inspect", identity]))
    return inspected[0]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtimes_image_has_no_time_of_day(engine: Engine, case: Callable[[str], Any], runtime: str) -> None:
    identity = ensure_runtime(runtime, engine, case(runtime).settings)
    [inspected] = json.loads(subprocess.check_output(["docker", "inspect", identity]))
    assert inspected["Created"] == "2026-01-01T00:00:00Z"
