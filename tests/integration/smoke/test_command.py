"""`slipway smoke`, as users run it, on images that this store did and did not package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.lineage.history import remember_tuned
from tasks.spec import SmokeSpec
from tasks.store import LocalStore
from tests import samples
from tests.integration.smoke.bench import Bench, Spoil
from tests.integration.smoke.packages import Packages
from tests.integration.test_cli import published, slipway

pytestmark = pytest.mark.docker

#: No budget is tested here, and the machine may be busy.
PATIENT = ("--p99-ms", "20000", "--cold-start-s", "60")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_what_passed_is_not_run_again_and_says_from_when_it_is(bench: Bench, home: Path) -> None:
    arguments = ("smoke", bench.good.reference, "--instance-type", "this-machine", *PATIENT)
    first = slipway(home, *arguments, "--json")
    assert first.returncode == 0, first.stdout + first.stderr
    document = json.loads(first.stdout)
    (of_type,) = document["types"]
    assert (of_type["reused"], of_type["instance_type"], document["verdict"]) == (False, "this-machine", "passed")
    assert document["digest"] == bench.good.digest
    again = slipway(home, *arguments)
    assert again.returncode == 0, again.stderr
    made = of_type["made_at"]
    assert f"{made[:10]} {made[11:16]} UTC, not run again" in again.stdout
    assert "✓ this-machine: this-processor (" in again.stdout


def test_a_bad_image_is_exit_code_1_with_the_finding_and_its_types(home: Path, spoil: Spoil) -> None:
    crashing = spoil("import ctypes\nctypes.string_at(0)\n")
    done = slipway(
        home, "smoke", crashing.digest, "--instance-type", "c4.large,c6i.large", "--instance-type", "c4.large"
    )
    assert done.returncode == 1, done.stderr
    assert "SMOKE_CRASHED  c4.large; c6i.large  (for the model team)" in done.stdout
    assert done.stderr.count("failed") == 2


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("golden.npz", "its golden samples are not those of its contract"),
        ("contract.json", "it says that its contract is sha256:"),
    ],
)
def test_an_image_that_was_changed_after_it_was_built_is_not_taken_at_its_word(
    bench: Bench, home: Path, tmp_path: Path, spoil: Spoil, file: str, said: str
) -> None:
    bench.engine.copy_out(bench.good.digest, "/package/contract.json", tmp_path)
    easier = {"golden.npz": b"easier questions", "contract.json": (tmp_path / "contract.json").read_bytes() + b" "}
    image = spoil(files={f"package/{file}": easier[file]})
    done = slipway(home, "smoke", image.digest, "--instance-type", "c4.large")
    assert done.returncode == 2
    assert f"was changed after it was built: {said}" in done.stderr


def test_an_image_of_something_else_is_exit_code_2(bench: Bench, home: Path) -> None:
    runtime = bench.good.labels["org.opencontainers.image.base.name"]
    done = slipway(home, "smoke", runtime, "--instance-type", "c4.large")
    assert done.returncode == 2
    assert "is no serving image that Slipway built" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["digits", "--instance-type", "c4.larg"],
            "no instance type 'c4.larg' in the catalogue: did you mean c4.large",
        ),
        (["digits", "--instance-type", "c4.larg,m5.larg"], "no instance type 'm5.larg'"),
        (
            ["digit", "--instance-type", "c4.large"],
            "the engine has no image digit (an image is given as NAME:TAG or by its digest), and no package",
        ),
        (["digit", "--instance-type", "c4.large"], "did you mean digits?"),
        (["python:3", "--instance-type", "c4.large"], "the engine has no image python:3"),
        (["digits", "--format", "tflite"], "has no image as tflite"),
    ],
)
def test_a_wrong_name_is_exit_code_2_and_says_what_was_meant(home: Path, arguments: list[str], said: str) -> None:
    published(home)
    done = slipway(home, "smoke", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_image_that_the_engine_no_longer_has_is_exit_code_3(home: Path) -> None:
    published(home)
    done = slipway(home, "smoke", "digits")
    assert done.returncode == 3
    assert "is not in the engine: `slipway package` makes it again" in done.stderr


def test_an_image_without_a_package_needs_an_instance_type(bench: Bench, home: Path) -> None:
    done = slipway(home, "smoke", bench.good.reference)
    assert done.returncode == 2
    assert "say which --instance-type" in done.stderr


def test_without_an_engine_it_is_exit_code_3(home: Path) -> None:
    done = slipway(
        home, "smoke", "x:1", "--instance-type", "c4.large", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    )
    assert done.returncode == 3
    assert "Docker" in done.stderr


#: Decided without starting anything.
UNPROVEN = "g4dn.xlarge"


def test_a_tuned_image_is_smoked_by_its_own_name_on_the_types_of_its_package(
    bench: Bench, packages: Packages, home: Path
) -> None:
    spec = samples.spec(name="digits", smoke=SmokeSpec(instance_types=(UNPROVEN,)))
    store = LocalStore(home / "store")
    package = samples.package(store, spec, artifact=samples.artifact(store), images=[bench.good], smoke=[])
    store.put_result("package", package.digest, package.model_dump_json())
    image = packages.spoiled(bench, files={"package/tuning.json": b"{}"})
    remember_tuned(samples.tuned_image(store, package, reference=image.reference, digest=image.digest), store)
    done = slipway(home, "smoke", image.reference, "--json")
    document = json.loads(done.stdout)
    assert document["digest"] == image.digest
    assert [of_type["instance_type"] for of_type in document["types"]] == [UNPROVEN]
