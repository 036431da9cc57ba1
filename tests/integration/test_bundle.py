"""Bundles that are used: by Python in each runtime, by JavaScript, out of a real image, and by the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.bundle import find, write
from tasks.contracts import Image
from tasks.image import Engine, build, connect
from tasks.settings import Settings
from tasks.store import LocalStore, put_file, put_tree
from tests import samples
from tests.bundles import publish
from tests.integration.tiny import PREPROCESS, SIGNATURE, TinyModel, write_golden
from tests.node import score

SLIPWAY = Path(sys.executable).with_name("slipway")
Tiny = Callable[[str], TinyModel]


@pytest.fixture(scope="module")
def bundled(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`bundled(runtime)`: the tiny model as a bundle of this runtime, written when first asked for."""
    made: dict[str, Path] = {}

    def make(runtime: str) -> Path:
        if runtime not in made:
            folder = tmp_path_factory.mktemp(f"bundle-{runtime}")
            store = LocalStore(folder / "store")
            package = publish(store, tiny(runtime), folder / "package")
            made[runtime] = write(find("tiny", None, [package], store, connect), folder / "out").path
        return made[runtime]

    return make


def changed(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle with one golden value changed by a hundredth."""
    import shutil

    shutil.copytree(bundle, copy)
    index = json.loads((copy / "golden/index.json").read_text())
    path = copy / next(tensor["file"] for tensor in index["outputs"] if tensor["datatype"] == "FP32")
    array = np.load(path)
    array.flat[array.size // 2] *= np.float32(1.01)
    array.flat[array.size // 2] += np.float32(0.01)
    np.save(path, array)
    return copy


# --- in each runtime ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnx", "tensorflow", "torch"])
def test_the_program_in_the_readme_reproduces_the_golden_answers(
    bundled: Callable[[str], Path],
    runtime: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_readme(bundled(runtime), monkeypatch)
    assert capsys.readouterr().out == "the golden answers are reproduced\n"


def test_the_program_in_the_readme_fails_where_an_answer_was_changed(
    bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 36"):
        run_readme(changed(bundled("onnx"), tmp_path / "changed"), monkeypatch)


def run_readme(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the program that README.txt prints, in the bundle's folder; here, because importing a runtime takes long."""
    lines = (bundle / "README.txt").read_text().splitlines()
    printed = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))
    assert "import json" in printed
    monkeypatch.chdir(bundle)
    exec(compile(printed, "README.txt", "exec"), {})


# --- in another language ------------------------------------------------------------------------------------------


def test_javascript_reproduces_the_golden_answers_of_floats_and_integers(bundled: Callable[[str], Path]) -> None:
    done = score(bundled("onnx"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "tiny 1: 48 values, as the source model's"


def test_javascript_sees_a_golden_answer_that_was_changed(bundled: Callable[[str], Path], tmp_path: Path) -> None:
    done = score(changed(bundled("onnx"), tmp_path / "changed"))
    assert done.returncode == 1
    assert "tiny 1: 48 values, NOT the source model's" in done.stdout


def test_javascript_says_which_format_it_runs(bundled: Callable[[str], Path]) -> None:
    done = score(bundled("torch"))
    assert done.returncode == 2
    assert "bundle it with --format onnx" in done.stderr


def test_javascript_tells_what_is_no_bundle_from_a_wrong_answer(tmp_path: Path) -> None:
    done = score(tmp_path)
    assert done.returncode == 2
    assert "cannot be scored" in done.stderr


# --- out of an image ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tiny: Tiny, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Image, LocalStore]]:
    """The tiny model, packaged by the image stage, and the store that it was packaged from."""
    folder = tmp_path_factory.mktemp("bundle-image")
    store, model = LocalStore(folder / "store"), tiny("onnx")
    export = samples.export(store).model_copy(
        update={"files": put_tree(store, model.folder), "root": model.root, "versions": {}}
    )
    golden = put_file(store, write_golden(folder / "golden.npz"))
    parity = samples.parity_report(store, golden=golden, export_digest=export.files.digest)
    signature = {"inputs": SIGNATURE.inputs, "outputs": SIGNATURE.outputs, "dynamic": SIGNATURE.dynamic}
    # A name of its own, so that two runs of this suite do not remove each other's images.
    name = f"bundle-test-{uuid.uuid4().hex[:8]}"
    spec = samples.spec(folder, name=name, **signature, preprocess=PREPROCESS)
    artifact = samples.artifact(store, signature=SIGNATURE)
    made = build(spec, artifact, export, parity, store, engine, Settings.from_environment())
    yield made, store
    engine.remove_image(made.reference)


@pytest.mark.docker
def test_an_image_gives_the_same_bundle_as_the_store_that_it_was_made_from(
    image: tuple[Image, LocalStore], engine: Engine, tmp_path: Path
) -> None:
    made, store = image
    spec = samples.spec(formats=("onnx",))
    smoke = [samples.smoke_report(instance_type=kind, image_digest=made.digest) for kind in samples.TYPES]
    package = samples.package(store, spec, images=[made], smoke=smoke)
    write(find("digits", None, [package], store, connect), tmp_path / "stored.tar")
    write(find(made.reference, None, [package], LocalStore(tmp_path / "empty"), lambda: engine), tmp_path / "image.tar")
    assert (tmp_path / "image.tar").read_bytes() == (tmp_path / "stored.tar").read_bytes()


# --- the command --------------------------------------------------------------------------------------------------


def slipway(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "DOCKER_"))}
    return subprocess.run(
        [SLIPWAY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "SLIPWAY_HOME": str(home), **env},
        cwd=home.parent,
    )


def test_the_command_writes_what_it_says(tiny: Tiny, tmp_path: Path) -> None:
    package = publish(LocalStore(tmp_path / "home/store"), tiny("onnx"), tmp_path / "package")
    done = slipway(tmp_path / "home", "bundle", "tiny", "out.tar", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0
    assert (said["package"], said["format"], said["path"]) == (package.digest, "onnx", "out.tar")
    assert said["size_bytes"] == (tmp_path / "out.tar").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("tniy", "out"), 2, "did you mean tiny?"),
        (("tiny", "package"), 2, "already there"),
        (("failed", "out"), 1, "what did not pass is not bundled"),
        (("slipway/tiny:onnx", "out"), 3, "no Docker engine answers"),
    ],
    ids=["no such model", "there already", "not passed", "no engine"],
)
def test_the_command_says_in_a_sentence_why_not(
    tiny: Tiny, tmp_path: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    store = LocalStore(tmp_path / "home/store")
    publish(store, tiny("onnx"), tmp_path / "package")
    publish(store, tiny("onnx"), tmp_path / "other", "failed", smoke=[])
    done = slipway(tmp_path / "home", "bundle", *arguments, DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()
