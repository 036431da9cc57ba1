"""`SOURCES`: how each kind of source model is opened, and which file is of which kind.

A loader is one module and one line here. Its module has

    inspect(path, spec)           raises UnsafeSource or SourceError; opens nothing that could run code
    load(path, artifact, work)    → SourceModel; is as careful as inspect, because a store can be shared
"""

from __future__ import annotations

import importlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import NDArray

from tasks.errors import SourceError, UnsafeSource
from tasks.ingest.fetch import Location
from tasks.spec import Framework, SourceSpec

if TYPE_CHECKING:
    from tasks.contracts import Artifact
    from tasks.spec import ModelSpec

#: Loader → the module that reads it. Modules are imported when a source of their kind is met, never before.
SOURCES: dict[str, str] = {
    "torch-state-dict": "tasks.ingest.torch_state_dict",
    "torch-export": "tasks.ingest.torch_export",
    "keras": "tasks.ingest.keras_model",
    "savedmodel": "tasks.ingest.savedmodel",
    "skops": "tasks.ingest.skops_model",
    "onnx": "tasks.ingest.onnx_model",
}


class SourceModel(Protocol):
    """The trained model as its own framework runs it: what every export is compared with.

    `native` is what the framework itself works with: an `nn.Module` in eval mode (torch-state-dict), a
    `torch.export.ExportedProgram`, a `keras.Model`, a TensorFlow trackable (savedmodel), an estimator (skops), or the
    path of the file (onnx).
    """

    @property
    def native(self) -> Any: ...

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Answer model inputs (after preprocessing) by name: outputs in the signature's order, in the dtypes and
        shapes that the framework itself gives. The same inputs give the same answer; nothing is trained by asking.

        Raises:
            SourceError: the model's answers are not what the signature declares.
        """


class LoaderModule(Protocol):
    """What every module in `SOURCES` offers."""

    def inspect(self, path: Path, spec: ModelSpec) -> None:
        """Refuse what is unsafe, broken, or does not fit the spec's signature, without running anything from it."""

    def load(self, path: Path, artifact: Artifact, work: Path) -> SourceModel:
        """Open it. `path` is the local file or folder; `work` holds the entrypoint's code in `work/code`."""


def loader_module(loader: str) -> LoaderModule:
    """Import the module that reads `loader`."""
    return cast(LoaderModule, importlib.import_module(SOURCES[loader]))


@dataclass(frozen=True, slots=True)
class Kind:
    """What a source's files are called, and how to make one."""

    loader: str
    suffixes: tuple[str, ...]
    how: str


_SAVEDMODEL_FILE = "saved_model.pb"
_STATE_DICT = Kind("torch-state-dict", (".pt", ".pth", ".bin"), "torch.save(model.state_dict(), 'model.pt')")
_TORCH_EXPORT = Kind("torch-export", (".pt2",), "torch.export.save(program, 'model.pt2')")
_KINDS: Mapping[Framework, Kind] = {
    Framework.KERAS: Kind("keras", (".keras",), "model.save('model.keras')"),
    Framework.TENSORFLOW: Kind("savedmodel", (), "tf.saved_model.save(model, 'folder')"),
    Framework.SKLEARN: Kind("skops", (".skops",), "skops.io.dump(model, 'model.skops')"),
    Framework.ONNX: Kind("onnx", (".onnx",), "the framework's own ONNX exporter"),
}

#: Files that are pickles, or that run code in other ways when they are opened.
_UNSAFE = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pth", ".pt", ".h5", ".hdf5")


def kind_of(source: SourceSpec) -> Kind:
    """What the spec's framework and entrypoint ask for."""
    if source.framework is Framework.PYTORCH:
        return _STATE_DICT if source.entrypoint else _TORCH_EXPORT
    return _KINDS[source.framework]


def narrow(location: Location, source: SourceSpec) -> Location:
    """The model itself: the location, or the one model of the spec's kind inside it (an MLflow model is a folder).

    Raises:
        SourceError: there is none of that kind, or several.
        UnsafeSource: there are only files that run code when they are opened.
    """
    kind = kind_of(source)
    names = [name for _, name in location.files()]
    if kind.loader == "savedmodel":
        return _narrow_to_savedmodel(location, names, kind)
    candidates = [name for name in names if name.lower().endswith(kind.suffixes)]
    if len(candidates) == 1:
        return location.at(candidates[0]) if location.is_folder else location
    if candidates:
        found = ", ".join(candidates)
        raise SourceError(f"{location.uri}: expected one {' or '.join(kind.suffixes)} file, found {found}; name one")
    expected = f"expected a {' or '.join(kind.suffixes)} file (made by {kind.how})"
    unsafe = [name for name in names if name.lower().endswith(_UNSAFE)]
    if unsafe:
        raise UnsafeSource(
            f"{location.uri}: {expected}; found {', '.join(unsafe)}, which can run code when it is opened, so it is "
            f"not. Convert it where you trust it: open it there, then {kind.how}"
        )
    raise SourceError(f"{location.uri}: {expected}; found {', '.join(names[:10]) or 'nothing'}")


def _narrow_to_savedmodel(location: Location, names: list[str], kind: Kind) -> Location:
    folders = [posixpath.dirname(name) for name in names if posixpath.basename(name) == _SAVEDMODEL_FILE]
    if location.is_folder and len(folders) == 1:
        return location.at(folders[0]) if folders[0] else location
    expected = f"expected a SavedModel: a folder with one {_SAVEDMODEL_FILE} in it (made by {kind.how})"
    raise SourceError(f"{location.uri}: {expected}; found {', '.join(folders or names[:10])}")
