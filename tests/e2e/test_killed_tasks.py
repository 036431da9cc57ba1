"""Tasks' processes killed in the middle, cleared in Airflow: the run ends the same, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pytest

from scripts.airflow_api import Run, Task
from tasks.contracts import Package, Verdict
from tests.e2e.conftest import PREFIX, RUN_TIMEOUT_S, Slipway, containers

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

#: Stage → how long into it its process is killed, s: after it began to work, before it is done.
MOMENTS = {"ingest": 0.3, "export": 1.0, "parity": 1.0, "image": 0.3, "smoke": 1.5, "register": 0.3}


@dataclass(frozen=True)
class Killed:
    """A run in which one process of every stage was killed and the stage cleared, and one that nobody disturbed."""

    over: Run
    package: Package | None
    unharmed: Package | None
    left_behind: tuple[str, ...]


@pytest.fixture(scope="module")
def killed(slipway: Slipway) -> Killed:
    spec = slipway.model("breast-cancer-classifier", f"{PREFIX}killed")
    unharmed = slipway.package_of(slipway.package(spec))
    run = slipway.start(spec, fresh=True)
    for stage in MOMENTS:
        _kill_in_the_middle(slipway, run, stage)
        slipway.api.clear(run, stage)
    over = slipway.api.wait(run, RUN_TIMEOUT_S)
    return Killed(over, slipway.package_of(over), unharmed, tuple(_left_behind(slipway)))


def test_a_run_of_killed_and_cleared_tasks_succeeds(slipway: Slipway, killed: Killed) -> None:
    assert killed.over.state == "success", slipway.states(killed.over)
    tries = {task.task_id: task.try_number for task in slipway.api.tasks(killed.over)}
    assert {stage: tries[stage] for stage in MOMENTS} == dict.fromkeys(MOMENTS, 2)


def test_it_gives_the_package_that_nobody_disturbed(killed: Killed) -> None:
    assert killed.package is not None
    assert killed.unharmed is not None
    assert killed.package.verdict is Verdict.PASSED
    assert killed.package.digest == killed.unharmed.digest
    assert [image.digest for image in killed.package.images] == [image.digest for image in killed.unharmed.images]


def test_no_container_scratch_folder_or_lock_is_left_behind(killed: Killed) -> None:
    assert killed.left_behind == ()


def _kill_in_the_middle(slipway: Slipway, run: Run, stage: str) -> None:
    """Kill the process of a stage's first cell, a moment after it began to work."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while (pid := _pid_of(slipway, run, stage)) is None:
        assert not slipway.api.run(run).is_over, f"the run was over before {stage}: {slipway.states(run)}"
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
    """The stage's task, or its first cell."""
    of_stage = (task for task in slipway.api.tasks(run) if task.task_id == stage)
    return min(of_stage, key=lambda task: task.map_index)


def _left_behind(slipway: Slipway) -> list[str]:
    """Containers, scratch folders, half-written files and locks of the work that was killed."""
    home = slipway.settings.home
    files = [
        str(path.relative_to(home)) for folder in ("work", "store/tmp", "locks") for path in home.glob(f"{folder}/*")
    ]
    return [*containers(), *files]
