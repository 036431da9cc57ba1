"""Tuning a real image: what is measured, what is written, and that nothing else is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.contract import Batching
from serving.package import read_contract
from tasks.attestation import attest, public_key
from tasks.cli import run as slipway
from tasks.contracts import ExportReport, Image, Package, TunedImage, Verdict
from tasks.image import ContainerSpec, Engine, run
from tasks.lineage import packages
from tasks.load.objective import OutOfTime
from tasks.manifest import assemble
from tasks.settings import Settings
from tasks.store import LocalStore
from tasks.terminal import Stopped
from tasks.tune import Choice, Measurement, Tuning, tune
from tasks.tune.basis import basis_of
from tasks.tune.bench import COMPONENT, Subject
from tasks.tune.run import open_image
from tasks.tune.write import TUNING_FILE, write_tuned
from tests import samples
from tests.integration.image.conftest import Case


@pytest.fixture(scope="module")
def image(case: Callable[[str], Case]) -> Image:
    return case("onnx").build()


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few requests as can show anything."""
    monkeypatch.setattr("tasks.tune.bench._PROBE_REQUESTS", 320)


def subject(engine: Engine, image: Image, work: Path) -> Subject:
    found = engine.find_image(image.reference)
    assert found is not None
    return open_image(found, engine, work, cpus=1, memory_bytes=512 << 20)


def left() -> list[str | None]:
    import docker

    client = docker.from_env()
    found = client.containers.list(all=True, filters={"label": [f"io.slipway.component={COMPONENT}"]})
    client.close()
    return [container.name for container in found]


def test_settings_are_measured_in_the_real_container_and_nothing_is_left(
    engine: Engine, image: Image, tmp_path: Path
) -> None:
    told: list[Measurement] = []

    def tell(item: Measurement) -> None:
        told.append(item)
        if len(told) > 1:
            raise OutOfTime

    # An objective that any machine keeps, and no more measurements than show how it goes.
    found = tune(subject(engine, image, tmp_path), engine, p99_ms=30_000, rows=2, budget_s=600, tell=tell)
    assert found.measurements[:2] == tuple(told[:2])
    assert found.choice is not None
    assert (found.out_of_time, found.confirmed) == (True, False)
    first = found.measurements[0]
    assert first.setting == Batching(batch_rows=32, batch_window_ms=0.0, workers=2, threads=1)
    assert first.late == first.refused == 0
    assert first.asked > 299
    assert left() == []


def test_who_stops_it_leaves_nothing(engine: Engine, image: Image, tmp_path: Path) -> None:
    def stop(item: Measurement) -> None:
        raise Stopped(130)

    with pytest.raises(Stopped):
        tune(subject(engine, image, tmp_path), engine, p99_ms=30_000, rows=None, budget_s=600, tell=stop)
    assert left() == []


@pytest.fixture
def packaged(image: Image, case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Package:
    """The image as that of a package that passed, signed by an installation of this test's own."""
    given = case("onnx")
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_STORE", given.store.uri)
    smoke = given.spec.smoke.model_copy(update={"instance_types": ("c6i.large",)})
    made = assemble(
        given.spec.model_copy(update={"formats": ("onnx",), "smoke": smoke}),
        given.artifact,
        [ExportReport(verdict=Verdict.PASSED, format="onnx", export=given.export)],
        [given.parity],
        [image],
        [samples.smoke_report("onnx", "c6i.large", image_digest=image.digest)],
    )
    assert made.verdict is Verdict.PASSED
    given.store.put_result("package", made.digest, made.model_dump_json())
    attest(made, given.store, Settings.from_environment())
    return made


def written(asked: str, engine: Engine, store: LocalStore, work: Path) -> TunedImage:
    """What `slipway tune` writes of an image once it has measured; the measuring is left out."""
    settings, image = Settings.from_environment(), engine.find_image(asked)
    assert image is not None
    basis = basis_of(asked, image, list(packages(store)), store, engine, public_key(settings))
    choice = Choice(Batching(batch_rows=4, batch_window_ms=1.5, workers=3, threads=1), 900.0, 1.2, complete=True)
    found = Tuning(50, 1, 2.0, choice, confirmed=True, out_of_time=False, measurements=(), seconds=1)
    contract = open_image(image, engine, work, 1, None).contract
    return write_tuned(basis, contract, found, choice, b"{}\n", engine, store, settings)


def test_the_choice_is_an_image_of_its_own_that_serves_by_it_and_verifies(
    engine: Engine,
    image: Image,
    case: Callable[[str], Case],
    packaged: Package,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = case("onnx").store
    tuned = written(image.reference, engine, store, tmp_path / "first")
    assert tuned.reference.startswith(f"{image.reference}-tuned-")
    untouched = engine.find_image(image.reference)
    assert untouched is not None
    assert untouched.id == image.digest == tuned.base
    assert tuned.layers[:-1] == untouched.layers
    engine.copy_out(tuned.digest, "/package", tmp_path / "tuned")
    contract = read_contract(tmp_path / "tuned")
    assert contract.batching == tuned.setting
    assert (tmp_path / "tuned" / TUNING_FILE).read_bytes() == b"{}\n"
    assert TUNING_FILE in {file.path for file in contract.files}
    done = run(engine, ContainerSpec(tuned.digest, "slipway-test-tuned", "image-test", command=("selftest",)), 60)
    assert done.state.exit_code == 0, done.logs

    # it verifies under its name and its digest, as the image that it was tuned from does
    for name in (tuned.reference, tuned.digest.removeprefix("sha256:")[:12], image.reference):
        assert slipway(["verify-attestation", name]) == 0, capfd.readouterr()
    # and is a package as good as the other
    assert slipway(["bundle", tuned.reference, str(tmp_path / "bundle")]) == 0, capfd.readouterr()
    assert (tmp_path / "bundle" / TUNING_FILE).is_file()

    # tuned again, it is the package's image that the next one stands on
    again = written(tuned.reference, engine, store, tmp_path / "second")
    assert (again.base, len(again.layers)) == (image.digest, len(tuned.layers))

    # once its curve is another, nothing may stand on it
    digest = tuned.curve.digest.removeprefix("sha256:")
    (store.root / "objects" / digest[:2] / digest[2:]).write_bytes(b"{ }")
    assert slipway(["verify-attestation", tuned.reference]) == 1
    capfd.readouterr()
    assert slipway(["tune", tuned.reference, "--budget", "1s"]) == 1
    assert "ATTESTATION_CURVE_DIFFERS" in capfd.readouterr().err


def test_where_the_images_own_setting_is_best_no_image_is_written(
    image: Image,
    case: Callable[[str], Case],
    packaged: Package,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    choice = Choice(Batching(batch_rows=32, batch_window_ms=0.0, workers=2, threads=1), 900.0, 1.0, complete=True)
    best = Tuning(50, 1, 1.0, choice, confirmed=True, out_of_time=False, measurements=(), seconds=1)
    monkeypatch.setattr("tasks.tune.command.tune", lambda *_, **__: best)  # the measuring is left out
    before = {tuned.digest for each in packages(case("onnx").store) for tuned in each.tuned}
    assert slipway(["tune", image.reference]) == 0
    assert f"no image is written: {image.reference} stands as it is" in capfd.readouterr().out
    assert {tuned.digest for each in packages(case("onnx").store) for tuned in each.tuned} == before


def test_rows_that_the_contract_does_not_allow_are_bad_input(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    assert slipway(["tune", image.reference, "--measure-only", "--rows", "1000"]) == 2
    assert "--rows 1000: the model takes from 1 to " in capfd.readouterr().err


def test_an_image_whose_attestation_is_missing_or_altered_or_that_nobody_packaged_is_not_tuned(
    image: Image, case: Callable[[str], Case], packaged: Package, capfd: pytest.CaptureFixture[str]
) -> None:
    store = case("onnx").store
    envelope = store.root / "results" / "attestation" / f"{packaged.digest.removeprefix('sha256:')}.json"
    signed = envelope.read_text()
    asked = ["tune", image.reference, "--budget", "1s"]

    envelope.write_text(signed.replace('"payload": "', '"payload": "AAAA'))
    assert slipway(asked) == 1
    assert "ATTESTATION_SIGNATURE_INVALID" in capfd.readouterr().err
    envelope.unlink()
    assert slipway(asked) == 1
    assert "ATTESTATION_MISSING" in capfd.readouterr().err
    (store.root / "results" / "package" / envelope.name).unlink()
    assert slipway(asked) == 1
    assert "no package in this store has the image" in capfd.readouterr().err
    assert left() == []


@pytest.mark.parametrize("asked", ["slipway/nowhere:1", "No Such:Image", ""])
@pytest.mark.parametrize("command", ["tune", "bundle"])
def test_a_name_that_is_no_image_is_bad_input(
    command: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    assert slipway([command, asked, *([str(tmp_path / "out")] if command == "bundle" else [])]) == 2
    [sentence] = capfd.readouterr().err.splitlines()
    assert sentence.startswith("slipway: ")


def test_an_image_that_is_no_serving_image_is_bad_input(
    engine: Engine, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    runtime = engine.find_image(image.labels["org.opencontainers.image.base.name"])
    assert runtime is not None
    assert slipway(["tune", runtime.tags[0], "--budget", "1s"]) == 2
    assert "no serving image that Slipway built" in capfd.readouterr().err


def test_without_an_engine_tuning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert slipway(["tune", "slipway/m:onnx-1", "--budget", "1s"]) == 3
    assert "no Docker engine answers" in capfd.readouterr().err
