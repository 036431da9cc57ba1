"""`release`, `rollback` and `status` on the command line: what is refused in a sentence, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.cli import run
from tasks.lineage import remember_spec
from tasks.manifest import in_order
from tasks.release.controller.opening import Asked
from tasks.spec import ReleaseSpec
from tasks.store import Store, open_store
from tests import samples
from tests.rehearsal import World, candidate, controller, released


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    for name in ("SLIPWAY_STORE", "MLFLOW_TRACKING_URI", "SLIPWAY_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def store(home: Path) -> Store:
    """One package of digits, which passed."""
    store = open_store(str(home / "home" / "store"))
    package(store)
    return store


def package(store: Store, *, with_spec: bool = True, **changes: object) -> None:
    spec = samples.spec(release=ReleaseSpec(approval=True))
    made = samples.package(store, spec, **changes)
    store.put_result("package", made.digest, made.model_dump_json())
    if with_spec:
        remember_spec(in_order(spec), store)


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err


def test_without_a_terminal_and_without_yes_nobody_approves(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["release", "digits"]) == 1
    assert "--yes" in said(capfd)


def test_a_package_that_did_not_pass_is_not_released(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package(open_store(str(home / "home" / "store")), smoke=[])
    assert run(["release", "digits", "--yes"]) == 1
    assert "only what passed is released" in said(capfd)


def test_a_package_without_its_spec_is_to_be_packaged_again(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package(open_store(str(home / "home" / "store")), with_spec=False)
    assert run(["release", "digits", "--yes"]) == 2
    assert "run `slipway package` again" in said(capfd)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["release", "digts", "--yes"], "did you mean digits?"),
        (["release", "digits@7", "--yes"], "no version 7"),
        (["release", "--resume", "digits"], "never released"),
        (["rollback", "digits"], "never released"),
        (["release", "digits", "--yes", "--recorded", "nowhere"], "expected a folder"),
    ],
)
def test_what_is_not_there_is_bad_input(
    store: Store, capfd: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run(arguments) == 2
    assert expected in said(capfd)


def test_a_second_release_is_refused_in_a_sentence(home: Path, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    moving = controller(home, World(home))
    released(moving, 1, store)
    moving.open(candidate(2, store), Asked(by="anna"), again=True)
    assert run(["release", "digits", "--yes"]) == 2
    [sentence] = said(capfd).splitlines()
    assert "is being released already" in sentence
    assert "by anna" in sentence


def test_status_shows_what_serves_and_how_the_last_releases_ended(
    home: Path, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    moving = controller(home, World(home))
    released(moving, 1, store)
    released(moving, 2, store)
    assert run(["status", "digits"]) == 0
    shown = capfd.readouterr().out
    assert "digits answers on http://127.0.0.1:" in shown
    assert "to go back to: version 1" in shown
    assert shown.count("promoted") >= 2


def test_status_shows_the_release_that_goes_on_and_that_nobody_watches(
    home: Path, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    moving = controller(home, World(home))
    released(moving, 1, store)
    moving.open(candidate(2, store), Asked(by="anna"), again=True)
    assert run(["status", "digits"]) == 0
    assert "no process of this machine watches it" in capfd.readouterr().out


def test_status_as_json_has_the_releases(home: Path, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    released(controller(home, World(home)), 1, store)
    assert run(["status", "--json"]) == 0
    [found] = json.loads(capfd.readouterr().out)["releases"]
    assert found["serving"]["current"]["version"] == "1"
    assert found["last"][0]["phase"] == "promoted"
