"""Releases through Airflow, with the real router and real servers: approved, rejected, killed in the middle, back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import processes
from scripts.airflow_api import SETTLES_S, Run
from scripts.airflow_home import airflow_environment
from scripts.services import AIRFLOW_COMMANDS
from scripts.users import Users, rows_of
from tasks.contracts import Package, Verdict
from tasks.release import controller
from tasks.release.contracts import Phase, Release
from tests.e2e.conftest import PREFIX, RUN_TIMEOUT_S, Slipway

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

RELEASE, ROLLBACK = "release_model", "rollback_model"
MODEL = f"{PREFIX}released"

#: Few steps, and half of the users at once, so that the evidence decides soon.
_SPEC = """\
release:
  steps: [50, 100]
  bake: 5s
  extend: 2m
  min_requests: 50
  shadow: {{agreement: 0.9}}
  automatic: {automatic}
  approval: {approval}
"""


@dataclass(frozen=True)
class First:
    """The model's first package, and the release that it started by itself."""

    package: Package
    run: Run


@pytest.fixture(scope="module")
def folder(slipway: Slipway) -> Path:
    """The example with its three versions, trained, under this test's name."""
    folder = slipway.models / MODEL
    shutil.copytree(slipway.models / ".trained" / "digits-cnn", folder)
    _retrain(folder, slipway)
    return folder


@pytest.fixture(scope="module")
def first(slipway: Slipway, folder: Path) -> First:
    package = _packaged(slipway, folder / "model.yaml", automatic=True, approval=False)
    return First(package, _automatic(slipway))


@pytest.fixture(scope="module")
def retrained(slipway: Slipway, folder: Path, first: First) -> Package:
    return _packaged(slipway, folder / "retrained.yaml", automatic=False, approval=True)


@pytest.fixture(scope="module")
def rescaled(slipway: Slipway, folder: Path, retrained: Package) -> Package:
    """Its scale does not fit what users send; all of its own evidence agrees."""
    return _packaged(slipway, folder / "rescaled.yaml", automatic=False, approval=False)


@pytest.fixture(scope="module")
def users(slipway: Slipway, folder: Path, first: First) -> Iterator[Users]:
    """Somebody asks all the time, once the first version serves."""
    rows = rows_of(folder / "artifacts" / "eval.npz", "pixels")
    with Users(_serving_port(slipway), f"/v2/models/{MODEL}/infer", rows, p99_ms=5000, rate=80) as users:
        yield users


@pytest.fixture(scope="module")
def rejected(slipway: Slipway, users: Users, retrained: Package) -> Run:
    run = _start(slipway, retrained)
    _answer(slipway, run, "Reject", "not on a Friday")
    return slipway.api.wait(run, RUN_TIMEOUT_S)


@pytest.fixture(scope="module")
def promoted(slipway: Slipway, rejected: Run, retrained: Package) -> Run:
    """Approved; and the triggerer is killed while the canary bakes."""
    run = _start(slipway, retrained)
    _answer(slipway, run, "Approve", "looked at shadow")
    _wait_for(slipway, run, "canary", "deferred")
    _kill_the_triggerer(slipway)
    return slipway.api.wait(run, RUN_TIMEOUT_S)


@pytest.fixture(scope="module")
def rolled_back(slipway: Slipway, promoted: Run, rescaled: Package) -> Run:
    return slipway.api.wait(_start(slipway, rescaled), RUN_TIMEOUT_S)


def test_a_package_that_passed_starts_its_release_where_the_spec_says_so(slipway: Slipway, first: First) -> None:
    assert first.run.state == "success"
    assert slipway.states(first.run)["outcome"] == "success"


def test_with_automatic_false_nothing_starts(slipway: Slipway, retrained: Package) -> None:
    started = [run for run in slipway.api.runs(RELEASE) if run.run_id.startswith("asset_triggered")]
    assert len(started) == 1


def test_a_rejection_is_recorded_with_who_and_why_and_fails_the_run(slipway: Slipway, rejected: Run) -> None:
    states = slipway.states(rejected)
    assert rejected.state == "failed"
    assert (states["approve"], states["canary"], states["outcome"]) == ("success", "skipped", "failed")
    release = _left(slipway, rejected)
    assert release.phase is Phase.REFUSED
    (finding,) = release.findings
    assert finding.code == "RELEASE_REJECTED"
    assert "admin" in finding.message
    assert "not on a Friday" in finding.message


def test_a_person_is_asked_with_the_evidence(slipway: Slipway, rejected: Run, first: First, retrained: Package) -> None:
    body = slipway.api.question(rejected, "approve")
    assert body is not None
    assert retrained.digest in body
    assert first.package.digest in body
    assert "Shadow: passed" in body


def test_an_approved_release_is_promoted_also_where_the_triggerer_was_killed(slipway: Slipway, promoted: Run) -> None:
    assert promoted.state == "success", slipway.api.log(promoted, "outcome")
    assert _left(slipway, promoted).phase is Phase.PROMOTED
    standing = controller.standing(MODEL, slipway.settings)
    assert standing is not None
    assert standing.serving is not None
    assert standing.serving.release == _left(slipway, promoted).id


def test_a_package_that_answers_otherwise_is_rolled_back_and_fails_the_run(
    slipway: Slipway, rolled_back: Run, retrained: Package
) -> None:
    assert rolled_back.state == "failed"
    assert slipway.states(rolled_back)["canary"] == "failed"
    release = _left(slipway, rolled_back)
    assert release.phase is Phase.ROLLED_BACK
    assert any(finding.code in slipway.api.log(rolled_back, "outcome") for finding in release.findings)
    assert _serves(slipway) == retrained.digest


def test_no_user_saw_an_error(users: Users, rolled_back: Run) -> None:
    assert users.asked.requests > 1000
    assert users.asked.failed == 0


def test_the_page_shows_what_serves_and_how_it_came_to_that(slipway: Slipway, rolled_back: Run) -> None:
    page = slipway.page("/slipway/releases").text
    assert MODEL in page
    assert "rolled back" in page
    assert "promoted" in page


def test_the_package_before_comes_back_when_somebody_asks(slipway: Slipway, rolled_back: Run) -> None:
    run = slipway.api.wait(slipway.api.trigger(ROLLBACK, {"model": MODEL, "reason": "answers are odd"}), RUN_TIMEOUT_S)
    assert run.state == "success"
    assert _serves(slipway) is not None


# --- what the tests do --------------------------------------------------------------------------------------------


def _retrain(folder: Path, slipway: Slipway) -> None:
    shutil.copy(Path(__file__).parents[2] / "examples" / "training.py", folder.parent)
    environment = {**os.environ, "SLIPWAY_HOME": str(slipway.settings.home)}
    subprocess.run(
        [sys.executable, str(folder / "retrained" / "train.py")],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )


def _packaged(slipway: Slipway, spec: Path, *, automatic: bool, approval: bool) -> Package:
    _adapt(spec, automatic=automatic, approval=approval)
    package = slipway.package_of(slipway.package(spec))
    assert package is not None
    assert package.verdict is Verdict.PASSED, package.findings
    return package


def _adapt(spec: Path, *, automatic: bool, approval: bool) -> None:
    """The example's spec under this test's name, in one format, with wide budgets and short steps."""
    text = spec.read_text().partition("release:")[0].replace("name: digits-cnn", f"name: {MODEL}")
    text = text.replace("[onnx, onnx-int8, savedmodel, torch-export]", "[onnx]").replace(", c4.large", "")
    text = text.replace("p99_ms: 100, cold_start_s: 10", "p99_ms: 5000, cold_start_s: 120")
    said = {True: "true", False: "false"}
    spec.write_text(text + _SPEC.format(automatic=said[automatic], approval=said[approval]))


def _automatic(slipway: Slipway) -> Run:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while not (runs := slipway.api.runs(RELEASE)):
        assert time.monotonic() < deadline, "no release was started"
        time.sleep(0.5)
    return slipway.api.wait(runs[0], RUN_TIMEOUT_S)


def _start(slipway: Slipway, package: Package) -> Run:
    return slipway.api.trigger(RELEASE, {"model": MODEL, "version": package.digest})


def _answer(slipway: Slipway, run: Run, option: str, reason: str) -> None:
    _wait_for(slipway, run, "approve", "awaiting_input")
    time.sleep(SETTLES_S)
    slipway.api.answer(run, "approve", option, reason)


def _wait_for(slipway: Slipway, run: Run, task_id: str, state: str) -> None:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while slipway.states(run).get(task_id) != state:
        assert not slipway.api.run(run).is_over, f"the run was over before {task_id} was {state}: {slipway.states(run)}"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _kill_the_triggerer(slipway: Slipway) -> None:
    """Kill it as a machine would, and start it again as `make up` does."""
    name, settings = "airflow-triggerer", slipway.settings
    process = processes.running(settings.home, name)
    assert process is not None
    os.killpg(process.session, signal.SIGKILL)
    port = int(slipway.where.airflow.rpartition(":")[2])
    processes.launch(
        name,
        AIRFLOW_COMMANDS[name],
        home=settings.home,
        environment=airflow_environment(settings, port, slipway.where.mlflow, os.environ),
        log=settings.home / "logs" / f"{name}.log",
        folder=settings.home,
    )


def _left(slipway: Slipway, run: Run) -> Release:
    return Release.model_validate(slipway.api.left(run, "outcome", "result"))


def _serves(slipway: Slipway) -> str | None:
    standing = controller.standing(MODEL, slipway.settings)
    return standing.serving.current.package if standing and standing.serving else None


def _serving_port(slipway: Slipway) -> int:
    standing = controller.standing(MODEL, slipway.settings)
    assert standing is not None
    assert standing.serving is not None
    return standing.serving.port
