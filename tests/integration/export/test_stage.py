"""The stage: exporters in processes of their own, crashes and hangs as findings, other formats tried, bytes stored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.contract import PackagedFile, PreprocessStep, Signature
from tasks.contracts import Artifact, EvaluationData, Owner, Verdict
from tasks.errors import BadInput, SourceError
from tasks.export import child, export
from tasks.export.outcome import Refused
from tasks.spec import ExportSpec
from tasks.store import LocalStore, Store, put_tree, read_bytes
from tests.integration.export.zoo import F32, I64, signature
from tests.samples import spec

DESCRIBED = signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch", 4)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def artifact(store: Store, folder: Path, framework: str, loader: str, described: Signature = DESCRIBED) -> Artifact:
    """What ingest would answer for the one file in `folder`."""
    files = put_tree(store, folder)
    return Artifact(
        name="model",
        framework=framework,
        loader=loader,
        root=files.files[0].path,
        files=files,
        signature=described,
        evaluation=EvaluationData(file=PackagedFile("eval.npz", files.files[0].digest, 1), rows=1, columns=("x",)),
        source_uri="model",
    )


def torch_artifact(store: Store, tmp_path: Path, forward: str) -> Artifact:
    """A state dict, and a `model.py` whose module `body.0` runs `forward`."""
    import torch

    source, code = tmp_path / "source", tmp_path / "code"
    source.mkdir()
    code.mkdir()
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 4)).state_dict(), source / "model.pt")
    text = """
        import ctypes, os, sys, time
        import torch
        from torch import nn

        class Body(nn.Linear):
            def forward(self, x):
                x = super().forward(x)
                {forward}
                return x

        def build():
            return nn.Sequential(Body(4, 4))
    """
    (code / "model.py").write_text(textwrap.dedent(text).replace("{forward}", forward))
    given = artifact(store, source, "pytorch", "torch-state-dict")
    return given.model_copy(update={"code": put_tree(store, code), "entrypoint": "model:build"})


def keras_artifact(store: Store, tmp_path: Path, layer: Callable[[], Any]) -> Artifact:
    import keras

    source = tmp_path / "source"
    source.mkdir()
    entry = keras.Input((4,), name="x")
    keras.Model(entry, layer()(entry)).save(source / "model.keras")
    return artifact(store, source, "keras", "keras")


def test_an_export_is_stored_with_its_versions_and_digests(store: Store, tmp_path: Path) -> None:
    report = export(spec(), torch_artifact(store, tmp_path, "print('noise')"), "onnx", store, tmp_path / "work")
    assert report.verdict is Verdict.PASSED
    assert report.export is not None
    assert (report.export.exporter, report.export.opset, report.export.ir_version) == ("torch.onnx", 20, 10)
    assert {"torch", "onnx", "onnxscript", "onnxruntime", "numpy"} <= set(report.export.versions)
    assert all(store.has(file.digest) for file in report.export.files.files)


@pytest.mark.parametrize("target", ["onnx", "savedmodel"])
def test_tensorflows_exports_are_the_same_bytes_again(target: str, store: Store, tmp_path: Path) -> None:
    import keras

    given = keras_artifact(store, tmp_path, lambda: keras.layers.Dense(4, activation="gelu", name="dense"))
    reports = [export(spec(), given, target, store, tmp_path / f"work{time}") for time in (1, 2)]
    digests = {report.export.files.digest for report in reports if report.export}
    assert [report.findings for report in reports] == [(), ()]
    assert len(digests) == 1


def test_pytorchs_savedmodel_is_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(store, tmp_path, "pass")
    reports = [export(spec(), given, "savedmodel", store, tmp_path / f"work{time}") for time in (1, 2)]
    assert len({report.export.files.digest for report in reports if report.export}) == 1


def test_weights_are_put_beside_the_graph_where_the_spec_says_so(store: Store, tmp_path: Path) -> None:
    import keras

    given = keras_artifact(
        store, tmp_path, lambda: keras.Sequential([keras.layers.Dense(400), keras.layers.Dense(4)], name="body")
    )
    asked = spec(export=ExportSpec(external_data=True))
    report = export(asked, given, "onnx", store, tmp_path / "work")
    assert report.export is not None
    assert [file.path for file in report.export.files.files] == ["model.onnx", "model.onnx.data"]


def test_ids_that_preprocessing_makes_are_held_against_the_table_before_it_is_compiled(
    store: Store, tmp_path: Path
) -> None:
    import torch

    source, code = tmp_path / "source", tmp_path / "code"
    source.mkdir()
    code.mkdir()
    torch.save(torch.nn.Embedding(4, 4).state_dict(), source / "model.pt")
    (code / "model.py").write_text("from torch import nn\n\n\ndef build():\n    return nn.Embedding(4, 4)\n")
    described = signature({"x": (I64, "batch")}, {"y": (F32, "batch", 4)})
    given = artifact(store, source, "pytorch", "torch-state-dict", described).model_copy(
        update={"code": put_tree(store, code), "entrypoint": "model:build"}
    )
    steps = (PreprocessStep("vocabulary", "x", values=("a", "b", "c", "d", "e")),)
    tried = child.run(given, "torch-aoti", store.uri, tmp_path / "work", preprocess=steps)
    assert isinstance(tried.result, Refused)
    assert tried.result.code == "EXPORT_INPUT_BEYOND_TABLE"
    assert "preprocessing gives 0 to 4 for input 'x'" in tried.result.message


def test_a_crash_in_native_code_is_a_finding(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(store, tmp_path, "os.write(1, b'last words'); ctypes.string_at(0)")
    report = export(spec(), given, "torch-export", store, tmp_path / "work")
    (finding,) = report.findings
    assert (report.verdict, report.export) == (Verdict.FAILED, None)
    assert (finding.code, finding.owner) == ("EXPORT_CRASHED", Owner.PLATFORM)
    assert "SIGSEGV" in finding.message
    details = read_bytes(store, PackagedFile("details", str(finding.evidence["details"]), 0)).decode()
    assert "last words" in details


def test_a_hang_is_ended_and_is_a_finding(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(store, tmp_path, "time.sleep(600)")
    tried = child.run(given, "torch-export", store.uri, tmp_path / "work", time_limit_s=12)
    assert isinstance(tried.result, Refused)
    assert tried.result.code == "EXPORT_TIMED_OUT"


def test_a_failure_says_which_formats_do_work(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(store, tmp_path, "x = torch.special.i1e(x)")
    report = export(spec(), given, "onnx", store, tmp_path / "work")
    (finding,) = report.findings
    assert (finding.code, finding.owner) == ("EXPORT_UNSUPPORTED_OPERATOR", Owner.MODEL)
    assert "0 (Body)" in finding.message
    assert "torch-export" in str(finding.evidence["working_formats"])
    assert "this model can be written as" in finding.advice
    assert "Traceback" not in finding.message


def test_what_stops_every_format_is_not_tried_again(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(store, tmp_path, "x = x if x.sum() > 0 else -x")
    report = export(spec(), given, "torch-export", store, tmp_path / "work")
    assert [finding.code for finding in report.findings] == ["EXPORT_DATA_DEPENDENT_CONTROL_FLOW"]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["export"]


def test_a_source_that_cannot_be_read_is_an_error_and_no_finding(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.keras").write_bytes(b"not a model")
    with pytest.raises(SourceError):
        export(spec(), artifact(store, source, "keras", "keras"), "savedmodel", store, tmp_path / "work")


def test_a_format_that_the_framework_cannot_give_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(store, tmp_path, "pass").model_copy(update={"framework": "sklearn"})
    with pytest.raises(BadInput, match="it gives onnx"):
        export(spec(), given, "savedmodel", store, tmp_path / "work")


def test_no_child_outlives_a_pipeline_that_was_killed(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(
        store, tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    (tmp_path / "artifact.json").write_text(given.model_dump_json())
    program = f"""
        from pathlib import Path
        from tasks.contracts import Artifact
        from tasks.export import child
        given = Artifact.model_validate_json(Path({str(tmp_path / "artifact.json")!r}).read_text())
        child.run(given, "torch-export", {store.uri!r}, Path({str(tmp_path / "work")!r}))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        worker = int(_content(tmp_path / "pid", parent))
        parent.kill()
        parent.wait()
        assert _ends(worker)
    finally:
        parent.kill()
        parent.wait()


def test_ctrl_c_ends_the_child(store: Store, tmp_path: Path) -> None:
    given = torch_artifact(
        store, tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )

    def interrupt(number: int, frame: object) -> None:
        if not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        else:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            child.run(given, "torch-export", store.uri, tmp_path / "work")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert _ends(int((tmp_path / "pid").read_text()))


def _waiting(path: Path) -> str:
    """A line that notes its process and then hangs."""
    return f"open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)"


def _content(path: Path, process: subprocess.Popen[bytes]) -> str:
    """What a file holds once it holds something."""
    while process.poll() is None:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError("the process ended first")


def _ends(process: int) -> bool:
    """Whether a process is gone, or goes soon; a zombie is gone."""
    for _ in range(200):
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
