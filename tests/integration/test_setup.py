"""`make setup` on machines that lack something: what it says, and that it heals."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@pytest.fixture
def checkout() -> Iterator[Path]:
    """What setup reads, apart from this checkout's .venv, and readable by others than its owner."""
    folder = Path(tempfile.mkdtemp(prefix="slipway-setup-"))
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docker" / "base", folder / "docker" / "base")
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "home").mkdir()
    (folder / "home").chmod(0o777)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with what the script itself is made of, and neither docker nor apt nor Python."""
    for name in (
        *("bash", "cat", "cut", "date", "dirname", "env", "flock", "id", "mkdir", "sed", "sha256sum", "sleep"),
        *("tail", "timeout", "touch", "tr", "uname"),
    ):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    return str(tmp_path)


def environment(checkout: Path, **changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIPWAY_", "DOCKER_"))}
    return {**kept, "SLIPWAY_HOME": str(checkout / "home"), **changes}


def setup(checkout: Path, env: Mapping[str, str], *prefix: str, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code, and what it said."""
    bash = shutil.which("bash")
    assert bash is not None
    result = subprocess.run(
        [*prefix, bash, str(checkout / "scripts" / "setup.sh"), *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return result.returncode, result.stdout


def test_an_engine_elsewhere_that_does_not_answer_is_said_and_nothing_is_started(checkout: Path) -> None:
    code, said = setup(checkout, environment(checkout, DOCKER_HOST="unix:///nonexistent/docker.sock"))
    assert code == 3
    assert "DOCKER_HOST=unix:///nonexistent/docker.sock names a Docker engine that does not answer" in said
    assert not (checkout / ".venv").exists()
    assert not (checkout / "home" / "logs" / "dockerd.log").exists()


def test_everything_that_is_missing_is_said_at_once_in_a_sentence_each(checkout: Path, bare_path: str) -> None:
    code, said = setup(checkout, environment(checkout, PATH=bare_path), arguments=("--tests",))
    assert code == 3
    lines = said.splitlines()
    things = (
        "The docker command is missing",
        "mmdebstrap, which makes the base image",
        "g++ is missing",
        "chromium is",
        "node is missing",
        "npm is missing",
    )
    for thing in things:
        assert sum(thing in line for line in lines) == 1
    assert all(line.startswith("setup: ") for line in lines)
    assert not (checkout / ".venv").exists()


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_a_user_who_may_not_use_the_engine_is_told_so(checkout: Path) -> None:
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    code, said = setup(checkout, environment(checkout), *nobody)
    assert code == 3
    assert "docker.sock is not open to nobody: add the user to the group docker, or run as root." in said


def test_another_machine_than_the_locks_is_refused(checkout: Path, bare_path: str) -> None:
    fake = Path(bare_path) / "uname"
    fake.unlink()
    fake.write_text("#!/bin/sh\necho Darwin arm64\n")
    fake.chmod(0o755)
    code, said = setup(checkout, environment(checkout, PATH=bare_path))
    assert code == 3
    assert said == "setup: The locked environment is for Linux on x86_64; this is Darwin arm64.\n"


@pytest.mark.docker
def test_an_installation_that_was_interrupted_is_started_over(checkout: Path) -> None:
    """Made to fail for good by a folder without wheels, so that nothing large is installed."""
    (checkout / "wheels").mkdir()
    env = environment(checkout, SLIPWAY_WHEELS=str(checkout / "wheels"))
    code, said = setup(checkout, env)
    assert code == 3
    assert "No matching distribution found for uv" in said
    mark = checkout / ".venv" / "left-by-the-first"
    mark.touch()
    code, said = setup(checkout, env)
    assert "an installation was interrupted; starting over" in said
    assert not mark.exists()
    assert code == 3


def test_two_at_once_take_turns(checkout: Path) -> None:
    env = environment(checkout, DOCKER_HOST="unix:///nonexistent/docker.sock")
    with (checkout / "scripts" / "setup.sh").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [checkout / "scripts" / "setup.sh"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert second.stdout is not None
        assert second.stdout.readline() == "setup: waiting for another setup of this checkout\n"
        time.sleep(0.2)
        assert second.poll() is None
    rest, _ = second.communicate(timeout=60)
    assert "does not answer" in rest


@pytest.mark.docker
def test_with_everything_there_nothing_is_done() -> None:
    command = [ROOT / "scripts" / "setup.sh"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    before = (ROOT / ".venv" / ".slipway").stat().st_mtime_ns
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "setup: everything is there\n"
    assert (ROOT / ".venv" / ".slipway").stat().st_mtime_ns == before
