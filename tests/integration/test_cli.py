"""`slipway` as users run it: exit codes, output for people and for programs, errors in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.attestation import attest, signer
from tasks.cli import run
from tasks.contracts import Package, Verdict, digest_of
from tasks.image.registry import Pushed
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples

ROOT = Path(__file__).parents[2]
SLIPWAY = Path(sys.executable).with_name("slipway")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def slipway(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    ours = ("SLIPWAY_", "MLFLOW_", "COLUMNS")  # COLUMNS: whoever runs the tests may sit at a narrow terminal
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [SLIPWAY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "SLIPWAY_HOME": str(home), **(env or {})},
        cwd=home.parent,
    )


def published(home: Path, name: str = "digits", **evidence: Any) -> Package:
    store = LocalStore(home / "store")
    package = samples.package(store, samples.spec(name=name), artifact=samples.artifact(store, name=name), **evidence)
    store.put_result("package", package.digest, package.model_dump_json())
    return package


# --- starting up --------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tasks.cli import run; run(['--help']); run(['package', '--help']);"
        "heavy = {'torch', 'tensorflow', 'jax', 'mlflow', 'numpy', 'docker', 'sklearn', 'onnx', 'pandas'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["package", "--help"], ["lineage", "--help"]])
def test_help_goes_to_standard_output(home: Path, arguments: list[str]) -> None:
    done = slipway(home, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: slipway" in done.stdout


def test_every_command_is_documented_and_nothing_else_is_one() -> None:
    from tasks.cli import app

    page = (ROOT / "docs" / "command-line.md").read_text()
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    assert len(names) > 5
    assert [name for name in names if f"slipway {name} " not in page] == []


def test_the_version_is_shown(home: Path) -> None:
    assert slipway(home, "--version").stdout.startswith("slipway 0.")


# --- bad input ----------------------------------------------------------------------------------------------------


def spec_file(folder: Path, **changes: object) -> Path:
    """An example's spec in another folder, without its artifacts unless they are linked."""
    from ruamel.yaml import YAML

    example = ROOT / "examples" / "breast-cancer-classifier"
    yaml = YAML(typ="safe", pure=True)
    content = {**yaml.load(example / "model.yaml"), **changes}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.yaml").open("w") as out:
        yaml.dump(content, out)
    return folder / "model.yaml"


BAD = {
    "no file": ["package", "nowhere/model.yaml"],
    "unknown command": ["pakcage"],
    "missing argument": ["package"],
    "unknown option": ["status", "--nope"],
    "unknown model": ["status", "nobody"],
    "unknown digest": ["lineage", "0123456789abcdef"],
    "no digest at all": ["lineage", "what?"],
    "no such instance type": ["instance-types", "abacus"],
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(home: Path, arguments: list[str]) -> None:
    done = slipway(home, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("slipway: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_with_json_errors_are_json_too(home: Path, arguments: list[str]) -> None:
    done = slipway(home, *arguments, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"], done.stderr) == (2, 2, "")
    assert error["message"]


def test_every_problem_of_a_spec_is_told_with_its_line(home: Path, tmp_path: Path) -> None:
    path = spec_file(tmp_path / "model", nmae="typo", formats=["onxx"])
    done = slipway(home, "package", str(path))
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    problems = json.loads(slipway(home, "package", str(path), "--json").stdout)["error"]["problems"]
    assert len(problems) >= 3  # both typos and the missing files
    assert {problem["key"] for problem in problems} >= {"nmae"}
    assert any(problem["line"] is not None for problem in problems)


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    """A spec whose files are there: what is in them is looked at only after the options."""
    artifacts = tmp_path / "model" / "artifacts"
    artifacts.mkdir(parents=True)
    for name in ("breast-cancer.skops", "eval.parquet"):
        (artifacts / name).touch()
    return spec_file(tmp_path / "model")


@pytest.mark.parametrize(
    ("option", "value", "nearest"),
    [("--formats", "onxn", "onnx"), ("--instance-types", "c6i.larg", "c6i.large"), ("--formats", "savedmodel", "onnx")],
)
def test_an_unknown_format_or_type_suggests_the_nearest(
    home: Path, valid: Path, option: str, value: str, nearest: str
) -> None:
    done = slipway(home, "package", str(valid), option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert nearest in done.stderr


def test_a_traceback_is_shown_only_where_it_is_asked_for(home: Path) -> None:
    assert "Traceback" in slipway(home, "package", "nowhere.yaml", "--debug").stderr


# --- the platform -------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_used_is_the_platforms_fault(home: Path, tmp_path: Path) -> None:
    done = slipway(home, "status", env={"SLIPWAY_STORE": "nowhere://bucket"})
    assert done.returncode == 3
    assert "nowhere://bucket" in done.stderr
    assert "Traceback" not in done.stderr


# --- questions ----------------------------------------------------------------------------------------------------


def test_asking_leaves_nothing_behind(home: Path) -> None:
    done = slipway(home, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "slipway package" in done.stdout
    assert not home.exists()


def test_status_shows_each_models_newest_package(home: Path) -> None:
    first, second = published(home, "digits"), published(home, "wine")
    done = slipway(home, "status")
    assert done.returncode == 0
    for package in (first, second):
        assert package.digest in done.stdout
    assert "onnx (serves)" in done.stdout
    assert "accuracy 0.9" in done.stdout
    assert "✓ c6i.large" in done.stdout


def test_a_narrow_terminal_gets_a_table_that_fits(home: Path) -> None:
    published(home, "digits"), published(home, "wine")
    done = slipway(home, "status", env={"COLUMNS": "80"})
    table = done.stdout.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "(serves)" not in table


def test_instance_types_are_listed_with_the_users_price(home: Path) -> None:
    own = home.parent / "own.yaml"
    own.write_text("prices: {c6i.large: {per_hour: 0.085, currency: USD}}\n")
    asked = {"SLIPWAY_INSTANCE_TYPES": str(own)}
    (found,) = json.loads(slipway(home, "instance-types", "c6i", "--json", env=asked).stdout)["instance_types"]
    assert (found["name"], found["level"], found["gpu"]) == ("c6i.large", "x86-64-v4", None)
    assert found["price"] == {"per_hour": 0.085, "currency": "USD"}
    lines = slipway(home, "instance-types", "NVIDIA T4", env=asked).stdout.splitlines()
    assert {line.split()[0] for line in lines} == {
        "type",
        "g4dn.xlarge",
        "g4dn.12xlarge",
        "g5g.xlarge",
        "Standard_NC4as_T4_v3",
    }


def test_status_of_one_model_shows_its_findings(home: Path) -> None:
    published(home, "wine")
    published(home, "digits", smoke=[])
    done = slipway(home, "status", "digits")
    assert "PACKAGE_SMOKE_MISSING" in done.stdout
    assert "wine" not in done.stdout


def test_a_model_that_is_nearly_known_is_suggested(home: Path) -> None:
    published(home, "digits")
    assert "did you mean digits?" in slipway(home, "status", "digts").stderr


def test_status_as_json_is_the_manifest(home: Path) -> None:
    package = published(home)
    done = slipway(home, "status", "--json")
    (found,) = json.loads(done.stdout)["packages"]
    assert found["package"] == package.digest
    assert Package.model_validate(found["manifest"]) == package


def test_lineage_walks_from_an_image_to_the_training_run_and_the_data(home: Path) -> None:
    package = published(home)
    done = slipway(home, "lineage", package.images[0].digest)
    assert done.returncode == 0
    for expected in (package.digest, str(package.artifact.source_run), "digits.keras", "eval.npz", "note: "):
        assert expected in done.stdout
    assert "Traceback" not in done.stderr


def test_lineage_as_json_is_one_document(home: Path) -> None:
    package = published(home)
    done = slipway(home, "lineage", package.digest.removeprefix("sha256:")[:10], "--json")
    found = json.loads(done.stdout)
    assert found["found"] == "package"
    assert found["packages"][0]["package"] == package.digest
    assert found["notes"]


def test_a_reader_that_has_had_enough_gets_no_complaint(home: Path) -> None:
    for index in range(30):
        published(home, f"model-{index}")
    command = f"{SLIPWAY} status --json | head -c 10"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SLIPWAY_HOME": str(home)},
    )
    assert done.stderr == ""


# --- reproducing --------------------------------------------------------------------------------------------------


def failed(home: Path) -> Package:
    """A package whose onnx does not answer as its source does."""
    store = LocalStore(home / "store")
    folder = samples.tree(store, "README.md", "export/model.onnx", "reproduce.py")
    blocked = samples.parity_report(store, verdict="failed", findings=(samples.finding(),), reproduction=folder)
    return published(home, parity=[blocked, samples.parity_report(store, "savedmodel")])


@pytest.mark.parametrize("which", ["digits", "digest", "first digits"])
def test_the_folder_that_reproduces_a_failure_is_written(home: Path, tmp_path: Path, which: str) -> None:
    package = failed(home)
    query = {"digest": package.digest, "first digits": package.digest.removeprefix("sha256:")[:12]}.get(which, which)
    done = slipway(home, "reproduce", query, "--to", str(tmp_path / "folder"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "reproduce.py" in done.stdout
    written = {path.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*.*")}
    assert written == {"README.md", "export/model.onnx", "reproduce.py"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "--format", "savedmodel"], "can be reproduced: onnx"),
        (["digts"], "did you mean digits"),
        (["digits", "--to", "."], "already there"),
    ],
)
def test_what_cannot_be_reproduced_is_bad_input(home: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    failed(home)
    folder = [] if "--to" in arguments else ["--to", str(tmp_path / "folder")]
    done = slipway(home, "reproduce", *arguments, *folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "folder").exists()


# --- signed evidence ----------------------------------------------------------------------------------------------


def signed(home: Path) -> Package:
    """A package whose images say what they were built on, with its attestation."""
    store = LocalStore(home / "store")
    images = [
        samples.image(
            name,
            labels={
                "io.slipway.export": samples.export(store, name).files.digest,
                "io.slipway.parity": digest_of(samples.parity_report(store, name)),
            },
        )
        for name in samples.FORMATS
    ]
    package = published(home, images=images)
    attest(package, store, Settings.from_environment({"SLIPWAY_HOME": str(home)}))
    return package


def test_signed_evidence_is_verified_with_the_key_beside_it(home: Path) -> None:
    package = signed(home)
    done = slipway(home, "verify-attestation", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"digits {package.digest}: attestation passed" in done.stdout


def test_another_key_is_exit_code_1(home: Path, tmp_path: Path) -> None:
    signed(home)
    other = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "other")})
    signer(other)
    done = slipway(home, "verify-attestation", "digits", "--key", str(other.home / "keys" / "signing.pub"), "--json")
    assert done.returncode == 1
    assert [each["code"] for each in json.loads(done.stdout)["findings"]] == ["ATTESTATION_KEY_UNKNOWN"]


def test_a_push_to_nowhere_is_said_before_the_engine_is_asked(home: Path) -> None:
    published(home)
    done = slipway(home, "push", "digits", env={"DOCKER_HOST": "tcp://127.0.0.1:9"})
    assert (done.returncode, done.stderr) == (2, "slipway: where to? give REGISTRY/REPO, or set SLIPWAY_REGISTRY\n")


@pytest.mark.parametrize(
    ("names", "code", "expected"),
    [
        (("missing.csv", "out.csv"), 2, "missing.csv cannot be read: No such file or directory"),
        (("rows.csv", "rows.csv"), 2, "rows.csv is the file of the rows, which answers must not replace"),
        (("rows.csv", "-", "--json"), 2, "--json and the answers both want standard output"),
        (("rows.csv", "out.csv"), 3, "no Docker engine answers"),
    ],
)
def test_scoring_names_what_is_wrong_with_the_files_before_the_engine(
    names: tuple[str, ...],
    code: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    Path("rows.csv").write_text("x\n1\n")
    assert run(["score", "slipway/m:onnx-1", *names]) == code
    said = capfd.readouterr()
    assert expected in (said.out if "--json" in names else said.err)
    assert len(said.err.splitlines()) <= 1
    assert Path("rows.csv").read_text() == "x\n1\n"


# --- where it may run ---------------------------------------------------------------------------------------------


def test_manifests_are_written_once_the_image_is_in_a_registry(home: Path) -> None:
    package = published(home)
    attest(package, LocalStore(home / "store"), Settings.from_environment({"SLIPWAY_HOME": str(home)}))
    refused = slipway(home, "manifests", "digits", "--out", "out")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "slipway push" in refused.stderr
    assert not (home.parent / "out").exists()

    image = next(image for image in package.images if image.format == "savedmodel")
    manifest = digest_of("manifest")
    place = Pushed(
        image=image.digest, layers=image.layers, repository="r.example.com/digits", tag="t", manifest=manifest
    )
    LocalStore(home / "store").put_result("pushed", manifest, place.model_dump_json())
    done = slipway(home, "manifests", "digits", "--format", "savedmodel", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["image"] == f"r.example.com/digits@{manifest}"
    assert said["instance_types"] == ["c4.large", "c6i.large"]
    assert {path.name for path in (home.parent / "out").rglob("*.yaml")} == {
        *("deployment.yaml", "service.yaml", "horizontalpodautoscaler.yaml", "poddisruptionbudget.yaml"),
        "compose.yaml",
    }


def test_the_matrix_is_shown_and_written_as_a_page(home: Path) -> None:
    slow = samples.finding("SMOKE_LATENCY")
    failed = samples.smoke_report("onnx", "c4.large", verdict=Verdict.FAILED, findings=(slow,))
    proven = samples.smoke_report("onnx", "c6i.large")
    published(home, smoke=[proven, failed])
    done = slipway(home, "matrix", "digits", "--html", "matrix.html")
    assert done.returncode == 0, done.stderr
    assert "✗ failed: SMOKE_LATENCY" in done.stdout
    assert "Take onnx on c6i.large" in done.stdout
    assert "SMOKE_LATENCY" in (home.parent / "matrix.html").read_text()
