"""Which formats there are, what serves them, and what each can be made from.

One visible table, read by spec validation and by `tasks.export.export`. Light to import: exporters are named by path
(`module:function`) and imported only in the process that runs one. Adding a format is one module and one entry
(docs/add-a-format.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.export.conversion import Exporter

#: Alone in a list of formats: every format that the framework can give.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a model down for serving.

    Attributes:
        name: what `formats:` in a model.yaml calls it.
        runtime: which runtime image serves it: an entry of `tasks.image.RUNTIMES`.
        exporters: framework of the source → `module:function` of the exporter (`tasks.export.conversion.Exporter`).
        is_compiled: a C++ compiler makes it (`tasks.export.compiler`). That takes so long that it is not tried only to
            say that it would work in another's place.
        precision: of its arithmetic: full, float16 or int8.
        quantises: `export.int8` says how, and static ranges come from rows of the evaluation data.
    """

    name: str
    runtime: str
    exporters: Mapping[str, str]
    is_compiled: bool = False
    precision: str = "full"
    quantises: bool = False

    @property
    def frameworks(self) -> tuple[str, ...]:
        """The frameworks (`tasks.spec.Framework`) whose models can be written in this format."""
        return tuple(self.exporters)

    @property
    def is_onnx(self) -> bool:
        """Whether its files are ONNX: a graph, and perhaps weights beside it."""
        return self.runtime == "onnx"


FORMATS: dict[str, Format] = {
    "onnx": Format(
        name="onnx",
        runtime="onnx",
        exporters={
            "pytorch": "tasks.export.torch_to_onnx:export",
            "keras": "tasks.export.keras_to_onnx:export",
            "tensorflow": "tasks.export.savedmodel_to_onnx:export",
            "sklearn": "tasks.export.sklearn_to_onnx:export",
            "onnx": "tasks.export.onnx_to_onnx:export",
        },
    ),
    "onnx-int8": Format(
        name="onnx-int8",
        runtime="onnx",
        exporters=dict.fromkeys(("pytorch", "keras", "tensorflow", "onnx"), "tasks.export.onnx_int8:export"),
        precision="int8",
        quantises=True,
    ),
    "onnx-fp16": Format(
        name="onnx-fp16",
        runtime="onnx",
        exporters=dict.fromkeys(("pytorch", "keras", "tensorflow", "onnx"), "tasks.export.onnx_float16:export"),
        precision="float16",
    ),
    "savedmodel": Format(
        name="savedmodel",
        runtime="tensorflow",
        exporters={
            "pytorch": "tasks.export.torch_to_savedmodel:export",
            "keras": "tasks.export.keras_to_savedmodel:export",
            "tensorflow": "tasks.export.savedmodel_to_savedmodel:export",
        },
    ),
    "torch-export": Format(
        name="torch-export",
        runtime="torch",
        exporters={"pytorch": "tasks.export.torch_to_torch_export:export"},
    ),
    "torch-aoti": Format(
        name="torch-aoti",
        runtime="torch",
        exporters={"pytorch": "tasks.export.torch_to_aoti:export"},
        is_compiled=True,
    ),
}


def exporter_of(format: str, framework: str) -> Exporter:
    """Import the exporter that writes `format` from models of `framework`."""
    module, _, function = FORMATS[format].exporters[framework].partition(":")
    exporter: Exporter = getattr(importlib.import_module(module), function)
    return exporter


def formats_of(framework: str) -> tuple[str, ...]:
    """The formats that a model of this framework can be written in, in the table's order; empty for an unknown one."""
    return tuple(name for name, entry in FORMATS.items() if framework in entry.exporters)


def named_formats(formats: Sequence[str], framework: str) -> tuple[str, ...]:
    """`formats` as names of the table: `[all]` becomes those that the framework can give, the rest stays as it is."""
    return formats_of(framework) if list(formats) == [ALL] else tuple(formats)
