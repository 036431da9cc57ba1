"""A task's process killed in the middle, cleared in Airflow: the run ends the same, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from scripts.airflow_api import Run, Task
from tasks.contracts import Package, Verdict
from tests.e2e.conftest import PREFIX, RUN_TIMEOUT_S, Slipway, containers

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

#: Stage → how long into it its process is killed, s: past the start, before the end.
MOMENTS = {"ingest": 0.3, "export": 1.0, "parity": 1.0, "image": 0.3, "smoke": 1.5, "register": 0.3}


@pytest.fixture(scope="module")
def spec(slipway: Slipway) -> Path:
    return slipway.model("breast-cancer-classifier", f"{PREFIX}killed")


@pytest.fixture(scope="module")
def unharmed(slipway: Slipway, spec: Path) -> Package:
    """The package as it is when nobody disturbs."""
    package = slipway.package_of(slipway.package(spec))
    assert package is not None
    assert package.verdict is Verdict.PASSED
    return package


@pytest.mark.parametrize("stage", list(MOMENTS))
def test_a_killed_task_that_is_cleared_ends_the_same(
    slipway: Slipway, spec: Path, unharmed: Package, stage: str
) -> None:
    run = slipway.start(spec, fresh=True)
    _kill_in_the_middle(slipway, run, stage)
    slipway.api.clear(run, stage)

    over = slipway.api.wait(run, RUN_TIMEOUT_S)

    assert over.state == "success", slipway.states(over)
    package = slipway.package_of(over)
    assert package is not None
    assert package.digest == unharmed.digest
    assert [image.digest for image in package.images] == [image.digest for image in unharmed.images]
    assert _left_behind(slipway) == []


def _kill_in_the_middle(slipway: Slipway, run: Run, stage: str) -> None:
    """Kill the process of a stage's first cell, a moment after it began to work."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while (pid := _pid_of(slipway, run, stage)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(MOMENTS[stage])
    os.kill(pid, signal.SIGKILL)
    while (task := _task(slipway, run, stage)).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert task.state == "up_for_retry", f"{stage} was over before it was killed: {task}"


def _pid_of(slipway: Slipway, run: Run, stage: str) -> int | None:
    task = _task(slipway, run, stage)
    return task.pid if task.state == "running" else None


def _task(slipway: Slipway, run: Run, stage: str) -> Task:
    return min((task for task in slipway.api.tasks(run) if task.task_id == stage), key=lambda task: task.map_index)


def _left_behind(slipway: Slipway) -> list[str]:
    """Containers, scratch folders, half-written files and processes of the work that was killed."""
    home = slipway.settings.home
    files = [
        str(path.relative_to(home)) for folder in ("work", "store/tmp", "locks") for path in home.glob(f"{folder}/*")
    ]
    return [*containers(), *files]
