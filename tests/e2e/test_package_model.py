"""Models packaged by a real Airflow, from the trigger to the gate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from scripts.airflow_api import Run
from tasks.contracts import LineageRecord, Package, Verdict
from tests.e2e.conftest import PREFIX, Slipway
from tests.node import score

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

DIGITS_FORMATS = ("onnx", "onnx-int8", "savedmodel", "torch-export")
DIGITS_CELLS = {f"{name} × {kind}" for name in DIGITS_FORMATS for kind in ("this-machine", "half-of-it")}


@pytest.fixture(scope="module")
def digits(slipway: Slipway) -> Run:
    """The digits model, in four formats on two instance types, packaged once."""
    return slipway.package(slipway.model("digits-cnn", f"{PREFIX}digits"))


@pytest.fixture(scope="module")
def half_exportable(slipway: Slipway) -> Run:
    """A model with an operator that ONNX has no word for, in two formats."""
    return slipway.package(_bessel_model(slipway.models / f"{PREFIX}bessel"))


def test_a_model_is_packaged_from_the_trained_artifact_to_the_gate(slipway: Slipway, digits: Run) -> None:
    assert digits.state == "success", slipway.states(digits)
    package = slipway.package_of(digits)
    assert package is not None
    assert package.verdict is Verdict.PASSED
    assert {image.format for image in package.images} == set(DIGITS_FORMATS)
    assert {f"{report.format} × {report.instance_type}" for report in package.smoke} == DIGITS_CELLS


def test_every_cell_has_a_name_in_the_grid(slipway: Slipway, digits: Run) -> None:
    states = slipway.states(digits)
    for stage in ("export", "parity", "image"):
        assert {f"{stage} {name}" for name in DIGITS_FORMATS} <= set(states)
    assert {f"smoke {cell}" for cell in DIGITS_CELLS} <= set(states)


def test_mlflow_has_the_package_and_a_candidate(slipway: Slipway, digits: Run) -> None:
    package = slipway.package_of(digits)
    assert package is not None
    record = LineageRecord.model_validate(slipway.api.left(digits, "register", "lineage"))
    asked = httpx.get(
        f"{slipway.where.mlflow}/api/2.0/mlflow/registered-models/alias",
        params={"name": record.model_name, "alias": "candidate"},
        trust_env=False,
    )
    version = asked.json()["model_version"]
    assert version["version"] == record.model_version
    assert {"key": "slipway.package", "value": package.digest} in version["tags"]


def test_the_log_says_what_was_measured(slipway: Slipway, digits: Run) -> None:
    task = next(task for task in slipway.api.tasks(digits) if task.name == "smoke onnx × this-machine")
    log = slipway.api.log(digits, "smoke", task.map_index)
    assert "cold start" in log
    assert "p99" in log


def test_the_same_again_reuses_every_stage_and_gives_the_same_package(slipway: Slipway, digits: Run) -> None:
    again = slipway.package(slipway.models / f"{PREFIX}digits" / "model.yaml")
    assert again.state == "success"
    assert _digest(slipway.package_of(again)) == _digest(slipway.package_of(digits))
    for task in slipway.api.tasks(again):
        if task.task_id in {"ingest", "export", "parity", "image", "smoke"}:
            assert slipway.api.left(again, task.task_id, "result", task.map_index)["reused"], task.name


@pytest.fixture(scope="module")
def bundle(slipway: Slipway, digits: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `slipway bundle` writes of the digits model."""
    assert digits.state == "success", slipway.states(digits)
    out = tmp_path_factory.mktemp("bundle") / "digits"
    command = [Path(sys.executable).with_name("slipway"), "bundle", f"{PREFIX}digits", out, "--format", "onnx"]
    subprocess.run(command, env={**os.environ, "SLIPWAY_HOME": str(slipway.settings.home)}, check=True)
    return out


def test_its_bundle_gives_the_golden_answers_in_javascript(bundle: Path) -> None:
    done = score(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as the source model's" in done.stdout


def test_javascript_does_not_take_another_answer_for_the_golden_one(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "changed")
    path = tmp_path / "changed" / "golden" / "outputs" / "logits.npy"
    logits = np.load(path)
    logits[3, 7] += np.float32(0.01)
    np.save(path, logits)
    done = score(tmp_path / "changed")
    assert done.returncode == 1
    assert "NOT the source model's" in done.stdout


def test_the_form_narrows_formats_and_instance_types(slipway: Slipway, digits: Run) -> None:
    spec = slipway.models / f"{PREFIX}digits" / "model.yaml"
    run = slipway.package(spec, formats=["onnx"], instance_types=["this-machine"])
    assert run.state == "success"
    assert [name for name in slipway.states(run) if name.startswith("smoke")] == ["smoke onnx × this-machine"]


def test_one_format_that_fails_does_not_stop_the_others(slipway: Slipway, half_exportable: Run) -> None:
    states = slipway.states(half_exportable)
    assert states["export onnx"] == "failed"
    assert states["parity onnx"] == states["image onnx"] == states["smoke onnx × this-machine"] == "skipped"
    for cell in (
        "export torch-export",
        "parity torch-export",
        "image torch-export",
        "smoke torch-export × this-machine",
    ):
        assert states[cell] == "success", cell


def test_a_run_fails_when_its_gate_does_and_says_why(slipway: Slipway, half_exportable: Run) -> None:
    assert half_exportable.state == "failed"
    assert slipway.states(half_exportable)["register"] == "success"
    assert "EXPORT_" in slipway.api.log(half_exportable, "gate")


def test_a_skipped_cell_says_which_finding_it_was_skipped_for(slipway: Slipway, half_exportable: Run) -> None:
    package = slipway.package_of(half_exportable)
    assert package is not None
    code = next(finding.code for finding in package.findings if finding.verdict is Verdict.FAILED)
    task = next(task for task in slipway.api.tasks(half_exportable) if task.name == "smoke onnx × this-machine")
    assert code in slipway.api.log(half_exportable, "smoke", task.map_index)


def test_a_gate_that_failed_is_not_tried_again(slipway: Slipway, half_exportable: Run) -> None:
    assert all(task.try_number <= 1 for task in slipway.api.tasks(half_exportable))


def test_a_bad_spec_fails_at_once_with_its_line(slipway: Slipway, tmp_path: Path) -> None:
    spec = tmp_path / "model.yaml"
    spec.write_text("name: x\nowner: me\nfromats: [onnx]\n")
    run = slipway.package(spec)
    assert run.state == "failed"
    (plan,) = [task for task in slipway.api.tasks(run) if task.task_id == "plan"]
    assert (plan.state, plan.try_number) == ("failed", 1)
    assert f"{spec}:3: fromats" in slipway.api.log(run, "plan")
    assert "plan failed" in slipway.api.log(run, "gate")


def test_a_source_that_is_not_there_fails_at_once(slipway: Slipway) -> None:
    spec = slipway.model("breast-cancer-classifier", f"{PREFIX}unreadable")
    (spec.parent / "artifacts" / "breast-cancer.skops").write_bytes(b"no archive at all")
    run = slipway.package(spec)
    (ingest,) = [task for task in slipway.api.tasks(run) if task.task_id == "ingest"]
    assert run.state == "failed"
    assert (ingest.state, ingest.try_number) == ("failed", 1)


def _digest(package: Package | None) -> str:
    assert package is not None
    return package.digest


def _bessel_model(folder: Path) -> Path:
    import torch

    folder.mkdir()
    (folder / "model.py").write_text(
        "import torch\n\n\n"
        "class Bessel(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(4, 3)\n\n"
        "    def forward(self, values):\n"
        "        return torch.special.bessel_j0(self.linear(values))\n\n\n"
        "def build():\n    return Bessel()\n"
    )
    torch.manual_seed(7)
    linear = torch.nn.Linear(4, 3)
    torch.save({f"linear.{name}": value for name, value in linear.state_dict().items()}, folder / "bessel.pt")
    values = torch.randn(300, 4)  # a point of accuracy takes 268 rows
    with torch.inference_mode():
        labels = torch.special.bessel_j0(linear(values)).argmax(1)
    np.savez(folder / "eval.npz", values=values.numpy(), label=labels.numpy())
    spec = folder / "model.yaml"
    spec.write_text(
        f"""\
name: {folder.name}
owner: e2e@example.com
source: {{uri: bessel.pt, framework: pytorch, entrypoint: "model:build"}}
inputs:
  - {{name: values, dtype: float32, shape: [batch, 4]}}
outputs:
  - {{name: scores, dtype: float32, shape: [batch, 3]}}
dynamic:
  batch: {{min: 1, max: 64}}
evaluation:
  data: eval.npz
  metrics:
    - {{name: accuracy, output: scores, label: label, max_drop: 0.01}}
formats: [onnx, torch-export]
serving: {{format: torch-export, p99_ms: 5000, cold_start_s: 120}}
smoke: {{instance_types: [this-machine]}}
"""
    )
    return spec
