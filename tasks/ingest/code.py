"""The entrypoint of a PyTorch state dict: the user's own module, handed over beside model.yaml.

Only the module and what it imports from its own folder are stored. Libraries are not: they are Slipway's.
"""

from __future__ import annotations

import ast
import importlib
import sys
import threading
from pathlib import Path
from typing import Any

from tasks.contracts import FileTree
from tasks.errors import SourceError
from tasks.store import Store, put_file

_import_lock = threading.Lock()


def module_files(folder: Path, entrypoint: str) -> tuple[Path, ...]:
    """The entrypoint's module and its local imports, as sorted paths relative to `folder`."""
    found: set[Path] = set()
    waiting = [entrypoint.partition(":")[0]]
    while waiting:
        for path in _files_of(folder, waiting.pop()):
            if path not in found:
                found.add(path)
                waiting += _imports(folder, path)
    return tuple(sorted(found))


def store_code(folder: Path, entrypoint: str, store: Store) -> FileTree:
    """Store the entrypoint's module and its local imports."""
    paths = module_files(folder, entrypoint)
    if not paths:
        raise SourceError(f"source.entrypoint: there is no {entrypoint.partition(':')[0]}.py in {folder}")
    files = [put_file(store, folder / path, path.as_posix()) for path in paths]
    return FileTree(files=tuple(sorted(files, key=lambda file: file.path)))


def call_entrypoint(code: Path, entrypoint: str) -> Any:
    """Import the module from the folder `code` and call its callable without arguments.

    The folder's modules are imported under their own names but not left in `sys.modules`, so that two models in one
    process may both call theirs `model`.
    """
    module_name, _, attribute = entrypoint.partition(":")
    names = {path.relative_to(code).parts[0].removesuffix(".py") for path in code.rglob("*.py")}

    def ours(name: str) -> bool:
        return name.partition(".")[0] in names

    with _import_lock:
        stashed = {name: sys.modules.pop(name) for name in list(sys.modules) if ours(name)}
        sys.path.insert(0, str(code))
        importlib.invalidate_caches()
        try:
            return getattr(importlib.import_module(module_name), attribute)()
        finally:
            sys.path.remove(str(code))
            for name in [name for name in sys.modules if ours(name)]:
                del sys.modules[name]
            sys.modules.update(stashed)


def _files_of(folder: Path, module: str) -> list[Path]:
    """The files that importing `module` would run, where they lie in `folder`: its packages first."""
    files = []
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        stem = Path(*parts[:depth])
        for candidate in (stem / "__init__.py", stem.with_suffix(".py")):
            if (folder / candidate).is_file():
                files.append(candidate)
                break
    return files


def _imports(folder: Path, path: Path) -> list[str]:
    try:
        tree = ast.parse((folder / path).read_bytes())
    except SyntaxError as error:
        raise SourceError(f"{path}:{error.lineno}: not Python: {error.msg}") from error
    package = list(path.parent.parts)
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base] if base else []
            names += [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
    return names
