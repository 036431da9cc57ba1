"""Every exporter over a small zoo of real models: each pair is exported once a session, then asked many questions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks.export.calibration import batches
from tasks.export.conversion import Conversion, Rows, Source
from tasks.export.formats import FORMATS, exporter_of
from tasks.export.sizes import sample_inputs
from tests.integration.export.zoo import ZOO, Model


@dataclass
class Exports:
    """Exports by model and format, made when first asked for."""

    folder: Path
    models: dict[str, Model] = field(default_factory=dict)
    done: dict[tuple[str, str], tuple[Path, Conversion]] = field(default_factory=dict)

    def model(self, name: str) -> Model:
        if name not in self.models:
            path = self.folder / name
            path.mkdir()
            self.models[name] = ZOO[name](path)
        return self.models[name]

    def __call__(self, name: str, format: str) -> tuple[Path, Conversion]:
        """The folder with the exported files, and what the exporter said of them."""
        if (name, format) not in self.done:
            self.done[name, format] = self.again(name, format)
        return self.done[name, format]

    def again(self, name: str, format: str) -> tuple[Path, Conversion]:
        """The same export, made anew."""
        model = self.model(name)
        folder = self.folder / f"{name}-{format}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        export = exporter_of(format, model.framework)
        source = Source(model, model.path, model.framework, calibration=lambda: calibration(model))
        return folder, export(source, model.signature, folder)

    def runtime(self, format: str) -> str:
        return FORMATS[format].runtime


def calibration(model: Model) -> Rows:
    """Rows of the kind that the tests ask about, at all of their lengths."""
    return tuple(
        batch
        for length in (1, 5, 12)
        for batch in batches(sample_inputs(model.signature, {"batch": 64, "length": length}), model.signature)
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


Exported = Callable[[str, str], tuple[Path, Conversion]]
