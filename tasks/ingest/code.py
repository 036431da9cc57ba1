"""The user's own modules, handed over beside model.yaml: the entrypoint of a PyTorch state dict, and metrics.

This is code that runs here by design: the state dict beside it holds only tensors, and something must build the
module that they belong to. Only the module and what it imports from its own folder are stored; libraries are
Slipway's own.
"""

from __future__ import annotations

import ast
import importlib
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tasks.contracts import FileTree
from tasks.errors import SourceError
from tasks.store import Store, put_file

_importing = threading.Lock()


def module_files(folder: Path, entrypoint: str) -> tuple[Path, ...]:
    """The entrypoint's module and its local imports, as sorted paths relative to `folder`.

    Imports are followed wherever they stand in the code. What is imported by a computed name is not found.

    Raises:
        SourceError: the module is not there, or one of the files is not Python.
    """
    module = entrypoint.partition(":")[0]
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        for path in _files_of(folder, waiting.pop()):
            if path not in found:
                found.add(path)
                waiting += _imports(folder, path)
    if not found:
        raise SourceError(f"source.entrypoint: there is no module {module} in the folder of the spec")
    return tuple(sorted(found))


def store_code(folder: Path, entrypoint: str, store: Store) -> FileTree:
    """Store the entrypoint's module and its local imports."""
    files = [put_file(store, folder / path, path.as_posix()) for path in module_files(folder, entrypoint)]
    return FileTree(files=tuple(sorted(files, key=lambda file: file.path)))


def call_entrypoint(code: Path, entrypoint: str) -> Any:
    """Import the module from the folder `code` and call its callable without arguments.

    The folder's modules are imported under their own names but not left in `sys.modules`, so that two models in one
    process may both call theirs `model`. So a module's local imports belong at its top, not inside functions that run
    later.

    Raises:
        SourceError: the module cannot be imported, has no such callable, or the callable raised.
    """
    return _in_own_modules(code, entrypoint, lambda build: build())


def import_callable(code: Path, entrypoint: str) -> Callable[..., Any]:
    """Import the module from the folder `code` as `call_entrypoint` does, and give its callable uncalled.

    Raises:
        SourceError: the module cannot be imported, or has no such callable.
    """
    found = _in_own_modules(code, entrypoint, lambda function: function)
    if not callable(found):
        raise SourceError(f"{entrypoint}: expected a function, found a value of type {type(found).__name__}")
    return cast(Callable[..., Any], found)


def _in_own_modules(code: Path, entrypoint: str, use: Callable[[Any], Any]) -> Any:
    module_name, _, attribute = entrypoint.partition(":")
    names = {path.relative_to(code).parts[0].removesuffix(".py") for path in code.rglob("*.py")}

    def ours(name: str) -> bool:
        return name.partition(".")[0] in names

    with _importing:
        stashed = {name: sys.modules.pop(name) for name in list(sys.modules) if ours(name)}
        sys.path.insert(0, str(code))
        importlib.invalidate_caches()
        try:
            return use(getattr(importlib.import_module(module_name), attribute))
        except ModuleNotFoundError as error:
            raise SourceError(
                f"{entrypoint} imports {error.name}, which is neither in the spec's folder nor installed; "
                "put the module beside model.yaml, or install the library where Slipway runs"
            ) from error
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            raise SourceError(f"{entrypoint} raised {type(error).__name__} at {place}: {_first_line(error)}") from error
        finally:
            sys.path.remove(str(code))
            for name in [name for name in sys.modules if ours(name)]:
                del sys.modules[name]
            sys.modules.update(stashed)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


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
    """Every module that the file may import; names imported from a package may be its modules, or not."""
    try:
        tree = ast.parse((folder / path).read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise SourceError(f"{path}:{line} is not Python: {getattr(error, 'msg', error)}") from error
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
