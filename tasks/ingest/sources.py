"""`SOURCES`: how each kind of source model is opened, and which file is of which kind.

A loader is one module and one line here. Its module has

    inspect(path, spec)           raises UnsafeSource or SourceError; opens nothing that could run code
    load(path, artifact, work)    → SourceModel; inspects again first, because a store can be shared
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.spec import Framework, ModelSpec

if TYPE_CHECKING:
    from tasks.contracts import Artifact

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


def loader_of(path: Path, spec: ModelSpec) -> str:
    """Which loader reads the file or folder at `path`.

    Raises:
        SourceError: nothing here reads it as a model of the spec's framework.
    """
    framework, suffix = spec.source.framework, path.suffix.lower()
    if framework is Framework.PYTORCH:
        return "torch-state-dict" if spec.source.entrypoint else "torch-export"
    expected = {
        Framework.KERAS: ("keras", suffix == ".keras", "a .keras file (model.save('model.keras'))"),
        Framework.TENSORFLOW: (
            "savedmodel",
            path.is_dir() and (path / "saved_model.pb").is_file(),
            "a SavedModel folder with saved_model.pb in it (tf.saved_model.save(model, 'folder'))",
        ),
        Framework.SKLEARN: ("skops", suffix == ".skops", "a .skops file (skops.io.dump(model, 'model.skops'))"),
        Framework.ONNX: ("onnx", suffix == ".onnx", "an .onnx file"),
    }
    loader, fits, what = expected[framework]
    if not fits:
        raise SourceError(f"{path.name}: expected {what}, because source.framework is {framework.value}")
    return loader
