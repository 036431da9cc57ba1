"""What an exporter is given, what it answers, and how it says that it cannot.

An exporter is one function in one module, named in `tasks.export.formats.FORMATS`. It runs in a child process
(`tasks.export.worker`), so it may import what it likes, print, and even crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from serving.contract import Signature
from tasks.contracts import Owner
from tasks.spec import ExportSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.export.input_spans import Span
    from tasks.ingest import SourceModel

#: Model inputs by name, some rows each, in batches that the signature allows.
Rows: TypeAlias = "tuple[Mapping[str, NDArray[Any]], ...]"

#: Codes of findings that say that the format itself cannot express the model: no mistake of anybody's, and no other run
#: would end otherwise. Under `formats: [all]` such a format is left out.
CANNOT_EXPRESS = frozenset(
    {
        "EXPORT_UNSUPPORTED_OPERATOR",
        "EXPORT_FLOAT16_OVERFLOW",
        "EXPORT_INPUT_UNBOUNDED",
        "EXPORT_NOTHING_IN_FLOAT32",
        "EXPORT_NOTHING_TO_QUANTIZE",
    }
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What an exporter wrote into its folder.

    Attributes:
        root: path inside the folder to hand to the runtime; `.` for the whole folder.
        exporter: which converter made it, e.g. torch.onnx or tf2onnx.
        distributions: installed distributions whose versions decide how the files behave.
        opset: the ONNX operator set of the default domain, where there is one.
        ir_version: the version of ONNX's file format, where there is one.
        precision: of the arithmetic: full, float16 or int8.
        base: for reduced precision, what it was made from: the path inside `base_folder` to hand to the runtime.
        programs: further programs that decide it, with their versions.
        needs: instruction-set extensions that the files hold, where they are compiled.
    """

    root: str
    exporter: str
    distributions: tuple[str, ...]
    opset: int | None = None
    ir_version: int | None = None
    precision: str = "full"
    base: str | None = None
    programs: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def base_folder(folder: Path) -> Path:
    """Where an exporter of reduced precision leaves the full-precision files: beside the folder that it is given."""
    return folder.with_name(f"{folder.name}-base")


@dataclass(frozen=True, slots=True)
class Source:
    """The trained model, loaded, and its file or folder as it was handed over.

    Attributes:
        framework: what trained it (`tasks.spec.Framework`).
        options: what model.yaml says of how formats are written.
        calibration: reads some rows of the evaluation data, preprocessed; only formats that calibrate call it.
        made: what the inputs can hold that preprocessing makes, by name; only formats that check no index call it.
    """

    model: SourceModel
    path: Path
    framework: str = ""
    options: ExportSpec = field(default_factory=ExportSpec)
    calibration: Callable[[], Rows] = tuple
    made: Callable[[], Mapping[str, Span]] = dict


class Exporter(Protocol):
    """Writes a source model into an empty folder, in one format."""

    def __call__(self, source: Source, signature: Signature, folder: Path) -> Conversion:
        """Inputs and outputs carry the signature's names, order and dtypes; named dimensions stay dynamic.

        Raises:
            ExportFailure: this model cannot be written in this format, and why.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the user's model something happened; an empty text where it is not known.

    Attributes:
        module: qualified name, `encoder.layers.1.norm`; a layer's name in Keras, a step's in scikit-learn.
        kind: its class, `LayerNorm`.
        line: the line of the user's code, `model.py:21: if x.sum() > 0:`.
    """

    module: str = ""
    kind: str = ""
    line: str = ""

    def __str__(self) -> str:
        if self.module:
            return f"{self.module} ({self.kind})" if self.kind else self.module
        return self.kind or "the model"

    @property
    def evidence(self) -> dict[str, str]:
        known = {"module": self.module, "module_class": self.kind, "line": self.line}
        return {name: value for name, value in known.items() if value}


@dataclass(eq=False)
class ExportFailure(Exception):
    """A model cannot be written in a format: the finding-to-be, raised inside the child process.

    Attributes:
        code: the finding's code.
        message: one sentence: what cannot be done, where in the model, and the exporter's reason.
        advice: what to do about it, without the formats that do work, which are tried and added later.
        owner: who must act.
        evidence: places and figures.
        other_formats: whether another format could work; not where they share the step that failed.
    """

    code: str
    message: str
    advice: str
    owner: Owner = Owner.MODEL
    evidence: dict[str, str | int | float | bool] = field(default_factory=dict)
    other_formats: bool = True

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def reason_of(error: BaseException, limit: int = 240) -> str:
    """The exporter's reason in one sentence: the first line of its message that says something."""
    lines = (line.strip(" \t#*-") for line in str(error).splitlines())
    text = next((line for line in lines if line and not line.startswith(("<class", "Traceback"))), "")
    sentence = text or type(error).__name__
    sentence = sentence if len(sentence) <= limit else sentence[: limit - 1].rstrip() + "…"
    return sentence.rstrip(".")
