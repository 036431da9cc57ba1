"""A model above 2 GB (protocol buffers' limit) through the pipeline, and what stops it when one bit of it is turned.

    .venv/bin/python benchmarks/large_model.py            from an ONNX file with external data, then from PyTorch
    .venv/bin/python benchmarks/large_model.py onnx       only that one

A table of embeddings of 2.4 GB: large to move and cheap to ask, so that figures are of moving. Every step is timed,
with the most memory that this process and its children held of their own at once (mapped files, which the kernel may
drop, are not counted). The bit is turned in a row that nobody asks for: answers cannot show it, digests must. Parity
and image follow from the ONNX source alone: parity of PyTorch sources makes a float64 twin, 12 GB here, where there are
as many.

It needs 25 GB of disk, 8 GB of memory and Docker, and removes all that it made.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.contract import DimRange, DType, TensorSpec
from tasks.contracts import Artifact, Export, ParityReport, Verdict
from tasks.errors import CorruptObject
from tasks.settings import Settings
from tasks.spec import EvaluationSpec, Framework, MetricSpec, ModelSpec, SmokeSpec, SourceSpec
from tasks.store import LocalStore
from tasks.workspace import scratch

ROWS, WIDTH, IDS, CLASSES = 2_400_000, 256, 8, 2
TABLE_BYTES = ROWS * WIDTH * 4
#: The last row of the table is asked for by nobody; evaluation data and random rows stay below.
ASKED_ROWS = 1_000_000
_BLOCK = 100_000
_DISK_BYTES, _MEMORY_BYTES = 25 << 30, 8 << 30
_SAMPLE_EVERY_S = 0.05
_MODEL_PY = f"""
import torch


class Rows(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding({ROWS}, {WIDTH})
        self.head = torch.nn.Linear({WIDTH}, {CLASSES})

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


def build():
    return Rows()
"""
_T = TypeVar("_T")


class StartRefused(Exception):
    """The container did not start, and why."""


@dataclass
class Figures:
    """What each step took."""

    title: str
    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def step(self, name: str, work: Callable[[], _T], size: Callable[[_T], int] = lambda _: 0) -> _T:
        """Do a step that must succeed."""
        with _peak() as peak:
            began = time.monotonic()
            result = work()
            seconds = time.monotonic() - began
        self._add(name, size(result), seconds, peak[0], "")
        return result

    def stopped(self, name: str, work: Callable[[], object]) -> None:
        """Do a step that a digest must stop."""
        what = ""
        with _peak() as peak:
            began = time.monotonic()
            try:
                work()
            except (CorruptObject, StartRefused) as error:
                what = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - began
        if not what:
            raise SystemExit(f"{name}: nothing stopped it")
        self._add(name, 0, seconds, peak[0], what if len(what) < 90 else f"{what[:89]}…")

    def _add(self, name: str, size: int, seconds: float, peak: int, what: str) -> None:
        gc.collect()
        self.rows.append((name, _gb(size) if size else "", f"{seconds:.1f}", _gb(peak), what))
        print(f"{self.title}: {name}: {seconds:.1f} s, {_gb(peak)} GB  {what}", flush=True)

    def show(self) -> None:
        table = Table("step", "GB", "seconds", "peak GB", "stopped by", title=self.title)
        for row in self.rows:
            table.add_row(*row)
        Console(width=170).print(table)


def main() -> int:
    """Exit code 1 where something that was altered got through, 3 where this machine is too small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["onnx", "pytorch"], metavar="onnx|pytorch")
    settings = Settings.from_environment()
    settings.work.mkdir(parents=True, exist_ok=True)
    free, memory = shutil.disk_usage(settings.work).free, _available_bytes()
    if free < _DISK_BYTES or memory < _MEMORY_BYTES:
        print(f"this needs 25 GB of disk and 8 GB of memory; here are {_gb(free)} and {_gb(memory)} GB free")
        return 3
    done = []
    for source in parser.parse_args().sources:
        with scratch(settings.work) as work:
            done.append({"onnx": from_onnx, "pytorch": from_pytorch}[source](work))
    for figures in done:
        figures.show()
    return 0


def from_onnx(work: Path) -> Figures:
    """Every stage up to a container that opens the model."""
    from tasks.image import ContainerSpec, build, connect, run
    from tasks.parity import check

    figures = Figures("ONNX source with external data")
    figures.step("make the model", lambda: _write_onnx(work / "model"), _size)
    spec, settings, store = _spec(work / "model", "model.onnx", Framework.ONNX), _settings(work), _store(work)
    artifact, exported = _ingest_and_export(figures, spec, settings, store, work)

    def parity(number: int) -> ParityReport:
        return check(spec, artifact, exported, store, work / f"parity-{number}")

    report = figures.step("parity", lambda: parity(0))
    shutil.rmtree(work / "parity-0")
    if report.verdict is not Verdict.PASSED:
        raise SystemExit(f"parity is {report.verdict}: {[finding.message for finding in report.findings]}")
    engine = connect()
    real = Settings.from_environment()
    image = figures.step(
        "image", lambda: build(spec, artifact, exported, report, store, engine, real), lambda image: image.model_bytes
    )
    name = f"slipway-large-model-{image.digest[7:19]}"
    try:
        container = ContainerSpec(image.digest, name, "large-model", ("selftest",), memory_bytes=_MEMORY_BYTES)

        def start(mounts: Mapping[Path, str]) -> None:
            done = run(engine, replace(container, mounts=mounts), 600)
            if done.state.exit_code != 0:
                last = json.loads(done.logs.strip().splitlines()[-1])
                raise StartRefused(f"exit code {done.state.exit_code}: {last.get('error', last)}")

        figures.step("container start", lambda: start({}))
        data = next(file for file in exported.files.files if file.path.endswith(".data"))
        with _turned(store, data.digest) as path:
            figures.stopped("one bit turned, then export", lambda: _export_again(spec, artifact, store, work))
            figures.stopped("… then parity", lambda: parity(1))
            other = spec.model_copy(update={"name": f"{spec.name}-altered"})
            figures.stopped("… then image", lambda: build(other, artifact, exported, report, store, engine, real))
            figures.stopped("… then container start", lambda: start({path: f"/package/model/{data.path}"}))
    finally:
        engine.remove_image(image.reference)
    return figures


def from_pytorch(work: Path) -> Figures:
    """Export to ONNX, which runs the file once, and the file opened again as a server does."""
    import serving.runners
    from tasks.store import fetch_tree

    figures = Figures("PyTorch source (state dict) → onnx")
    figures.step("make the model", lambda: _write_state_dict(work / "model"), _size)
    spec, settings, store = _spec(work / "model", "model.pt", Framework.PYTORCH), _settings(work), _store(work)
    artifact, exported = _ingest_and_export(figures, spec, settings, store, work)

    def load(number: int) -> str:
        folder = fetch_tree(store, exported.files, work / f"load-{number}")
        runner = serving.runners.load("onnx", folder / exported.root, artifact.signature)
        answer = runner.run({"ids": np.zeros((1, IDS), np.int64)})["scores"]
        runner.close()
        shutil.rmtree(folder)
        return str(answer)

    figures.step("load", lambda: load(0))
    data = next(file for file in exported.files.files if file.path.endswith(".data"))
    with _turned(store, data.digest):
        figures.stopped("one bit turned, then load", lambda: load(1))
    return figures


# --- steps --------------------------------------------------------------------------------------------------------


def _ingest_and_export(
    figures: Figures, spec: ModelSpec, settings: Settings, store: LocalStore, work: Path
) -> tuple[Artifact, Export]:
    from tasks.export import export
    from tasks.ingest import ingest

    artifact = figures.step("ingest", lambda: ingest(spec, store, settings), lambda found: found.files.size_bytes)
    report = figures.step(
        "export",
        lambda: export(spec, artifact, "onnx", store, work / "export"),
        lambda found: found.export.files.size_bytes if found.export else 0,
    )
    shutil.rmtree(work / "export")
    if report.export is None:
        raise SystemExit(f"the export is {report.verdict}: {report.findings[0].message}")
    return artifact, report.export


def _export_again(spec: ModelSpec, artifact: Artifact, store: LocalStore, work: Path) -> str:
    from tasks.export import export

    return str(export(spec, artifact, "onnx", store, work / "again").verdict)


@contextmanager
def _turned(store: LocalStore, digest: str) -> Iterator[Path]:
    """The object's file, with one bit turned in the table's last row, and turned back at the end."""
    hexadecimal = digest.removeprefix("sha256:")
    path = store.root / "objects" / hexadecimal[:2] / hexadecimal[2:]

    def turn() -> None:
        with path.open("r+b") as stream:
            stream.seek(TABLE_BYTES - 1000)
            [byte] = stream.read(1)
            stream.seek(-1, 1)
            stream.write(bytes([byte ^ 1]))

    turn()
    try:
        yield path
    finally:
        turn()


# --- models -------------------------------------------------------------------------------------------------------


def _write_onnx(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    _write_evaluation(folder)
    random = np.random.default_rng(1)
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[ROWS, WIDTH])
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.data"), ("offset", "0"), ("length", str(TABLE_BYTES))):
        table.external_data.add(key=key, value=value)
    with (folder / "model.data").open("wb") as out:
        for _ in range(ROWS // _BLOCK):
            out.write(random.standard_normal((_BLOCK, WIDTH), dtype=np.float32).tobytes())
    head = random.standard_normal((WIDTH, CLASSES), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("ReduceMean", ["rows", "one"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "head"], ["scores"]),
        ],
        "rows",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", IDS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [table, numpy_helper.from_array(head, "head"), numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(folder / "model.onnx"))
    return folder


def _write_state_dict(folder: Path) -> Path:
    import torch

    _write_evaluation(folder)
    (folder / "model.py").write_text(_MODEL_PY)
    torch.manual_seed(1)
    state = {
        "table.weight": torch.randn(ROWS, WIDTH),
        "head.weight": torch.randn(CLASSES, WIDTH),
        "head.bias": torch.randn(CLASSES),
    }
    torch.save(state, folder / "model.pt")
    return folder


def _write_evaluation(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(2)
    ids = random.integers(0, ASKED_ROWS, (40, IDS))
    np.savez(folder / "eval.npz", ids=ids, label=random.integers(0, CLASSES, 40))


def _spec(folder: Path, uri: str, framework: Framework) -> ModelSpec:
    return ModelSpec(
        folder=folder,
        name="large-model",
        owner="benchmarks",
        source=SourceSpec(
            uri=uri, framework=framework, entrypoint="model:build" if framework is Framework.PYTORCH else None
        ),
        inputs=(TensorSpec("ids", DType.INT64, ("batch", IDS)),),
        outputs=(TensorSpec("scores", DType.FLOAT32, ("batch", CLASSES)),),
        dynamic={"batch": DimRange(1, 16)},
        evaluation=EvaluationSpec(
            data="eval.npz", metrics=(MetricSpec(name="accuracy", output="scores", label="label", max_drop=1.0),)
        ),
        formats=("onnx",),
        smoke=SmokeSpec(instance_types=("this-machine",)),
    )


def _settings(work: Path) -> Settings:
    home = work / "home"
    (home / "work").mkdir(parents=True, exist_ok=True)
    (home / "mlflow").mkdir(exist_ok=True)
    return Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow' / 'mlflow.db'}", None)


def _store(work: Path) -> LocalStore:
    return LocalStore(work / "home" / "store")


# --- memory -------------------------------------------------------------------------------------------------------


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The most anonymous and shared memory that this process and its descendants held at once, sampled."""
    found, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_EVERY_S):
            found[0] = max(found[0], sum(map(_own_bytes, _family())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def _family() -> list[Path]:
    """/proc's folders of this process and all below it."""
    found, waiting = [], [Path("/proc/self").resolve()]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for children in process.glob("task/*/children"):
            try:
                waiting += [Path("/proc") / child for child in children.read_text().split()]
            except OSError:  # it ended meanwhile
                continue
    return found


def _own_bytes(process: Path) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"


if __name__ == "__main__":
    sys.exit(main())
