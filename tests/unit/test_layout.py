"""Rules about the tree itself: where things may be imported, what may not be written down."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW_HOMES = ("dags", "plugins", "tasks/airflow_glue")
HEAVY = {
    *("docker", "great_expectations", "jax", "keras", "mlflow", "onnx", "onnxruntime", "onnxscript", "skl2onnx"),
    *("sklearn", "skops", "tensorflow", "tf2onnx", "torch", "torchax"),
}
#: What only the lazily loaded torch runner reaches: whoever imports these is about to run torch anyway.
RUNS_TORCH = {f"docker/serving/runners/torch_{name}.py" for name in ("aoti", "archive", "program")}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def modules(tree: ast.AST) -> Iterator[str]:
    """Every absolute module name that `tree` imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def imported_with_the_module(tree: ast.Module) -> Iterator[str]:
    """What importing the module itself imports: not what is in functions, nor what is for type checkers alone."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting.extend(node.orelse)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from modules(node)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def tops(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_docker_is_no_package_so_that_it_does_not_shadow_the_docker_sdk() -> None:
    assert not (ROOT / "docker" / "__init__.py").exists()


@pytest.mark.parametrize(
    "path", sources("tasks", "docker", "scripts", "examples"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_airflow_is_imported_only_by_its_own_folders(path: Path) -> None:
    if path.relative_to(ROOT).as_posix().startswith(AIRFLOW_HOMES):
        return
    assert "airflow" not in tops(modules(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "path", sources("tasks", "docker/serving", "dags", "plugins", "scripts"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    allowed = {"torch"} if path.relative_to(ROOT).as_posix() in RUNS_TORCH else set()
    assert tops(imported_with_the_module(ast.parse(path.read_text()))) & HEAVY == allowed


@pytest.mark.parametrize("path", sources("tasks", "docker/serving"), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_runs_torch_is_imported_only_when_torch_is_to_run(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() in RUNS_TORCH:
        return
    names = set(imported_with_the_module(ast.parse(path.read_text())))
    assert not names & {f"serving.runners.{Path(name).stem}" for name in RUNS_TORCH}


@pytest.mark.parametrize("path", sources("docker/serving"), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_runs_in_the_image_imports_nothing_of_the_pipeline(path: Path) -> None:
    assert tops(modules(ast.parse(path.read_text()))) & {"tasks", "dags", "plugins", "scripts"} == set()


def test_dag_files_and_plugins_are_imported_by_nothing() -> None:
    for path in sources("tasks", "docker", "scripts"):
        assert tops(modules(ast.parse(path.read_text()))) & {"dags", "plugins"} == set(), path


def test_the_tree_names_no_place_of_a_single_machine() -> None:
    # Written apart, so that this file does not find itself.
    places = re.compile("/" + r"(work|root|opt/wheels|opt/pypi|home/(?!nonroot)\w+|Users/\w+|tmp/\w)[\w./-]*")
    found = []
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        path = ROOT / name
        if not path.is_file() or path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            # A file of the base image, or the remark of a path's shape in a comment, begins within a longer path.
            if match := re.search(r"(?<![\w.}$*-])" + places.pattern, line):
                found.append(f"{name}:{number}: {match.group()}")
    assert found == []


def test_every_requirement_is_locked_with_hashes() -> None:
    locked = (ROOT / "requirements.txt").read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==\S+ \\\n    --hash=sha256:", locked, re.MULTILINE)
    entries = re.findall(r"^([a-z0-9._-]+)==", locked, re.MULTILINE)
    asked = re.findall(r"^([A-Za-z0-9._-]+)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    assert pins == entries
    assert {re.sub(r"[._-]+", "-", name).lower() for name in asked} <= {re.sub(r"[._-]+", "-", n) for n in pins}


def test_make_offers_every_command_of_the_design() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "setup", "up", "down", "check", "bench", "lock"} <= targets
