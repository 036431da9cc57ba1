"""The entrypoint's code: found by its imports, run from the store, and leaving no trace in the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks.errors import SourceError
from tasks.ingest.code import call_entrypoint, module_files, store_code
from tasks.store import LocalStore, fetch_tree


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names(folder: Path, entrypoint: str) -> list[str]:
    return [path.as_posix() for path in module_files(folder, entrypoint)]


def test_a_module_comes_with_what_it_imports_from_its_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "model.py": "import os, torch\nfrom layers import Block\nimport nets.wide as wide\n",
            "layers.py": "def f():\n    from shapes import Shape\n",
            "shapes.py": "",
            "nets/__init__.py": "",
            "nets/wide.py": "from . import deep\nfrom .deep import x\nfrom ..nowhere import y\n",
            "nets/deep.py": "",
            "train.py": "import model\n",
            "unrelated.py": "",
        },
    )
    assert names(tmp_path, "model:build") == [
        "layers.py",
        "model.py",
        "nets/__init__.py",
        "nets/deep.py",
        "nets/wide.py",
        "shapes.py",
    ]


def test_an_entrypoint_may_lie_in_a_package(tmp_path: Path) -> None:
    write(tmp_path, {"nets/__init__.py": "", "nets/model.py": "from .parts import p", "nets/parts.py": "p = 1"})
    assert names(tmp_path, "nets.model:build") == ["nets/__init__.py", "nets/model.py", "nets/parts.py"]


def test_modules_that_import_each_other_are_found_once(tmp_path: Path) -> None:
    write(tmp_path, {"model.py": "import other", "other.py": "import model"})
    assert names(tmp_path, "model:build") == ["model.py", "other.py"]


def test_a_module_that_is_not_there_or_not_python_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no module model"):
        module_files(tmp_path, "model:build")
    write(tmp_path, {"model.py": "import broken", "broken.py": "x = 1\ndef f(:\n"})
    with pytest.raises(SourceError, match=r"broken\.py:2 is not Python"):
        module_files(tmp_path, "model:build")


def test_the_stored_code_runs_without_the_folder_it_came_from(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "spec", {"model.py": "from parts import p\ndef build():\n    return p", "parts.py": "p = 5"}
    )
    store = LocalStore(tmp_path / "store")
    tree = store_code(folder, "model:build", store)
    code = fetch_tree(store, tree, tmp_path / "code")
    for path in folder.iterdir():
        path.unlink()
    assert call_entrypoint(code, "model:build") == 5


def test_two_models_in_one_process_may_both_call_their_module_model(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"model.py": "import parts\ndef build(): return parts.p", "parts.py": "p = 'a'"})
    second = write(tmp_path / "b", {"model.py": "import parts\ndef build(): return parts.p", "parts.py": "p = 'b'"})
    assert [call_entrypoint(folder, "model:build") for folder in (first, second, first)] == ["a", "b", "a"]


def test_calling_an_entrypoint_leaves_no_module_and_no_path_behind(tmp_path: Path) -> None:
    folder = write(tmp_path, {"model.py": "import json_tools\ndef build(): return 1", "json_tools.py": ""})
    modules, path = set(sys.modules), list(sys.path)
    call_entrypoint(folder, "model:build")
    assert set(sys.modules) - modules == set()
    assert sys.path == path


def test_what_the_code_raises_is_told_with_its_place(tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"model.py": "from parts import f\ndef build():\n    return f()", "parts.py": "def f():\n    1 / 0"}
    )
    with pytest.raises(SourceError, match=r"model:build raised ZeroDivisionError at parts\.py:2: division by zero"):
        call_entrypoint(folder, "model:build")
    assert "parts" not in sys.modules


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {"model.py": "import timm_of_nowhere\ndef build(): ..."})
    with pytest.raises(SourceError, match="imports timm_of_nowhere, which is neither"):
        call_entrypoint(folder, "model:build")
