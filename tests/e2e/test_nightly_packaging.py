"""The night, run by a real Airflow over a folder with an unchanged, a changed and a broken model."""

from __future__ import annotations

import pytest

from scripts.airflow_api import Run
from tests.e2e.conftest import NIGHTLY, PACKAGE, PREFIX, RUN_TIMEOUT_S, Slipway

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

EXAMPLE = "breast-cancer-classifier"
CHANGED, UNCHANGED = f"{PREFIX}night-changed", f"{PREFIX}night-unchanged"


@pytest.fixture(scope="module")
def night(slipway: Slipway) -> Run:
    unchanged = slipway.model(EXAMPLE, UNCHANGED)
    changed = slipway.model(EXAMPLE, CHANGED)
    for spec in (unchanged, changed):
        assert slipway.package(spec).state == "success"
    changed.write_text(changed.read_text().replace("max_drop: 0.01", "max_drop: 0.02"))
    broken = slipway.models / f"{PREFIX}night-broken" / "model.yaml"
    broken.parent.mkdir()
    broken.write_text("name: broken\n")
    run = slipway.api.trigger(NIGHTLY, {"specs": [str(spec) for spec in (unchanged, changed, broken)]})
    return slipway.api.wait(run, RUN_TIMEOUT_S)


def test_only_what_changed_is_packaged(slipway: Slipway, night: Run) -> None:
    triggered = [run.run_id for run in slipway.api.runs(PACKAGE) if night.run_id in run.run_id]
    assert triggered == [f"{CHANGED}__{night.run_id}"]


def test_a_broken_spec_does_not_keep_others_from_being_packaged(slipway: Slipway, night: Run) -> None:
    states = slipway.states(night)
    assert states["find_changed"] == "success"
    assert [state for name, state in states.items() if name.startswith("package")] == ["success"]


def test_the_summary_tells_of_every_model_and_fails_for_the_broken_one(slipway: Slipway, night: Run) -> None:
    assert night.state == "failed"
    lines = slipway.api.left(night, "summary", "table").splitlines()
    assert any(CHANGED in line and "| changed | passed |" in line for line in lines)
    assert any(UNCHANGED in line and "| unchanged | passed |" in line for line in lines)
    assert any("| broken | not packaged |" in line for line in lines)


def test_a_night_in_which_nothing_changed_packages_nothing_and_succeeds(slipway: Slipway, night: Run) -> None:
    specs = [str(slipway.models / name / "model.yaml") for name in (CHANGED, UNCHANGED)]
    run = slipway.api.wait(slipway.api.trigger(NIGHTLY, {"specs": specs}), RUN_TIMEOUT_S)
    assert run.state == "success"
    assert not [found for found in slipway.api.runs(PACKAGE) if run.run_id in found.run_id]
