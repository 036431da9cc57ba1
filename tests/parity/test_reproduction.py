"""The folder that a failed comparison leaves: run in a process of its own, with nothing but the folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, Signature
from tasks.contracts import Export, ParityReport
from tasks.ingest.torch_predict import TorchModel
from tasks.parity.gate import _report
from tasks.parity.reproduction import reproduction
from tasks.store import LocalStore, fetch_tree, put_tree
from tests.parity.conftest import BIAS, LINEAR, Gate, X, Y, confronted, linear, metric, model, rows

SIGNATURE = Signature((X,), (Y,), {"batch": DimRange(1, 16)})


def ran(folder: Path) -> subprocess.CompletedProcess[str]:
    """The folder's script, somewhere else than in the repository and without it."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "SLIPWAY_HOME"}}
    return subprocess.run(
        [sys.executable, str(folder / "reproduce.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )


def written(gate: Gate, report: ParityReport, folder: Path) -> Path:
    assert report.reproduction is not None
    return fetch_tree(gate.store, report.reproduction, folder)


def wrong_bias() -> bytes:
    return linear(bias=BIAS + np.array([0, 0.01, 0], dtype=np.float32))


def test_it_fails_for_the_same_reason_and_passes_with_a_good_file(gate: Gate, tmp_path: Path) -> None:
    folder = written(gate, gate(linear(), wrong_bias()), tmp_path / "elsewhere" / "folder")
    done = ran(folder)
    assert (done.returncode, done.stderr) == (1, "")
    assert "y: 1 of 3 values are wrong; the largest difference is 0.01" in done.stdout

    (folder / "export" / "model.onnx").write_bytes(linear())
    done = ran(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "y: 0 of 3 values are wrong" in done.stdout


def test_it_holds_the_one_row_that_is_wrong_and_what_each_side_said(gate: Gate, tmp_path: Path) -> None:
    data = rows(40)
    data[23] = 5.0
    rare = model(
        "net (float[batch, 4] x) => (float[batch, 3] y) "
        "{ a = Gemm (x, w, b) l = Less (a, limit) n = Where (l, a, nan) y = Identity (n) }",
        w=np.eye(4, 3, dtype=np.float32), b=np.zeros(3, np.float32),
        limit=np.float32(4.5), nan=np.float32(np.nan),
    )  # fmt: skip
    source = linear(np.eye(4, 3, dtype=np.float32), np.zeros(3, np.float32))
    folder = written(gate, gate(source, rare, {"x": data}), tmp_path / "folder")

    inputs, expected, actual = (np.load(folder / f"{name}.npz") for name in ("inputs", "expected", "actual"))
    assert inputs["x"].shape == (1, 4)
    assert np.isfinite(expected["y"]).all()
    assert np.isnan(actual["y"]).any()
    assert "PARITY_NAN" in (folder / "README.md").read_text()
    assert ran(folder).returncode == 1


def test_a_frozen_batch_is_shown_as_the_runtime_s_own_error(gate: Gate, tmp_path: Path) -> None:
    frozen = model(LINEAR.replace("float[batch, 4] x", "float[1, 4] x"), w=np.eye(4, 3, dtype=np.float32), b=BIAS)
    source = linear(np.eye(4, 3, dtype=np.float32))
    folder = written(gate, gate(source, frozen), tmp_path / "folder")
    done = ran(folder)
    assert done.returncode == 1
    assert "INVALID_ARGUMENT" in done.stderr
    assert not (folder / "actual.npz").exists()


def test_another_name_is_shown(gate: Gate, tmp_path: Path) -> None:
    renamed = model(LINEAR.replace("y", "z"), w=np.eye(4, 3, dtype=np.float32), b=BIAS)
    folder = written(gate, gate(linear(np.eye(4, 3, dtype=np.float32)), renamed), tmp_path / "folder")
    done = ran(folder)
    assert done.returncode == 1
    assert "outputs that only one side has: y, z" in done.stdout


def test_the_export_is_in_the_store_once(gate: Gate) -> None:
    report = gate(linear(), wrong_bias())
    assert report.reproduction is not None
    digests = {file.path: file.digest for file in report.reproduction.files}
    assert digests["export/model.onnx"] == gate.export(wrong_bias(), "onnx", gate.folder).files.files[0].digest


def test_what_passed_leaves_none(gate: Gate) -> None:
    assert gate(linear(), linear()).reproduction is None


def test_a_metric_that_drops_without_a_wrong_value_leaves_none(gate: Gate) -> None:
    report = gate(linear(), linear(), metrics=metric("r2", "y", 0.01))
    assert report.verdict != "passed"
    assert report.reproduction is None


# --- the other runtimes -------------------------------------------------------------------------------------------


def export_of(store: LocalStore, format: str, runtime: str, path: Path) -> Export:
    return Export(
        format=format,
        runtime=runtime,
        files=put_tree(store, path),
        root=path.name if path.is_file() else ".",
        exporter="by hand",
        versions={},
    )


def test_torch_export(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def saved(module: Any, path: Path) -> Path:
        batch = torch.export.Dim("batch", min=1, max=64)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(torch.export.export(module, (torch.zeros(2, 4),), dynamic_shapes=({0: batch},)), path)
        return path

    torch.manual_seed(0)
    good = torch.nn.Linear(4, 3).eval().requires_grad_(requires_grad=False)
    bad = torch.nn.Linear(4, 3).eval().requires_grad_(requires_grad=False)
    path = saved(bad, tmp_path / "bad" / "model.pt2")
    source = TorchModel(good, good, SIGNATURE)
    judged = confronted(source, "torch-state-dict", SIGNATURE, {"x": rows()}, "torch", path, tmp_path / "work")
    assert judged.case is not None
    store = LocalStore(tmp_path / "store")
    export = export_of(store, "torch-export", "torch", path)
    tree = reproduction(judged.case, _report(export, judged, None, None), export, SIGNATURE, store)
    folder = fetch_tree(store, tree, tmp_path / "folder")
    done = ran(folder)
    assert done.returncode == 1
    assert "3 of 3 values are wrong" in done.stdout
    saved(good, folder / "export" / "model.pt2")
    assert ran(folder).returncode == 0


def test_savedmodel(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    from tasks.ingest.savedmodel import SavedModel

    def saved(scale: float, folder: Path) -> Path:
        module = tf.Module()
        serve = tf.function(
            lambda x: {"y": x[:, :3] * scale}, input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")]
        )
        module.serve = serve
        tf.saved_model.save(module, str(folder), signatures=module.serve)
        return folder

    source = SavedModel(tf.saved_model.load(str(saved(1.0, tmp_path / "good"))), SIGNATURE)
    path = saved(1.01, tmp_path / "bad")
    judged = confronted(source, "savedmodel", SIGNATURE, {"x": rows()}, "tensorflow", path, tmp_path / "work")
    assert judged.case is not None
    store = LocalStore(tmp_path / "store")
    export = export_of(store, "savedmodel", "tensorflow", path)
    tree = reproduction(judged.case, _report(export, judged, None, None), export, SIGNATURE, store)
    folder = fetch_tree(store, tree, tmp_path / "folder")
    done = ran(folder)
    assert done.returncode == 1
    assert "3 of 3 values are wrong" in done.stdout
    shutil.rmtree(folder / "export")
    shutil.copytree(tmp_path / "good", folder / "export")
    assert ran(folder).returncode == 0
