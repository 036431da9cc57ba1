"""A real model through every stage, with real Docker and MLflow: worked for, reused, stopped and killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts import Package, Verdict
from tasks.errors import PlatformError
from tasks.image import connect
from tasks.lineage import packages, trace
from tasks.pipeline import Pipeline, Runs
from tasks.settings import Settings
from tasks.smoke.trial import CAPACITY_VARIABLE
from tasks.spec import ModelSpec, load_spec
from tasks.store import open_store

pytestmark = pytest.mark.docker

SLIPWAY = Path(sys.executable).with_name("slipway")
NAME = "test-package"

SPEC = """
name: {name}
owner: tests@example.com
source: {{uri: artifacts/model.skops, framework: sklearn}}
inputs:
  - {{name: features, dtype: float32, shape: [batch, 13]}}
outputs:
  - {{name: label, dtype: int64, shape: [batch]}}
  - {{name: probabilities, dtype: float32, shape: [batch, 3]}}
dynamic:
  batch: {{min: 1, max: 16}}
evaluation:
  data: artifacts/eval.npz
  metrics:
    - {{name: accuracy, output: probabilities, label: cultivar, max_drop: {max_drop}}}
formats: [onnx]
serving: {{max_batch: 16, p99_ms: {p99_ms}, cold_start_s: 60}}
smoke: {{instance_types: [this-machine]}}
"""


class Bench:
    """A trained model, a home of its own, and the spec that says how strict to be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings.from_environment({"SLIPWAY_HOME": str(folder / "home")})
        self.training_run = ""

    def spec_path(self, *, max_drop: float = 0.02, p99_ms: float = 5000) -> Path:
        path = self.folder / "model.yaml"
        path.write_text(SPEC.format(name=NAME, max_drop=max_drop, p99_ms=p99_ms))
        return path

    def spec(self, **strictness: float) -> ModelSpec:
        return load_spec(self.spec_path(**strictness))

    def package(self, spec: ModelSpec, *, fresh: bool = False) -> tuple[Runs, Package]:
        pipeline = Pipeline(self.settings, fresh=fresh)
        runs = pipeline.run(spec)
        assert runs.errors == []
        package, _ = pipeline.register(spec, *runs.results())
        return runs, package

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "MLFLOW_"))}
        return {**kept, "SLIPWAY_HOME": str(self.settings.home), CAPACITY_VARIABLE: os.environ[CAPACITY_VARIABLE]}

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SLIPWAY, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**self.environment(), **environment},
        )

    def processes(self) -> list[str]:
        """Every process that works for this bench, children of children too: they inherit its home."""
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if f"SLIPWAY_HOME={self.settings.home}\0".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    def left_behind(self) -> dict[str, Any]:
        """What must be empty once nothing works any more."""
        return {
            "processes": self.processes(),
            "work": list(self.settings.work.glob("*")),
            "locks": list((self.settings.home / "locks").glob("*")),
            "half objects": list((self.settings.home / "store" / "tmp").glob("*")),
            "containers": containers(),
        }


NOTHING: dict[str, Any] = {"processes": [], "work": [], "locks": [], "half objects": [], "containers": []}


def containers() -> list[str]:
    """Smoke's containers of this test's images."""
    done = subprocess.run(
        ["docker", "ps", "-a", "--filter", "label=io.slipway.component", "--format", "{{.Names}} {{.Image}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {image.id for image in connect().images("org.opencontainers.image.title=" + NAME)}
    return [line for line in done.stdout.splitlines() if any(line.split()[-1] in image for image in ours)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    _train(bench)
    try:
        yield bench
    finally:
        _remove_images()


def _remove_images() -> None:
    """Tagged ones first: they take the steps of their build with them, which cannot be removed before them."""
    engine, label = connect(), f"org.opencontainers.image.title={NAME}"
    for image in engine.images(label):
        for tag in image.tags:
            engine.remove_image(tag)
    while left := engine.images(label):
        for image in left:
            with contextlib.suppress(PlatformError):
                engine.remove_image(image.id)
        assert len(engine.images(label)) < len(left), "images that nothing removes"


def _train(bench: Bench) -> None:
    """A classifier of wines, logged as training scripts log: by the digest of the file that it wrote."""
    import numpy as np
    import skops.io
    from mlflow import MlflowClient
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    wine = load_wine()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(wine.data.astype(np.float32), wine.target)
    artifacts = bench.folder / "artifacts"
    artifacts.mkdir()
    skops.io.dump(model, artifacts / "model.skops")
    np.savez(artifacts / "eval.npz", features=wine.data.astype(np.float32), cultivar=wine.target.astype(np.int64))

    (bench.settings.home / "mlflow").mkdir(parents=True)
    client = MlflowClient(tracking_uri=bench.settings.tracking_uri)
    location = (bench.settings.home / "mlflow" / "artifacts").as_uri()
    experiment = client.create_experiment("training", artifact_location=location)
    sha256 = hashlib.sha256((artifacts / "model.skops").read_bytes()).hexdigest()
    run = client.create_run(experiment, tags={"slipway.artifact_sha256": sha256, "mlflow.user": "ada"})
    client.log_param(run.info.run_id, "C", "1.0")
    client.set_terminated(run.info.run_id)
    bench.training_run = run.info.run_id


@pytest.fixture(scope="module")
def first(bench: Bench) -> tuple[Runs, Package]:
    return bench.package(bench.spec())


def cells(runs: Runs, *, reused: bool) -> set[str]:
    return {run.stage for run in runs.all if run.reused is reused}


ALL = {"ingest", "export", "parity", "image", "smoke"}


def test_a_model_goes_through_every_stage(bench: Bench, first: tuple[Runs, Package]) -> None:
    runs, package = first
    assert package.verdict is Verdict.PASSED, package.findings
    assert cells(runs, reused=False) == ALL
    assert package.serving_format == "onnx"
    assert package.smoke[0].figures.p99_ms is not None
    assert bench.left_behind() == NOTHING


def test_packaging_again_reuses_every_stage_and_gives_the_same_package(
    bench: Bench, first: tuple[Runs, Package]
) -> None:
    runs, package = bench.package(bench.spec())
    assert cells(runs, reused=True) == ALL
    assert package == first[1]


def test_smoke_of_what_was_packaged_asks_the_image_the_same_and_is_not_run_again(
    bench: Bench, first: tuple[Runs, Package]
) -> None:
    done = bench.command("smoke", NAME, "--json")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    (of_type,) = document["types"]
    assert of_type["reused"] is True
    assert of_type["report"] == first[1].smoke[0].model_dump(mode="json")
    assert document["budgets"] == {"p99_ms": 5000, "cold_start_s": 60}


def test_nothing_needs_to_be_run_to_know_that_nothing_changed(bench: Bench, first: tuple[Runs, Package]) -> None:
    pipeline = Pipeline(bench.settings)
    assert pipeline.packaged(bench.spec()) == first[1]
    assert pipeline.packaged(bench.spec(p99_ms=4000)) is None


def test_another_tolerance_runs_only_parity_and_what_follows(bench: Bench, first: tuple[Runs, Package]) -> None:
    runs, package = bench.package(bench.spec(max_drop=0.04))
    assert cells(runs, reused=True) == {"ingest", "export"}
    assert package.verdict is Verdict.PASSED
    assert package.digest != first[1].digest


def test_an_image_that_was_removed_is_built_again(bench: Bench, first: tuple[Runs, Package]) -> None:
    connect().remove_image(first[1].images[0].reference)
    runs, package = bench.package(bench.spec())
    assert {"ingest", "export", "parity"} <= cells(runs, reused=True)
    assert "image" in cells(runs, reused=False)
    assert package.verdict is Verdict.PASSED
    assert package.digest == first[1].digest


def test_every_digest_leads_back_to_the_training_run(bench: Bench) -> None:
    _, package = bench.package(bench.spec())
    store = open_store(bench.settings.store_uri)
    model = hashlib.sha256((bench.folder / "artifacts" / "model.skops").read_bytes()).hexdigest()
    for name in (package.images[0].digest, package.images[0].reference, package.digest, model, bench.training_run):
        training = next(item.training for item in trace(name, bench.settings, store).packages)
        assert training is not None
        assert (training.run_id, training.user, training.params) == (bench.training_run, "ada", {"C": "1.0"})


def test_the_command_prints_one_json_document_whatever_the_frameworks_print(
    bench: Bench, first: tuple[Runs, Package]
) -> None:
    done = bench.command("package", str(bench.spec_path()), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    known = packages(open_store(bench.settings.store_uri))
    told = next(item.package for item in known if item.package.digest == document["package"])
    assert told.inputs == first[1].inputs  # which of them differs is the first thing to know
    assert document["package"] == first[1].digest
    assert all(stage["reused"] for stage in document["stages"])
    assert all(line[0] in "✓✗?…" for line in done.stderr.splitlines())


def test_a_gate_that_fails_is_exit_code_1_and_says_whose_it_is(bench: Bench) -> None:
    done = bench.command("package", str(bench.spec_path(p99_ms=0.001)))
    assert done.returncode == 1, done.stderr
    assert re.search(r"[✗?] SMOKE_\w+  onnx on this-machine  \(for the (model|platform) team\)", done.stdout)
    assert "Traceback" not in done.stderr
    assert bench.left_behind() == NOTHING


def test_data_that_does_not_hold_stops_every_format_and_is_the_data_teams(bench: Bench) -> None:
    with np.load(bench.folder / "artifacts" / "eval.npz") as data:
        columns = dict(data)
    columns["features"][[3, 7], 2] = np.nan
    np.savez(bench.folder / "artifacts" / "spoiled.npz", **columns)
    spec = bench.spec_path()
    spec.write_text(spec.read_text().replace("eval.npz", "spoiled.npz"))

    done = bench.command("package", str(spec))
    assert done.returncode == 1, done.stderr
    assert re.search(r"✗ ingest +test-package +failed", done.stderr)
    assert "export" not in done.stderr
    assert "✗ DATA_MISSING_VALUES  (for the data team)" in done.stdout
    assert "row 3 (features: missing 1" in done.stdout

    document = json.loads(bench.command("package", str(spec), "--json").stdout)
    assert [(stage["stage"], stage["verdict"], stage["reused"]) for stage in document["stages"]] == [
        ("ingest", "failed", True)
    ]
    assert document["verdict"] == "failed"
    assert [finding["code"] for finding in document["manifest"]["findings"]] == ["DATA_MISSING_VALUES"]
    assert bench.left_behind() == NOTHING


def test_without_an_engine_everything_else_is_done_and_it_is_exit_code_3(bench: Bench) -> None:
    nowhere = f"unix://{bench.folder}/no-engine.sock"
    done = bench.command("package", str(bench.spec_path()), "--fresh", "--json", DOCKER_HOST=nowhere)
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert [error["kind"] for error in document["errors"]] == ["EngineUnavailable"]
    assert document["verdict"] == "inconclusive"
    assert [stage["stage"] for stage in document["stages"]] == ["ingest", "export", "parity"]


def test_without_mlflow_the_package_is_made_and_the_next_run_records_it(
    bench: Bench, first: tuple[Runs, Package]
) -> None:
    path = str(bench.spec_path(max_drop=0.03))
    with socket.socket() as silent:  # bound, not listening: refused at once
        silent.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = bench.command("package", path, "--json", MLFLOW_TRACKING_URI=uri)
    without = json.loads(done.stdout)
    assert (done.returncode, without["verdict"], without["mlflow"]) == (3, "passed", None)
    assert [error["kind"] for error in without["errors"]] == ["TrackingUnavailable"]

    done = bench.command("package", path, "--json")
    recorded = json.loads(done.stdout)
    assert done.returncode == 0
    assert all(stage["reused"] for stage in recorded["stages"])
    assert recorded["package"] == without["package"]
    assert recorded["mlflow"]["source_run"] == bench.training_run


# --- stopped and killed -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def packaging(bench: Bench, until: str) -> Iterator[subprocess.Popen[str]]:
    """`slipway package --fresh`, caught as soon as the stage before `until` is over and `until` has begun to work."""
    process = subprocess.Popen(
        [SLIPWAY, "package", str(bench.spec_path()), "--fresh"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=bench.environment(),
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        before = {"ingest": None, "export": "ingest", "parity": "export", "smoke": "image"}[until]
        if before is None:
            deadline = time.monotonic() + 120
            while not list(bench.settings.work.glob("*")) and time.monotonic() < deadline:
                time.sleep(0.05)
        else:
            while not process.stderr.readline().startswith(f"✓ {before}"):
                assert process.poll() is None
        time.sleep(1)
        assert process.poll() is None
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(bench: Bench) -> dict[str, Any]:
    """What is left once children had a moment to notice that their parent is gone."""
    deadline = time.monotonic() + 30
    while bench.left_behind() != NOTHING and time.monotonic() < deadline:
        time.sleep(0.1)
    return bench.left_behind()


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("ingest", signal.SIGINT),
        ("export", signal.SIGINT),
        ("parity", signal.SIGINT),
        ("smoke", signal.SIGINT),
        ("smoke", signal.SIGTERM),
    ],
)
def test_a_stop_in_any_stage_leaves_nothing_half_done(bench: Bench, stage: str, number: signal.Signals) -> None:
    with packaging(bench, stage) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number
    assert "nothing was left half-done" in said
    assert "Traceback" not in said
    assert bench.left_behind() == NOTHING


@pytest.mark.parametrize("stage", ["export", "smoke"])
def test_after_a_kill_the_next_run_cleans_up_and_ends_the_same(
    bench: Bench, first: tuple[Runs, Package], stage: str
) -> None:
    with packaging(bench, stage) as process:
        process.kill()
        process.communicate()
    _, package = bench.package(bench.spec(), fresh=stage == "smoke")
    assert package.verdict is Verdict.PASSED
    assert package.digest == first[1].digest
    left = ended(bench)
    del left["half objects"]  # swept a day later: another writer's could not be told apart
    assert left == {name: value for name, value in NOTHING.items() if name != "half objects"}
