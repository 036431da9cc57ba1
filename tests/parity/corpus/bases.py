"""What the corpus breaks: sources of PyTorch and Keras, their signatures and evaluation rows.

Exports are made by Slipway's own exporters, once a session, and judged by the real gate in the real runtimes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DimRange, DType, Signature
from tasks.export.conversion import Source
from tasks.export.formats import FORMATS
from tasks.export.worker import exporter_of
from tasks.parity.confrontation import Judgement
from tests.integration.export.zoo import F32, I64, signature
from tests.parity.conftest import confronted
from tests.parity.corpus.fault import Fault, Good
from tests.parity.corpus.forked import ForkedWorkers

Arrays = dict[str, NDArray[Any]]
_ROWS = 48
_LENGTH = 9


@dataclass(frozen=True, slots=True)
class Base:
    """A source model. `native` makes it, seeded; `rows` are its evaluation data."""

    framework: str
    native: Callable[[], Any]
    signature: Signature
    rows: Callable[[np.random.Generator], Arrays]

    def loaded(self) -> tuple[Any, str]:
        """The source as ingest's loader gives it, and the loader's name."""
        native = self.native()
        if self.framework == "pytorch":
            from tasks.ingest.torch_predict import TorchModel

            return TorchModel(native, native, self.signature), "torch-state-dict"
        from tests.parity.corpus.remembered import RememberedKeras

        return RememberedKeras(native, self.signature), "keras"


def _images(generator: np.random.Generator) -> Arrays:
    images = generator.random((_ROWS, 3, 8, 8), dtype=np.float32)
    images[31, 1, 4, 4] = -3  # the only pixel below 0: what a rare input is
    return {"image": images}


def _texts(generator: np.random.Generator) -> Arrays:
    tokens = generator.integers(0, 20, (_ROWS, _LENGTH))
    ends = generator.integers(2, _LENGTH + 1, _ROWS)
    return {"tokens": tokens, "mask": (np.arange(_LENGTH) < ends[:, np.newaxis]).astype(np.int64)}


def _table(generator: np.random.Generator) -> Arrays:
    return {
        "before": generator.normal(size=(_ROWS, 3)).astype(np.float32),
        "after": generator.normal(scale=8, size=(_ROWS, 3)).astype(np.float32),
        "kind": generator.integers(0, 6, _ROWS),
    }


def _torch(kind: str) -> Callable[[], Any]:
    def native() -> Any:
        from tests.parity.corpus import torch_bases

        return torch_bases.module(getattr(torch_bases, kind))

    return native


def _keras(kind: str) -> Callable[[], Any]:
    def native() -> Any:
        from tests.parity.corpus import keras_bases

        return getattr(keras_bases, kind)()

    return native


BASES = {
    "vision": Base(
        "pytorch",
        _torch("Vision"),
        signature({"image": (F32, "batch", 3, 8, 8)}, {"probabilities": (F32, "batch", 10)}),
        _images,
    ),
    "encoder": Base(
        "pytorch",
        _torch("Encoder"),
        signature(
            {"tokens": (I64, "batch", "length"), "mask": (I64, "batch", "length")},
            {"logits": (F32, "batch", 4), "states": (F32, "batch", "length", 16)},
            {"tokens": (0, 19)},
            length=DimRange(1, 12),
        ),
        _texts,
    ),
    "tabular": Base(
        "pytorch",
        _torch("Tabular"),
        signature(
            {"before": (F32, "batch", 3), "after": (F32, "batch", 3), "kind": (I64, "batch")},
            {
                "factors": (F32, "batch", 3),
                "score": (F32, "batch", 1),
                "total": (F32, "batch"),
                "label": (I64, "batch"),
                "level": (DType.UINT8, "batch", 3),
            },
            {"kind": (0, 5)},
        ),
        _table,
    ),
    "photos": Base(
        "keras",
        _keras("photos"),
        signature({"image": (F32, "batch", 8, 8, 3)}, {"probabilities": (F32, "batch", 10)}),
        lambda generator: {"image": np.moveaxis(_images(generator)["image"], 1, -1).copy()},
    ),
    "texts": Base(
        "keras",
        _keras("texts"),
        signature(
            {"tokens": (I64, "batch", "length"), "mask": (I64, "batch", "length")},
            {"logits": (F32, "batch", 4), "states": (F32, "batch", "length", 16)},
            length=DimRange(1, 12),
        ),
        _texts,
    ),
    "rows": Base(
        "keras",
        _keras("rows"),
        signature(
            {"before": (F32, "batch", 3), "after": (F32, "batch", 3)},
            {
                "factors": (F32, "batch", 3),
                "score": (F32, "batch", 1),
                "total": (F32, "batch"),
                "label": (I64, "batch"),
                "level": (DType.UINT8, "batch", 3),
            },
        ),
        lambda generator: {name: column for name, column in _table(generator).items() if name != "kind"},
    ),
}


@dataclass
class Corpus:
    """Sources and good exports, each made when first asked for, and a folder for what is broken."""

    folder: Path
    sources: dict[str, tuple[Any, str]] = field(default_factory=dict)
    exports: dict[tuple[str, str], Path] = field(default_factory=dict)
    workers: ForkedWorkers = field(default_factory=ForkedWorkers)
    asked: int = 0

    def source(self, base: str) -> tuple[Any, str]:
        if base not in self.sources:
            self.sources[base] = BASES[base].loaded()
        return self.sources[base]

    def export(self, base: str, format: str) -> Path:
        """The faithful export."""
        if (base, format) not in self.exports:
            folder = self._folder()
            model, entry = BASES[base].loaded()[0], BASES[base]
            conversion = exporter_of(format, entry.framework)(Source(model, Path()), entry.signature, folder)
            self.exports[base, format] = folder / conversion.root
        return self.exports[base, format]

    def broken(self, fault: Fault) -> Path:
        """The faulty export."""
        base = BASES[fault.base]
        return fault.inject(Good(base.native, base.signature, self.export(fault.base, fault.format)), self._folder())

    def judged(self, base: str, format: str, path: Path) -> Judgement:
        """What the gate says of the file or folder at `path`."""
        source, loader = self.source(base)
        entry = BASES[base]
        rows = entry.rows(np.random.default_rng(0))
        runtime, work = FORMATS[format].runtime, self._folder()
        return confronted(source, loader, entry.signature, rows, runtime, path, work, self.workers)

    @property
    def can_locate(self) -> bool:
        """Whether this gate says where an export diverges."""
        return importlib.util.find_spec("tasks.parity.divergence") is not None

    def diverging_layer(self, fault: Fault, judgement: Judgement, path: Path) -> str | None:
        """The source's module that is named as the first to diverge, on the rows that the gate would take."""
        if not self.can_locate:
            return None
        from tasks.parity.divergence import locate
        from tasks.parity.divergence.report import rows_to_look_at

        (source, loader), entry = self.source(fault.base), BASES[fault.base]
        inputs = rows_to_look_at(judgement, entry.signature)
        found = locate(source, loader, entry.signature, path, inputs, self._folder())
        return found.first.module if found is not None and found.first is not None else None

    def close(self) -> None:
        """End the workers' process."""
        self.workers.close()

    def _folder(self) -> Path:
        self.asked += 1
        folder = self.folder / str(self.asked)
        folder.mkdir()
        return folder
