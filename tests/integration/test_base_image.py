"""The base image: what is in it, what is not, and that it comes out the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

BASE = Path(__file__).resolve().parents[2] / "docker" / "base"
pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def reference() -> str:
    return subprocess.check_output([BASE / "build.sh"], text=True).splitlines()[-1]


def python(reference: str, code: str, *options: str) -> str:
    """Run as the images are run: no network, nothing writable, no privileges."""
    return subprocess.check_output(
        [
            *("docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", *options, reference, "python3.11", "-c", code),
        ],
        text=True,
        stderr=subprocess.STDOUT,
    )


def inspect(reference: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(subprocess.check_output(["docker", "image", "inspect", reference]))[0]
    return found


def test_it_runs_as_nobody_in_particular(reference: str) -> None:
    assert python(reference, "import os; print(os.getuid(), os.getgid(), os.getgroups())") == "65532 65532 [65532]\n"


def test_the_interpreter_is_the_only_program(reference: str) -> None:
    code = """
import os
for folder, _, names in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/dev")):
        continue
    for name in names:
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.access(path, os.X_OK):
            continue
        with open(path, "rb") as file:
            if file.read(4) == b"\\x7fELF" and ".so" not in name:
                print(path)
"""
    assert python(reference, code) == "/usr/bin/python3.11\n"


def test_there_is_no_shell(reference: str) -> None:
    result = subprocess.run(
        ["docker", "run", "--rm", reference, "/bin/sh", "-c", "true"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 127
    assert "no such file or directory" in result.stderr


def test_nothing_in_it_runs_as_its_owner(reference: str) -> None:
    code = """
import os, stat
for folder, _, names in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/dev")):
        continue
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.islink(path) and os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
            print(path)
"""
    assert python(reference, code) == ""


def test_every_extension_module_finds_its_libraries(reference: str) -> None:
    code = """
import importlib, pathlib, sys
names = sorted(path.name.split(".")[0] for path in pathlib.Path("/usr/lib/python3.11/lib-dynload").glob("*.so"))
for name in names:
    importlib.import_module(name)
print(len(names) > 20, {"_ssl", "_sqlite3", "_ctypes", "_lzma", "_decimal"} - set(sys.modules))
"""
    assert python(reference, code) == "True set()\n"


def test_its_bytecode_is_compiled(reference: str) -> None:
    code = "import json.decoder, pathlib; print(pathlib.Path(json.decoder.__cached__).exists())"
    assert python(reference, code) == "True\n"


def test_scanners_find_what_it_is_made_of(reference: str) -> None:
    named = [line for line in (BASE / "packages").read_text().splitlines() if line and not line.startswith("#")]
    code = """
import pathlib
for path in sorted(pathlib.Path("/var/lib/dpkg/status.d").iterdir()):
    fields = dict(line.split(": ", 1) for line in path.read_text().splitlines() if line[0] != " " and ": " in line)
    print(fields["Package"], bool(fields["Version"]))
"""
    assert python(reference, code).splitlines() == [f"{name} True" for name in sorted(named)]


def test_the_recipe_names_the_image(reference: str, tmp_path: Path) -> None:
    recipe = tmp_path / "base"
    shutil.copytree(BASE, recipe)
    check = [str(recipe / "build.sh"), "--check"]
    assert subprocess.check_output(check, text=True).strip() == reference
    with (recipe / "README.md").open("a") as readme:
        readme.write("More words.\n")
    assert subprocess.check_output(check, text=True).strip() == reference
    with (recipe / "packages").open("a") as packages:
        packages.write("libpng16-16\n")
    assert subprocess.run(check, check=False).returncode == 1


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed")
def test_bootstrapped_twice_it_is_the_same_to_the_byte(tmp_path: Path) -> None:
    configurations = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        subprocess.run([BASE / "bootstrap.sh", folder, "slipway/base:test"], check=True, capture_output=True)
        configurations.append((folder / "config.json").read_text())
    assert configurations[0] == configurations[1]  # it holds the layer's digest


def test_an_image_of_ones_own_is_taken_where_it_runs_python(reference: str) -> None:
    identity = str(inspect(reference)["Id"])
    environment = {**os.environ, "SLIPWAY_BASE_IMAGE": identity}
    assert subprocess.check_output([BASE / "build.sh"], text=True, env=environment).strip() == identity


def test_an_image_of_ones_own_is_not_pulled_without_its_digest() -> None:
    environment = {**os.environ, "SLIPWAY_BASE_IMAGE": "registry.test/python:3.11"}
    result = subprocess.run([BASE / "build.sh"], text=True, env=environment, capture_output=True, check=False)
    assert result.returncode == 3
    assert "only a reference by digest (name@sha256:…) is pulled" in result.stderr
