"""What goes into the child process that exports, and what comes out of it: JSON both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from serving.contract import PreprocessStep
from tasks.contracts import Artifact, Contract, Owner
from tasks.spec import ExportSpec


class Request(Contract):
    """What to export, how, and where everything is. `folder` is empty; `parent` is the process that waits."""

    artifact: Artifact
    format: str
    store_uri: str
    folder: Path
    work: Path
    parent: int
    preprocess: tuple[PreprocessStep, ...] = ()
    options: ExportSpec = ExportSpec()
    external_data: bool = Field(False, description="ONNX: weights beside the graph, whatever their size")


class Written(Contract):
    """The files are in the folder."""

    kind: Literal["written"] = "written"
    root: str
    exporter: str
    opset: int | None
    ir_version: int | None
    versions: dict[str, str]
    precision: str = "full"
    base: str | None = Field(
        None, description="root of the full-precision files beside the folder, where there are any"
    )
    needs: tuple[str, ...] = ()


class Refused(Contract):
    """The model cannot be written in this format: a finding without the formats that do work."""

    kind: Literal["refused"] = "refused"
    code: str
    message: str
    advice: str
    owner: Owner
    evidence: dict[str, str | int | float | bool]
    other_formats: bool
    details: str = Field(description="the exporter's own message with its traceback")


class Raised(Contract):
    """Not a verdict: the source cannot be read, or the platform failed. `error` is a class of `tasks.errors`."""

    kind: Literal["raised"] = "raised"
    error: str
    message: str


class Outcome(Contract):
    """What became of a request."""

    result: Written | Refused | Raised = Field(discriminator="kind")
