"""An export that was made elsewhere → an `Export`, as if one of our exporters had written it.

In: a path on this machine and the format that it claims to be. Out: its files in the store, safe to open, with what
they say of themselves. Whether they answer as the source does is parity's question: a file with other names, shapes
or weights is adopted all the same, and judged there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tasks.contracts import Export, FileTree
from tasks.errors import BadInput
from tasks.export.formats import FORMATS
from tasks.ingest.fetch import locate, store_tree
from tasks.store import Store, put_file

_SAVEDMODEL_FILE = "saved_model.pb"
_ONNX_SUFFIX = ".onnx"


def adopt(path: Path, format: str, store: Store) -> Export:
    """Store the export at `path`: a file, or for a SavedModel its folder.

    Raises:
        BadInput: there is no such format, or no such export at `path`.
        UnsafeSource: opening it would run code from it.
    """
    if format not in FORMATS:
        raise BadInput(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    runtime = FORMATS[format].runtime
    if runtime not in _ADOPTED or FORMATS[format].is_compiled:
        raise BadInput(
            f"a {format} package is native code that runs when it is opened: Slipway opens only those that it built; "
            "verify the torch-export archive that it was compiled from"
        )
    if not path.exists():
        raise BadInput(f"{path}: there is no such file or folder: give the path of the exported model")
    return _ADOPTED[runtime](path, format, store)


def _onnx(path: Path, format: str, store: Store) -> Export:
    import onnx

    from tasks.ingest.onnx_model import external_files, refuse_code

    file = _one_file(path, _ONNX_SUFFIX)
    refuse_code(file)
    # what opens it from here on, onnxruntime first of all, goes by the ending of its name
    root = file.name if file.suffix == _ONNX_SUFFIX else f"{file.name}{_ONNX_SUFFIX}"
    stored = [put_file(store, file, root), *(put_file(store, file.parent / n, n) for n in external_files(file))]
    model = onnx.load(file, "protobuf", load_external_data=False)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    return Export(
        format=format,
        runtime="onnx",
        files=FileTree(files=tuple(sorted(stored, key=lambda item: item.path))),
        root=root,
        exporter=" ".join(filter(None, (model.producer_name, model.producer_version))) or "not named",
        opset=opset,
        ir_version=model.ir_version,
        versions=_versions("onnxruntime", "numpy"),
    )


def _savedmodel(path: Path, format: str, store: Store) -> Export:
    from tasks.ingest.savedmodel import refuse_code

    if not (path / _SAVEDMODEL_FILE).is_file():
        raise BadInput(f"{path}: expected a SavedModel, a folder with {_SAVEDMODEL_FILE} in it")
    refuse_code(path)
    return Export(
        format=format,
        runtime="tensorflow",
        files=store_tree(locate(str(path.absolute()), path.parent), store),
        root=".",
        exporter="not named",
        versions=_versions("tensorflow-cpu", "numpy"),
    )


def _torch_export(path: Path, format: str, store: Store) -> Export:
    from tasks.ingest.torch_archive import refuse_code

    file = _one_file(path, ".pt2")
    refuse_code(file)
    return Export(
        format=format,
        runtime="torch",
        files=FileTree(files=(put_file(store, file, file.name),)),
        root=file.name,
        exporter="torch.export",
        versions=_versions("torch", "numpy"),
    )


def _one_file(path: Path, suffix: str) -> Path:
    """The path itself, or the one file of that kind in the folder."""
    if path.is_file():
        return path
    found = sorted(path.glob(f"*{suffix}"))
    if len(found) != 1:
        there = ", ".join(file.name for file in found) or "none"
        raise BadInput(f"{path}: expected a {suffix} file, or a folder with one in it; found {there}")
    return found[0]


def _versions(*distributions: str) -> dict[str, str]:
    """What is installed here: that is what the file will be run with."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


#: Runtime → how its files are taken over. A runtime without an entry cannot be looked into before it runs.
_ADOPTED: Mapping[str, Callable[[Path, str, Store], Export]] = {
    "onnx": _onnx,
    "tensorflow": _savedmodel,
    "torch": _torch_export,
}
