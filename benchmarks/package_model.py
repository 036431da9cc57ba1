"""A warm `package_model` run of the digits model through Airflow: seconds in total, and what is not the stages' own.

    make up && .venv/bin/python benchmarks/package_model.py

Every stage is run again (`fresh`), on images, wheels and bytecode that are there already. A stage is at work from its
task's end back by the duration that the pipeline itself measured; two run side by side, so the share that is nobody's
work is the part of the run's wall time that no such interval covers.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from scripts import services
from scripts.airflow_api import AirflowApi, Run, Task
from scripts.airflow_home import credentials
from tasks.settings import Settings

SPEC = "examples/digits-cnn/model.yaml"
FORMATS = ["onnx", "savedmodel", "torch-export"]
STAGES = ("ingest", "export", "parity", "image", "smoke")
Interval = tuple[float, float]


def main() -> int:
    """Run once for warmth, then measure; prints a table. Exit code 1 where a run does not succeed."""
    settings = Settings.from_environment()
    where = services.up(settings, services.Ports.from_environment())
    with AirflowApi(where.airflow, credentials(settings)) as api:
        api.wait_for_dags("package_model")
        for attempt in ("warm-up", "measured"):
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            run = api.trigger(
                "package_model", {"spec": SPEC, "formats": FORMATS, "fresh": True}, run_id=f"bench__{attempt}__{stamp}"
            )
            run = api.wait(run, timeout_s=1800)
            if run.state != "success":
                print(f"the {attempt} run {run.run_id} is {run.state}: see {where.airflow}/dags/package_model")
                return 1
        report(api, run)
    return 0


def report(api: AirflowApi, run: Run) -> None:
    """Print where the time of a run went."""
    tasks = api.tasks(run)
    began, ended = min(_start(task) for task in tasks), max(_end(task) for task in tasks)
    table = Table("stage", "cells", "tasks' seconds", "stages' own seconds", title=f"{run.run_id}: {SPEC}")
    work: list[Interval] = []
    for stage in STAGES:
        cells = [task for task in tasks if task.task_id == stage]
        own = [_own_seconds(api, run, task) for task in cells]
        work += [(_end(task) - seconds, _end(task)) for task, seconds in zip(cells, own, strict=True)]
        spent = sum(_end(task) - _start(task) for task in cells)
        table.add_row(stage, str(len(cells)), f"{spent:.1f}", f"{sum(own):.1f}")
    Console().print(table)
    total, covered = ended - began, _covered(work)
    print(f"total {total:.1f} s; no stage at work for {total - covered:.1f} s, {(total - covered) / total:.0%} of it")


def _own_seconds(api: AirflowApi, run: Run, task: Task) -> float:
    left = api.left(run, task.task_id, "result", task.map_index)
    if left is None or left["reused"]:
        raise RuntimeError(f"{task.name} was not run: there is nothing to measure")
    return float(left["duration_s"])


def _covered(intervals: list[Interval]) -> float:
    """Seconds that lie in at least one interval."""
    edges = sorted({edge for interval in intervals for edge in interval})
    return sum(
        right - left
        for left, right in pairwise(edges)
        if any(start <= left and right <= end for start, end in intervals)
    )


def _start(task: Task) -> float:
    return _seconds(task, task.started)


def _end(task: Task) -> float:
    return _seconds(task, task.ended)


def _seconds(task: Task, moment: datetime | None) -> float:
    if moment is None:
        raise RuntimeError(f"{task.name} has no time: it is {task.state}")
    return moment.timestamp()


if __name__ == "__main__":
    sys.exit(main())
