"""The DAGs as Airflow parses them: in a process of their own, so that what they import can be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAVY = {
    *("torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime", "onnxscript", "tf2onnx", "sklearn", "skops"),
    *("mlflow", "docker", "great_expectations", "pandas", "pyarrow"),
}

_PARSE = """
import copy, importlib.util, json, sys
from pathlib import Path

root = Path(sys.argv[1])

def parsed(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

import airflow.sdk
from airflow.sdk import DAG
before = set(sys.modules)
dags = {}
remember = DAG.__exit__
def exit(self, *error):
    dags[self.dag_id] = self
    return remember(self, *error)
DAG.__exit__ = exit
for path in sorted((root / "dags").glob("*.py")):
    parsed(path)
imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})

from airflow.providers.standard.operators.hitl import ApprovalOperator
from tasks import errors
from tasks.airflow_glue.release.assets import MAY_BE_READY, READY

def of(task, name):
    found = getattr(task, name, None)
    return task.partial_kwargs.get(name, found) if task.is_mapped else found

def decision(policy, error):
    return policy.evaluate(error, 1, 2).action.value

def described(task):
    policy = of(task, "retry_policy")
    return {
        "after": sorted(task.upstream_task_ids),
        "trigger_rule": str(getattr(of(task, "trigger_rule"), "value", of(task, "trigger_rule"))),
        "retries": of(task, "retries"),
        "on": {
            name: decision(policy, error)
            for name, error in {
                "no engine": errors.EngineUnavailable("none answers"),
                "store away": errors.StoreUnavailable("disk full"),
                "bad spec": errors.SpecError("model.yaml", ()),
                "gate": errors.GateBlocked("parity failed"),
                "bug": ValueError("a bug"),
            }.items()
        },
        "has_timeout": of(task, "execution_timeout") is not None,
        "names_cells": of(task, "map_index_template"),
        "doc": of(task, "doc_md"),
        "one_at_a_time": of(task, "max_active_tis_per_dag"),
        "deferrable": of(task, "deferrable"),
        "outlets": [outlet.name for outlet in of(task, "outlets") or []],
        "is_approval": isinstance(task, ApprovalOperator),
    }

def refused(dag, **values):
    params = copy.deepcopy(dag.params)  # resolving remembers the value
    try:
        for name, param in params.items():
            param.resolve(*[values[name]] if name in values else [])
    except Exception as error:
        return type(error).__name__
    return None

def schedule(dag):
    return getattr(dag.timetable, "_expression", None) or getattr(dag.timetable, "expression", None)

package, release, back = dags["package_model"], dags["release_model"], dags["rollback_model"]
print(json.dumps({
    "imported": imported,
    "dags": {
        dag.dag_id: {
            "tasks": {task.task_id: described(task) for task in dag.tasks},
            "catchup": dag.catchup,
            "tags": sorted(dag.tags),
            "doc": dag.doc_md,
            "max_active_runs": dag.max_active_runs,
            "schedule": schedule(dag),
            "starts_on": [asset.name for asset in getattr(dag.timetable.asset_condition, "objects", [])],
            "paused": dag.is_paused_upon_creation,
            "params": {name: {"description": param.description, **param.schema} for name, param in dag.params.items()},
        } for dag in dags.values()
    },
    "refused": {
        "a spec alone": refused(package, spec="a/model.yaml"),
        "everything": refused(package, spec="a/model.yaml", formats=["onnx"], instance_types=["c6i.large"], fresh=True),
        "no spec": refused(package),
        "an empty spec": refused(package, spec=""),
        "formats as text": refused(package, spec="a", formats="onnx"),
        "a format twice": refused(package, spec="a", formats=["onnx", "onnx"]),
        "fresh as text": refused(package, spec="a", fresh="yes"),
        "a release of nothing said": refused(release),
        "a release, all said": refused(release, model="a", version="3", port=8500, recorded="logs", approval_hours=0.5),
        "an empty model": refused(release, model=""),
        "a port as text": refused(release, model="a", port="8500"),
        "no such port": refused(release, model="a", port=70000),
        "no time to approve": refused(release, model="a", approval_hours=0),
        "a rollback": refused(back, model="a", reason="answers are odd"),
        "a rollback of nothing": refused(back),
    },
    "ready": [READY.name, MAY_BE_READY.name],
}, default=str))
"""


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All DAG files, parsed in a process of their own."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "SLIPWAY_SPECS": ""}
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, str(ROOT)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def package(parsed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parsed["dags"]["package_model"]
    return found


@pytest.fixture(scope="session")
def release(parsed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parsed["dags"]["release_model"]
    return found


@pytest.fixture(scope="session")
def nightly(parsed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parsed["dags"]["nightly_packaging"]
    return found


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert not HEAVY.intersection(parsed["imported"])


def test_there_are_exactly_these_dags(parsed: dict[str, Any]) -> None:
    assert set(parsed["dags"]) == {"package_model", "nightly_packaging", "release_model", "rollback_model"}


def test_stages_follow_each_other_in_the_pipelines_order(package: dict[str, Any]) -> None:
    after = {name: set(task["after"]) for name, task in package["tasks"].items()}
    assert after["plan"] == set()
    assert after["ingest"] == {"plan"}
    assert after["export"] == {"ingest"}
    assert after["parity"] >= {"export"}
    assert after["image"] >= {"parity"}
    assert after["smoke"] >= {"image"}
    assert after["register"] == {"smoke"}
    assert after["gate"] == {"register"}


@pytest.mark.parametrize("task", ["parity", "image", "smoke", "register", "gate"])
def test_a_failed_cell_does_not_keep_others_from_running(package: dict[str, Any], task: str) -> None:
    assert package["tasks"][task]["trigger_rule"] == "all_done"


def test_the_gate_is_the_only_leaf_so_that_no_success_hides_it(package: dict[str, Any]) -> None:
    followed = {name for task in package["tasks"].values() for name in task["after"]}
    assert set(package["tasks"]) - followed == {"gate"}


@pytest.mark.parametrize("dag", ["package_model", "nightly_packaging", "release_model", "rollback_model"])
def test_every_task_retries_what_can_heal_and_nothing_else(parsed: dict[str, Any], dag: str) -> None:
    for task in parsed["dags"][dag]["tasks"].values():
        assert task["retries"] == 2
        assert task["on"] == {
            "no engine": "retry",
            "store away": "retry",
            "bad spec": "fail",
            "gate": "fail",
            "bug": "fail",
        }


def test_every_task_that_works_ends_after_some_time(parsed: dict[str, Any]) -> None:
    without = {
        f"{dag}.{name}"
        for dag, found in parsed["dags"].items()
        for name, task in found["tasks"].items()
        if not task["has_timeout"]
    }
    assert without == {"nightly_packaging.package", "release_model.approve", "release_model.canary"}, (
        "only those that wait without a worker may take their time"
    )


@pytest.mark.parametrize("task", ["export", "parity", "image", "smoke"])
def test_cells_have_names(package: dict[str, Any], task: str) -> None:
    assert "format" in package["tasks"][task]["names_cells"]


def test_measurements_do_not_disturb_each_other(package: dict[str, Any]) -> None:
    assert package["tasks"]["smoke"]["one_at_a_time"] == 1
    assert package["max_active_runs"] == 1


def test_every_dag_and_every_task_of_ours_is_explained(parsed: dict[str, Any]) -> None:
    for dag in parsed["dags"].values():
        assert dag["doc"]
        assert "slipway" in dag["tags"]
        assert all(task["doc"] for name, task in dag["tasks"].items() if name != "package")


def test_every_parameter_has_a_title_and_a_description(parsed: dict[str, Any]) -> None:
    for dag in parsed["dags"].values():
        assert dag["params"]
        for param in dag["params"].values():
            assert param["title"]
            assert param["description"]


def test_the_form_proposes_the_examples_the_formats_and_the_instance_types(package: dict[str, Any]) -> None:
    assert "examples/digits-cnn/model.yaml" in package["params"]["spec"]["examples"]
    assert "onnx" in package["params"]["formats"]["examples"]
    assert "c6i.large" in package["params"]["instance_types"]["examples"]


@pytest.mark.parametrize(
    "values", ["a spec alone", "everything", "a release of nothing said", "a release, all said", "a rollback"]
)
def test_good_parameters_are_taken(parsed: dict[str, Any], values: str) -> None:
    assert parsed["refused"][values] is None


@pytest.mark.parametrize(
    "values",
    [
        *("no spec", "an empty spec", "formats as text", "a format twice", "fresh as text", "an empty model"),
        *("a port as text", "no such port", "no time to approve", "a rollback of nothing"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(parsed: dict[str, Any], values: str) -> None:
    assert parsed["refused"][values] == "ParamValidationError"


def test_packaging_runs_only_when_asked_to(package: dict[str, Any]) -> None:
    assert package["schedule"] is None
    assert package["paused"] is False


def test_the_night_comes_once_a_day_and_catches_nothing_up(nightly: dict[str, Any]) -> None:
    assert nightly["schedule"] == "0 2 * * *"
    assert nightly["catchup"] is False
    assert nightly["max_active_runs"] == 1


def test_the_night_holds_no_worker_while_it_waits(nightly: dict[str, Any]) -> None:
    assert nightly["tasks"]["package"]["deferrable"] is True


def test_the_summary_comes_whatever_became_of_the_runs(nightly: dict[str, Any]) -> None:
    assert nightly["tasks"]["summary"]["trigger_rule"] == "all_done"


def test_a_release_is_approved_with_shadows_evidence_before_any_user_meets_it(release: dict[str, Any]) -> None:
    after = {name: set(task["after"]) for name, task in release["tasks"].items()}
    assert after == {
        "prepare": set(),
        "shadow": {"prepare"},
        "approve": {"shadow"},
        "canary": {"approve"},
        "outcome": {"canary"},
    }
    assert [name for name, task in release["tasks"].items() if task["is_approval"]] == ["approve"]


def test_the_outcome_is_recorded_also_of_a_release_that_was_rejected(release: dict[str, Any]) -> None:
    """Reject skips every direct child whatever its trigger rule, and none further down that takes all."""
    assert release["tasks"]["outcome"]["trigger_rule"] == "all_done"
    assert "approve" not in release["tasks"]["outcome"]["after"]


def test_a_package_that_passed_can_start_its_release(parsed: dict[str, Any], release: dict[str, Any]) -> None:
    ready, may_be_ready = parsed["ready"]
    assert release["starts_on"] == [ready]
    assert parsed["dags"]["package_model"]["tasks"]["gate"]["outlets"] == [may_be_ready]
    assert release["paused"] is False


def test_a_rollback_is_one_task(parsed: dict[str, Any]) -> None:
    assert list(parsed["dags"]["rollback_model"]["tasks"]) == ["back"]
