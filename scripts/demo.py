"""`make demo`: train the examples, package each through Airflow, release one under load, and see a broken one caught.

What was done before is not done again: trained examples, running services, and every stage whose inputs did not
change. The services are left running. Exit codes: 0 every package passed and the releases ended as they should, 1 a
gate said otherwise, 2 bad input, 3 the platform failed, 130 after Ctrl-C (which ends the runs that this started).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scripts import services
from scripts.airflow_api import FINISHED_TASK, AirflowApi, Run, Task
from scripts.airflow_home import credentials
from scripts.demo_release import MODEL, release_all
from tasks.console import finding_lines, mlflow_line, package_table
from tasks.contracts import LineageRecord, Package, Verdict
from tasks.errors import PlatformError, SlipwayError
from tasks.settings import Settings
from tasks.spec import load_spec

ROOT = Path(__file__).resolve().parents[1]
DAG = "package_model"
RUN_TIMEOUT_S = 3600

_MARKS = {"success": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("–", "magenta")}


@dataclass
class Example:
    """One example on its way through Airflow."""

    name: str
    run: Run
    tasks: list[Task] = field(default_factory=list)
    package: Package | None = None
    record: LineageRecord | None = None

    @property
    def has_passed(self) -> bool:
        return self.package is not None and self.package.verdict is Verdict.PASSED and self.run.state == "success"


def main() -> int:
    """The whole demonstration."""
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up as on Ctrl-C
    started = time.monotonic()
    settings = Settings.from_environment()
    try:
        train(console, settings)
        where = services.up(settings, services.Ports.from_environment(), say=lambda text: console.print(Text(text)))
        with AirflowApi(where.airflow, credentials(settings)) as api:
            examples = package_all(console, api)
            show(console, examples, time.monotonic() - started)
            released = release(console, api, settings, examples)
        point_the_way(console, settings, where, examples)
    except SlipwayError as error:
        console.print(Text(f"demo: {error}", style="bold red"))
        return error.exit_code
    except KeyboardInterrupt:
        console.print("demo: stopped; the services are still up (`make down`), what finished is reused next time")
        return 130
    return exit_code(examples) or (0 if released else 1)


def release(console: Console, api: AirflowApi, settings: Settings, examples: Sequence[Example]) -> bool:
    """The second half: what was packaged takes traffic over, and something broken does not."""
    first = next((example for example in examples if example.name == MODEL), None)
    if first is None or first.package is None or not first.has_passed:
        console.print(Text(f"{MODEL} did not pass, so nothing is released", style="bold red"))
        return False
    return release_all(console, api, settings, first.package)


def train(console: Console, settings: Settings) -> None:
    """Train every example that is not trained yet, all at once.

    Raises:
        PlatformError: a training failed; the message carries its last lines.
    """
    scripts = [*sorted(ROOT.glob("examples/*/train.py")), *sorted(ROOT.glob("examples/*/*/train.py"))]
    environment = {**os.environ, "SLIPWAY_HOME": str(settings.home)}
    # One after the other where MLflow's database is not there yet: each would try to create it.
    first, rest = (scripts[:1], scripts[1:]) if _is_new(settings) else ([], scripts)
    failed: list[str] = []
    for batch in (first, rest):
        trainings = [
            subprocess.Popen(
                [sys.executable, str(script)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for script in batch
        ]
        try:
            for script, training in zip(batch, trainings, strict=True):
                said, _ = training.communicate()
                lines = said.strip().splitlines()
                if training.returncode != 0:
                    failed.append("\n".join([f"{script.relative_to(ROOT)} failed:", *lines[-15:]]))
                for line in lines:
                    if line.startswith(script.parent.name):
                        console.print(Text(line))
        finally:
            for training in trainings:
                training.kill()
                training.wait()
    if failed:
        raise PlatformError("\n".join(failed))


def package_all(console: Console, api: AirflowApi) -> list[Example]:
    """Start a run for each example and follow them all to their end."""
    specs = sorted(ROOT.glob("examples/*/model.yaml"))
    names = [load_spec(spec).name for spec in specs]
    api.wait_for_dags(DAG)
    if api.unpause(DAG):
        console.print(f"{DAG} was paused in Airflow; it is on again")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    examples: list[Example] = []
    with _stopping(api, examples):
        for name, spec in zip(names, specs, strict=True):
            run = api.trigger(DAG, {"spec": str(spec.relative_to(ROOT))}, run_id=f"demo__{name}__{stamp}")
            examples.append(Example(name, run))
        _follow(console, api, examples)
    for example in examples:
        package, record = (api.left(example.run, "register", key) for key in ("result", "lineage"))
        example.package = None if package is None else Package.model_validate(package)
        example.record = None if record is None else LineageRecord.model_validate(record)
    return examples


def show(console: Console, examples: Sequence[Example], elapsed_s: float) -> None:
    """What came out: one line per model and format, then what was found."""
    packages = [example.package for example in examples if example.package is not None]
    console.print()
    if packages:
        console.print(package_table(packages, console.width))
        console.print()
    for example in examples:
        if example.package is None:
            failed = ", ".join(task.name for task in example.tasks if task.state == "failed")
            console.print(Text(f"✗ {example.name}: no package; failed: {failed or 'nothing ran'}", style="bold red"))
            continue
        mark, style = _MARKS["success" if example.has_passed else "failed"]
        console.print(
            Text.assemble(
                (f"{mark} {example.name} {example.package.verdict}", style),
                f"  package {example.package.digest}\n  MLflow {mlflow_line(example.record)}",
            )
        )
        console.print(Group(*finding_lines(example.package.findings)))
    console.print(f"{len(examples)} models in {elapsed_s:.0f} s")


def point_the_way(console: Console, settings: Settings, where: services.Endpoints, examples: Sequence[Example]) -> None:
    """Where to look next."""
    user = credentials(settings)
    lines = [
        ("Airflow", f"{where.airflow}   user {user.name}, password in {_shown(user.file)}"),
        ("Packages", f"{where.airflow}/plugin/packages"),
        ("Releases", f"{where.airflow}/plugin/releases"),
        ("MLflow", where.mlflow),
        ("Lineage", f".venv/bin/slipway lineage {_any_digest(examples)}"),
        ("Stop", "make down   (the services are left running)"),
    ]
    table = Table.grid(padding=(0, 2))
    for what, how in lines:
        table.add_row(Text(f"  {what}", style="bold"), Text(how))
    console.print()
    console.print(table)


def exit_code(examples: Sequence[Example]) -> int:
    """0 when all passed; a platform that failed outweighs a gate."""
    if all(example.has_passed for example in examples):
        return 0
    return 1 if all(example.package is not None for example in examples) else 3


# --- following ----------------------------------------------------------------------------------------------------


def _follow(console: Console, api: AirflowApi, examples: Sequence[Example]) -> None:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    seen: set[tuple[str, str, int]] = set()
    with Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else _nothing() as live:
        while not all(example.run.is_over for example in examples):
            if time.monotonic() > deadline:
                raise PlatformError(f"the runs are not over after {RUN_TIMEOUT_S} s: see {api.url}/dags/{DAG}")
            for example in examples:
                if not example.run.is_over:
                    now = api.run(example.run)  # before its tasks: a run that is over has no further news
                    example.run, example.tasks = now, [] if now.state == "queued" else api.tasks(now)
                    _tell_finished(console, example, seen)
            if live is not None:
                live.update(_board(examples), refresh=True)
            time.sleep(0.5)


def _tell_finished(console: Console, example: Example, seen: set[tuple[str, str, int]]) -> None:
    """One line per task that is over, once."""
    for task in sorted(example.tasks, key=lambda task: (task.task_id, task.map_index)):
        key = (example.name, task.task_id, task.map_index)
        if task.state not in FINISHED_TASK or key in seen:
            continue
        seen.add(key)
        mark, style = _MARKS.get(str(task.state), ("·", "dim"))
        took = "" if task.duration_s is None else f"{task.duration_s:6.1f} s"
        console.print(Text.assemble((f"{mark} ", style), f"{example.name:<26} {task.name:<36} {took}"))


def _board(examples: Sequence[Example]) -> Table:
    """What is going on now."""
    board = Table.grid(padding=(0, 2))
    for example in examples:
        done = sum(task.state in FINISHED_TASK for task in example.tasks)
        running = ", ".join(task.name for task in example.tasks if task.state == "running")
        progress = f"{done}/{len(example.tasks)}" if example.tasks else ""
        board.add_row(
            Text(example.name, style="bold"), Text(example.run.state), Text(progress), Text(running, style="cyan")
        )
    return board


@contextlib.contextmanager
def _stopping(api: AirflowApi, examples: Sequence[Example]) -> Iterator[None]:
    """End the runs that were started when following them is broken off."""
    try:
        yield
    except BaseException:
        for example in examples:
            if not example.run.is_over:
                with contextlib.suppress(SlipwayError):
                    api.stop(example.run)
        raise


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _is_new(settings: Settings) -> bool:
    return settings.tracking_uri.startswith("sqlite:///") and not Path(settings.tracking_uri[10:]).exists()


def _any_digest(examples: Sequence[Example]) -> str:
    return next((example.package.digest for example in examples if example.package is not None), "DIGEST")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
