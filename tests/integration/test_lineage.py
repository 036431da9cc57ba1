"""Packages into a real MLflow (SQLite, and a real server), and back from any digest."""

from __future__ import annotations

import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from serving.contract import PackagedFile
from tasks.console import chain
from tasks.contracts import FileTree, Package, SmokeReport, Verdict, digest_of
from tasks.errors import BadInput, TrackingUnavailable
from tasks.lineage import record, trace
from tasks.lineage.evidence import LARGEST_ARTIFACT, of_stages
from tasks.lineage.history import remember_tuned
from tasks.lineage.origin import ARTIFACT_TAG
from tasks.lineage.tracking import tracking
from tasks.reuse import artifact_digest
from tasks.settings import Settings
from tasks.store import Store, open_store
from tasks.tune.record import record as record_tuning
from tests import samples
from tests.mlflow_server import mlflow_server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server over SQLite, as `make up` starts it."""
    home = tmp_path_factory.mktemp("server")
    with mlflow_server(home, "--default-artifact-root", str(home / "artifacts"), "--no-serve-artifacts") as uri:
        yield uri


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making them takes seconds."""
    home = tmp_path_factory.mktemp("empty")
    settings = Settings.from_environment({"SLIPWAY_HOME": str(home)})
    with tracking(settings):
        return home / "mlflow" / "mlflow.db"


@pytest.fixture(params=["sqlite", "server"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return cast(Settings, request.getfixturevalue("embedded"))
    return Settings.from_environment(
        {"SLIPWAY_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": request.getfixturevalue("server")}
    )


@pytest.fixture
def embedded(tmp_path: Path, empty_database: Path) -> Settings:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})
    (settings.home / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, settings.home / "mlflow" / "mlflow.db")
    return settings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "home" / "store"))


def client_of(settings: Settings):  # type: ignore[no-untyped-def]
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.tracking_uri)


def published(store: Store, name: str, **changes: object) -> tuple[Package, object]:
    """A package whose manifest is in the store, as `Pipeline.register` leaves it."""
    spec = samples.spec(name=name)
    changes.setdefault("artifact", samples.artifact(store, name=name))
    package = samples.package(store, spec, **changes)
    store.put_result("package", package.digest, package.model_dump_json())
    return package, spec


def runs_of(settings: Settings, package: Package) -> list:  # type: ignore[type-arg]
    client = client_of(settings)
    experiment = client.get_experiment_by_name("slipway").experiment_id
    return client.search_runs([experiment], f"tags.`slipway.package` = '{package.digest}'")


def test_a_package_becomes_one_run_with_a_child_for_each_stage_and_cell(settings: Settings, store: Store) -> None:
    package, spec = published(store, "one-run")
    recorded = record(package, spec, store, settings)

    runs = runs_of(settings, package)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == recorded.run_id]
    assert len(runs) == 1 + len(children)
    names = {run.info.run_name for run in children}
    assert {"ingest one-run", "export onnx", "parity savedmodel", "image onnx", "smoke onnx × c4.large"} <= names
    assert len(names) == 1 + 3 * 2 + 2 * 2


def test_the_runs_hold_parameters_figures_digests_and_reports(settings: Settings, store: Store) -> None:
    package, spec = published(store, "reports")
    recorded = record(package, spec, store, settings)
    client = client_of(settings)

    run = client.get_run(recorded.run_id)
    assert run.data.params["formats"] == "onnx, savedmodel"
    assert run.data.metrics["p99_ms"] == 2.0
    assert run.data.tags["slipway.image.onnx"] == samples.image("onnx").digest
    there = {item.path for item in client.list_artifacts(recorded.run_id)}
    assert there >= {"manifest.json", "model.yaml", "matrix.html", "matrix.json", "recommendation.json"}
    local = Path(client.download_artifacts(recorded.run_id, "manifest.json"))
    assert Package.model_validate_json(local.read_text()) == package

    children = {child.info.run_name: child for child in runs_of(settings, package)}
    parity = children["parity onnx"]
    assert parity.data.metrics["accuracy.drop"] == 0.0
    assert parity.data.params["accuracy.max_drop"] == "0.005"
    assert {item.path for item in client.list_artifacts(parity.info.run_id)} == {"report.json", "report.html"}
    html = Path(client.download_artifacts(parity.info.run_id, "report.html"))
    assert html.read_text() == "<html>onnx</html>"
    assert children["smoke onnx × c6i.large"].data.metrics["cold_start_s"] == 0.8


def test_the_site_of_expectations_and_the_folder_that_reproduces_lie_beside_the_report(
    settings: Settings, store: Store
) -> None:
    blocked = samples.parity_report(
        store,
        verdict=Verdict.FAILED,
        findings=(samples.finding("PARITY_TENSOR_DIFFERS"),),
        docs=FileTree(files=(samples.stored(store, "index.html", "<html>parity</html>"),)),
        reproduction=FileTree(
            files=(
                samples.stored(store, "README.md"),
                PackagedFile("export/large.onnx", samples.stored(store, "large").digest, LARGEST_ARTIFACT + 1),
                samples.stored(store, "inputs.npz", "\0\1 no text"),
            )
        ),
    )
    package, spec = published(store, "evidence", parity=[blocked, samples.parity_report(store, "savedmodel")])
    record(package, spec, store, settings)
    client = client_of(settings)
    children = {child.info.run_name: child.info.run_id for child in runs_of(settings, package)}

    def files(name: str, folder: str | None = None) -> set[str]:
        found = client.list_artifacts(children[name], folder)
        return {path for item in found for path in (files(name, item.path) if item.is_dir else {item.path})}

    assert "data_docs/index.html" in files("ingest evidence")
    assert files("parity onnx") == {
        *("report.html", "report.json", "data_docs/index.html", "reproduction/README.md", "reproduction/inputs.npz"),
        "reproduction/export/large.onnx.where.txt",
    }
    page = Path(client.download_artifacts(children["parity onnx"], "data_docs/index.html"))
    assert page.read_text() == "<html>parity</html>"


def test_the_evaluation_data_is_the_runs_data_set(settings: Settings, store: Store) -> None:
    package, spec = published(store, "data-set")
    recorded = record(package, spec, store, settings)

    inputs = client_of(settings).get_run(recorded.run_id).inputs.dataset_inputs
    assert len(inputs) == 1
    digest = package.artifact.evaluation.file.digest
    assert digest.removeprefix("sha256:").startswith(inputs[0].dataset.digest)
    assert {tag.key: tag.value for tag in inputs[0].tags}["slipway.digest"] == digest


def test_a_package_that_passed_is_registered_as_the_candidate(settings: Settings, store: Store) -> None:
    package, spec = published(store, "candidate")
    recorded = record(package, spec, store, settings)

    version = client_of(settings).get_model_version_by_alias("candidate", "candidate")
    assert str(version.version) == recorded.model_version
    assert version.run_id == recorded.run_id
    assert version.tags["slipway.package"] == package.digest
    assert version.tags["slipway.verdict"] == "passed"
    assert version.tags["slipway.source_run"] == package.artifact.source_run


def test_a_package_that_failed_has_its_run_and_no_version(settings: Settings, store: Store) -> None:
    package, spec = published(
        store, "failed", exports=[samples.failed_export("onnx"), samples.failed_export("savedmodel")],
        parity=[], images=[], smoke=[],
    )  # fmt: skip
    recorded = record(package, spec, store, settings)

    assert recorded.model_version is None
    assert client_of(settings).get_run(recorded.run_id).info.status == "FAILED"
    assert client_of(settings).search_registered_models("name = 'failed'") == []


def test_recording_again_changes_nothing(settings: Settings, store: Store) -> None:
    package, spec = published(store, "again")
    first = record(package, spec, store, settings)
    before = {run.info.run_id: run.to_dictionary() for run in runs_of(settings, package)}
    second = record(package, spec, store, settings)

    assert second == first
    assert {run.info.run_id: run.to_dictionary() for run in runs_of(settings, package)} == before
    assert len(client_of(settings).search_model_versions("name = 'again'")) == 1


@pytest.mark.parametrize("survived", [0, 1, 5, 11])
def test_what_a_kill_left_half_written_is_completed_without_duplicates(
    embedded: Settings, store: Store, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, spec = published(store, "killed")

    class Killed(BaseException):
        pass

    from tasks.lineage import recorder as module

    filled = 0
    original = module._Recorder._fill

    def fill(self, run, evidence):  # type: ignore[no-untyped-def]
        nonlocal filled
        if filled == survived:
            self._client.log_text(run.info.run_id, "half", "report.json")
            raise Killed
        filled += 1
        original(self, run, evidence)

    with monkeypatch.context() as patched:
        patched.setattr(module._Recorder, "_fill", fill)
        with pytest.raises(Killed):
            record(package, spec, store, embedded)
    recorded = record(package, spec, store, embedded)

    runs = runs_of(embedded, package)
    assert len(runs) == 12
    assert all(run.info.status == "FINISHED" for run in runs)
    assert len({run.info.run_name for run in runs}) == 12
    client = client_of(embedded)
    for run in runs:
        for key in run.data.metrics:
            assert len(client.get_metric_history(run.info.run_id, key)) == 1
    parity = next(run for run in runs if run.info.run_name == "parity onnx")
    report = Path(client.download_artifacts(parity.info.run_id, "report.json"))
    assert report.read_text() != "half"
    assert recorded.model_version == "1"


def test_a_version_left_without_its_alias_gets_it(embedded: Settings, store: Store) -> None:
    package, spec = published(store, "alias")
    recorded = record(package, spec, store, embedded)
    client = client_of(embedded)
    client.delete_registered_model_alias("alias", "candidate")

    assert record(package, spec, store, embedded) == recorded
    assert client.get_model_version_by_alias("alias", "candidate").version == int(str(recorded.model_version))


def test_evidence_that_got_better_is_added_to_the_same_run(embedded: Settings, store: Store) -> None:
    def smoke(verdict: Verdict) -> list[SmokeReport]:
        return [
            samples.smoke_report(name, kind, verdict=verdict if name == "onnx" else Verdict.PASSED)
            for name in samples.FORMATS
            for kind in samples.TYPES
        ]

    doubtful, spec = published(store, "better", smoke=smoke(Verdict.INCONCLUSIVE))
    first = record(doubtful, spec, store, embedded)
    passed, _ = published(store, "better", smoke=smoke(Verdict.PASSED))
    second = record(passed, spec, store, embedded)

    assert passed.digest == doubtful.digest
    assert second.run_id == first.run_id
    assert (first.model_version, second.model_version) == (None, "1")
    run = client_of(embedded).get_run(second.run_id)
    assert (run.data.tags["slipway.verdict"], run.info.status) == ("passed", "FINISHED")
    children = [item.info.run_name for item in runs_of(embedded, passed)]
    assert children.count("smoke onnx × c6i.large") == 2  # history is kept
    assert children.count("smoke savedmodel × c6i.large") == 1


def test_a_candidate_whose_evidence_turned_is_no_longer_the_candidate(embedded: Settings, store: Store) -> None:
    good, spec = published(store, "turned")
    record(good, spec, store, embedded)
    bad, _ = published(
        store, "turned", smoke=[samples.smoke_report(n, k, verdict=Verdict.FAILED) for n in samples.FORMATS
                                for k in samples.TYPES],
    )  # fmt: skip
    record(bad, spec, store, embedded)

    client = client_of(embedded)
    assert client.get_registered_model("turned").aliases == {}
    assert client.get_model_version("turned", "1").tags["slipway.verdict"] == "failed"


def test_packages_of_a_registered_model_do_not_become_its_versions(embedded: Settings, store: Store) -> None:
    artifact = samples.artifact(store, name="known", source_uri="models:/known/3")
    package, spec = published(store, "known", artifact=artifact)
    assert record(package, spec, store, embedded).model_name == "known.packages"


def test_the_embedded_artifacts_lie_in_slipways_home_and_nowhere_else(
    embedded: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    package, spec = published(store, "at-home")
    record(package, spec, store, embedded)

    assert list(elsewhere.iterdir()) == []
    assert list((embedded.home / "mlflow" / "artifacts" / "slipway").rglob("manifest.json"))


def test_without_mlflow_nothing_is_lost_and_it_says_how_to_go_on(store: Store, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: refused at once
        taken.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": uri})
        package, spec = published(store, "unreachable")
        with pytest.raises(TrackingUnavailable) as raised:
            record(package, spec, store, settings)

        message = str(raised.value)
        assert package.digest in message
        assert "slipway package" in message
        assert "secret" not in message
        found = trace(package.digest, settings, store)
        assert found.packages[0].name == "unreachable"
        assert any("is not in MLflow" in note for note in found.notes)
        assert not any("secret" in note for note in found.notes)


def test_a_database_that_cannot_be_opened_is_the_platforms_fault(store: Store, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database" * 100)
    settings = Settings.from_environment(
        {"SLIPWAY_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{broken}"}
    )
    package, spec = published(store, "broken")
    with pytest.raises(TrackingUnavailable, match="Nothing is lost"):
        record(package, spec, store, settings)


# --- and back -----------------------------------------------------------------------------------------------------


def training_run(settings: Settings, **tags: str) -> str:
    client = client_of(settings)
    found = client.get_experiment_by_name("training")
    experiment = found.experiment_id if found else client.create_experiment("training")
    run = client.create_run(experiment, run_name="train", tags={"mlflow.user": "ada", **tags})
    client.log_param(run.info.run_id, "epochs", "12")
    client.log_metric(run.info.run_id, "accuracy", 0.97)
    return str(run.info.run_id)


@pytest.fixture
def traced(settings: Settings, store: Store) -> Package:
    source_run = training_run(settings)
    artifact = samples.artifact(store, name="traced", source_run=source_run)
    package, spec = published(store, "traced", artifact=artifact)
    record(package, spec, store, settings)
    return package


def names_of(package: Package) -> dict[str, str]:
    """Every name a person may come with → what it is."""
    image = package.images[0]
    exported = package.exports[0].export
    assert exported is not None
    assert package.artifact.source_run is not None
    return {
        package.digest: "package",
        package.digest.removeprefix("sha256:"): "package",
        package.digest.removeprefix("sha256:")[:12]: "package",
        image.digest: "image onnx",
        image.reference: "image onnx",
        f"docker.io/{image.reference}": "image onnx",
        digest_of(exported): "export onnx",
        exported.files.digest: "export onnx",
        artifact_digest(package.artifact): "artifact",
        package.artifact.files.files[0].digest: "source file digits.keras",
        package.artifact.evaluation.file.digest: "evaluation data",
        package.artifact.source_run: "training run",
    }


def test_every_name_leads_to_the_package_and_its_training_run(
    traced: Package, settings: Settings, store: Store
) -> None:
    for name, kind in names_of(traced).items():
        found = trace(name, settings, store)
        assert found.found == kind
        assert [package.package for package in found.packages] == [traced.digest]
        training = found.packages[0].training
        assert training is not None
        assert (training.user, training.params, training.metrics) == ("ada", {"epochs": "12"}, {"accuracy": 0.97})
        assert found.notes == ()


def test_a_file_names_its_training_run_by_the_tag_that_carries_its_digest(embedded: Settings, store: Store) -> None:
    artifact = samples.artifact(store, name="tagged", source_run=None)
    source_run = training_run(embedded, **{ARTIFACT_TAG: artifact.files.files[0].digest.removeprefix("sha256:")})
    training_run(embedded, **{ARTIFACT_TAG: "0" * 64})
    package, spec = published(store, "tagged", artifact=artifact)

    assert record(package, spec, store, embedded).source_run == source_run
    assert [item.package for item in trace(source_run, embedded, store).packages] == [package.digest]


def test_a_training_run_leads_to_every_package_made_from_it(embedded: Settings, store: Store) -> None:
    artifact = samples.artifact(store, name="several", source_run=training_run(embedded))
    made = []
    for owner in ("first@example.com", "second@example.com"):
        package = samples.package(store, samples.spec(name="several", owner=owner), artifact=artifact)
        store.put_result("package", package.digest, package.model_dump_json())
        made.append(package.digest)

    found = trace(str(artifact.source_run), embedded, store)
    assert {package.package for package in found.packages} == set(made)


def test_a_trace_without_a_record_of_the_training_run_says_so(embedded: Settings, store: Store) -> None:
    package, spec = published(store, "gone")
    record(package, spec, store, embedded)
    found = trace(package.digest, embedded, store)
    assert found.packages[0].source_run == package.artifact.source_run
    assert any("does not know the training run" in note for note in found.notes)


def test_asking_makes_no_database(store: Store, tmp_path: Path) -> None:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})
    package, _ = published(store, "asked")
    trace(package.digest, settings, store)
    assert not (settings.home / "mlflow").exists()


@pytest.mark.parametrize("query", ["f00f00f00f00", "not-a-digest", "abc", "slipway/nothing:here", ""])
def test_a_digest_that_leads_nowhere_is_bad_input(embedded: Settings, store: Store, query: str) -> None:
    published(store, "somewhere")
    with pytest.raises(BadInput):
        trace(query, embedded, store)


def test_an_ambiguous_beginning_lists_what_begins_so(embedded: Settings, store: Store) -> None:
    twin = "ab" * 6
    images = [
        samples.image(name, digest=f"sha256:{twin}{index:052d}", reference=f"slipway/twin:{name}")
        for index, name in enumerate(samples.FORMATS)
    ]
    smoke = [
        samples.smoke_report(image.format, kind, image_digest=image.digest)
        for image in images
        for kind in samples.TYPES
    ]
    published(store, "twins", images=images, smoke=smoke)
    with pytest.raises(BadInput, match=r"begins 2 digests.*image onnx.*image savedmodel"):
        trace(twin, embedded, store)


def test_the_evidence_of_a_package_covers_every_report(store: Store) -> None:
    package, _ = published(store, "covered")
    labels = [(item.stage, item.label) for item in of_stages(package)]
    assert len(labels) == len(set(labels)) == 1 + len(package.exports) * 3 + len(package.smoke)


def test_a_tuning_is_kept_in_the_run_of_its_package(embedded: Settings, store: Store) -> None:
    package, spec = published(store, "tuned")
    recorded = record(package, spec, store, embedded)
    tuned = samples.tuned_image(store, package)
    store.put_result("attestation", tuned.digest, "envelope")
    assert record_tuning(tuned, recorded, store, embedded) == recorded.run_id

    client = client_of(embedded)
    run = client.get_run(recorded.run_id)
    said = {
        "slipway.tuned.onnx": tuned.digest,
        "slipway.tuned.onnx.from": package.images[0].digest,
        "slipway.tuned.onnx.curve": tuned.curve.digest,
    }
    assert said.items() <= run.data.tags.items()
    assert said.items() <= client.get_model_version(recorded.model_name, recorded.model_version).tags.items()
    assert run.data.metrics["tuned_onnx_requests_per_s"] == 1200.0
    files = {"tuning/onnx.json": '{"curve": []}', "tuning/onnx.attestation.json": "envelope"}
    for name, content in files.items():
        assert Path(client.download_artifacts(recorded.run_id, name)).read_text() == content


def test_a_tuned_image_leads_to_its_package_and_the_package_to_it(embedded: Settings, store: Store) -> None:
    package, _ = published(store, "digits-tuned")
    tuned = samples.tuned_image(store, package)
    remember_tuned(tuned, store)
    for query, found in (
        (tuned.digest, "tuned image onnx"),
        (tuned.reference, "tuned image onnx"),
        (tuned.curve.digest, "curve of tuned image onnx"),
        (package.digest, "package"),
    ):
        traced = trace(query, embedded, store)
        assert traced.found == found
        [of_package] = traced.packages
        assert of_package.package == package.digest
        assert {cell.format: cell.tuned for cell in of_package.cells} == {"onnx": (tuned,), "savedmodel": ()}
    shown = Console(file=io.StringIO(), width=80)
    shown.print(*chain(traced), sep="\n", soft_wrap=True)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert f"tuned  {tuned.digest}  {tuned.reference}\n" in text, "lines are not cut at the console's width"
    assert tuned.curve.digest in text
