"""`slipway verify`: exports that somebody else made, held against their source; nothing of them is run on trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.export.calibration import batches
from tasks.export.conversion import Source
from tasks.export.formats import exporter_of
from tasks.spec import ExportSpec, Int8
from tests.integration import tiny

SLIPWAY = Path(sys.executable).with_name("slipway")

SPEC = """
name: tiny
owner: tests@example.com
source: {uri: source.onnx, framework: onnx}
inputs:
  - {name: x, dtype: float32, shape: [batch, 6]}
outputs:
  - {name: y, dtype: float32, shape: [batch, 3]}
  - {name: n, dtype: int64, shape: [batch]}
dynamic:
  batch: {min: 1, max: 64}
preprocess:
  - {op: cast, input: x, source_dtype: uint8}
  - {op: scale, input: x, by: 0.25, offset: -8.0}
evaluation:
  data: eval.npz
  metrics:
    - {name: rmse, output: y, label: target, max_drop: 5}
formats: [onnx]
smoke: {instance_types: [this-machine]}
"""


@dataclass(frozen=True)
class Desk:
    """A spec with its source, and a home that its questions share."""

    folder: Path

    def verify(self, format: str, artifact: Path, *more: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "MLFLOW_"))}
        return subprocess.run(
            [SLIPWAY, "verify", self.folder, "--format", format, "--artifact", artifact, *more],
            capture_output=True,
            text=True,
            check=False,
            env={**kept, "SLIPWAY_HOME": str(self.folder / "home"), "COLUMNS": "160"},
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "model.yaml").write_text(SPEC)
    tiny.write_onnx(folder)
    (folder / "model.onnx").rename(folder / "source.onnx")
    raw = tiny.raw_samples(64)
    np.savez(folder / "eval.npz", x=raw, target=tiny.answer_raw(raw)["y"])
    return Desk(folder)


def made_elsewhere(runtime: str, folder: Path) -> Path:
    tiny.RUNTIMES[runtime](folder)
    return tiny.TinyModel(runtime, folder).path


@pytest.mark.parametrize("runtime", tiny.RUNTIMES)
def test_an_export_that_answers_as_its_source_passes(runtime: str, desk: Desk, tmp_path: Path) -> None:
    done = desk.verify(tiny.FORMATS[runtime], made_elsewhere(runtime, tmp_path), "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["reproduction"] is None
    report = json.loads(done.stdout)["report"]
    assert report["verdict"] == "passed"
    assert {output["name"] for output in report["outputs"]} == {"y", "n"}


def test_a_weight_that_changed_is_blocked_with_the_reason(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "W2", tiny.W2 * np.float32(1.001))
    done = desk.verify("onnx", made_elsewhere("onnx", tmp_path), "--report", str(tmp_path / "report.html"))
    assert done.returncode == 1
    assert "onnx failed" in done.stdout
    assert "PARITY_TENSOR_DIFFERS" in done.stdout
    assert "PARITY_TENSOR_DIFFERS" in (tmp_path / "report.html").read_text()
    shown = done.stdout.splitlines()[-1]
    assert shown.startswith("to see onnx fail by itself: python ")
    assert "values are wrong" in _run(shown.rpartition(" ")[2])
    again = desk.verify("onnx", tmp_path / "model.onnx", "--json")
    assert shown.endswith(str(Path(json.loads(again.stdout)["reproduction"]) / "reproduce.py"))


def _run(script: str) -> str:
    """With the runtime alone: nothing of Slipway is on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    return done.stdout


# --- reduced precision --------------------------------------------------------------------------------------------


def reduced_elsewhere(format: str, folder: Path) -> Path:
    """The tiny model as Slipway's exporter reduces it: whoever made it, `verify` sees a file."""
    made_elsewhere("onnx", folder)
    raw = tiny.raw_samples(64).astype(np.float32) * np.float32(0.25) - np.float32(8)
    source: Any = Source(
        None,  # type: ignore[arg-type]
        folder / "model.onnx",
        "onnx",
        ExportSpec(int8=Int8.STATIC),
        lambda: batches({"x": raw}, tiny.SIGNATURE),
    )
    out = folder / "reduced"
    out.mkdir()
    return out / exporter_of(format, "onnx")(source, tiny.SIGNATURE, out).root


def weight_times(factor: float, path: Path) -> Path:
    """The scale of the file's first quantised weight, or its largest weight, is so many times what it was."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    quantised = next((node for node in model.graph.node if node.input[0].startswith("w")), None)
    held = {item.name: item for item in model.graph.initializer}
    name = quantised.input[1] if quantised is not None and quantised.op_type == "DequantizeLinear" else "w1"
    array = numpy_helper.to_array(held[name])
    held[name].CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))
    onnx.save(model, path)
    return path


REDUCED = ("onnx-int8", "onnx-fp16")


@pytest.mark.parametrize("format", REDUCED)
def test_a_faithful_file_of_reduced_precision_passes(format: str, desk: Desk, tmp_path: Path) -> None:
    done = desk.verify(format, reduced_elsewhere(format, tmp_path), "--json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)["report"]
    assert (report["format"], report["verdict"]) == (format, "passed")
    assert report["outputs"][0]["tolerance"]["atol"] > 1e-3  # measured by the format's own rounding


@pytest.mark.parametrize("format", REDUCED)
def test_reduced_precision_excuses_no_wrong_scale(format: str, desk: Desk, tmp_path: Path) -> None:
    done = desk.verify(format, weight_times(2, reduced_elsewhere(format, tmp_path)), "--json")
    assert done.returncode == 1
    findings = json.loads(done.stdout)["report"]["findings"]
    assert "PARITY_TENSOR_DIFFERS" in [finding["code"] for finding in findings]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_files_beside_the_graph_are_taken_along(desk: Desk, tmp_path: Path) -> None:
    import onnx

    path = made_elsewhere("onnx", tmp_path)
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, all_tensors_to_one_file=True, location="w", size_threshold=64
    )
    assert desk.verify("onnx", tmp_path).returncode == 0
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-8])
    done = desk.verify("onnx", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "copy it again" in done.stderr


def test_a_file_that_reads_elsewhere_is_not_opened(desk: Desk, tmp_path: Path) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    path = made_elsewhere("onnx", tmp_path)
    model = onnx.load(path)
    weight = next(item for item in model.graph.initializer if item.name == "w1")
    set_external_data(weight, "../outside")
    weight.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    done = desk.verify("onnx", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "outside the model's folder" in done.stderr


def test_a_savedmodel_that_writes_files_is_not_opened(desk: Desk, tmp_path: Path) -> None:
    import tensorflow as tf

    mark, folder = tmp_path / "mark", tmp_path / "model"

    class Hostile(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, tiny.IN], tf.float32, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            tf.io.write_file(str(mark), "it ran")
            return {"y": x[:, : tiny.OUT], "n": tf.reduce_sum(tf.cast(x > 0, tf.int64), 1)}

    model = Hostile()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})
    done = desk.verify("savedmodel", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "outside the model" in done.stderr
    assert not mark.exists()


BAD = {
    "no such file": ("onnx", "nowhere.onnx", "there is no such file"),
    "no such format": ("onxx", "source.onnx", "there is no format 'onxx'"),
    "native code": ("torch-aoti", "source.onnx", "native code that runs when it is opened"),
    "no SavedModel": ("savedmodel", ".", "saved_model.pb"),
    "several files": ("torch-export", ".", "expected a .pt2 file"),
    "no model at all": ("onnx", "model.yaml", "no ONNX model"),
}


@pytest.mark.parametrize(("format", "artifact", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_one_sentence(desk: Desk, format: str, artifact: str, said: str) -> None:
    done = desk.verify(format, desk.folder / artifact)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
