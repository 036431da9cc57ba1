"""What travels between stages. Read this file first.

    ModelSpec ─ ingest → Artifact ─ export → ExportReport ─ parity → ParityReport ─ image → Image ─ smoke → SmokeReport
                                                                                    all of them ─ lineage → Package

Frozen pydantic models of digests, figures and verdicts: kilobytes, safe to send through Airflow's XCom. The bytes that
they name live in the store (`tasks.store`). Signature types come from `serving.contract`, which every serving image
shares.

A gate's answer is a report with a verdict and findings. `inconclusive` blocks exactly like `failed`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.contract import Batching, PackagedFile, Signature, Tolerance

#: `sha256:` and 64 hexadecimal digits.
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def digest_of(value: Any) -> Digest:
    """The sha256 of `value`'s canonical JSON: keys sorted, no white space, NaN refused.

    Accepts what JSON knows, and contracts, which are dumped first.
    """

    def plain(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json")
        raise TypeError(f"no canonical JSON for {type(item).__name__}")

    text = json.dumps(value, default=plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Contract(BaseModel):
    """Base of everything that travels: immutable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- verdicts -----------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """A gate's answer. Only `passed` lets anything through."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Failed before inconclusive before passed. Of nothing, `inconclusive`: no evidence is not a pass."""
        seen = set(verdicts)
        if cls.FAILED in seen:
            return cls.FAILED
        if cls.INCONCLUSIVE in seen or not seen:
            return cls.INCONCLUSIVE
        return cls.PASSED


class Owner(StrEnum):
    """Who must act on a finding."""

    MODEL = "model"
    DATA = "data"
    PLATFORM = "platform"


class Finding(Contract):
    """Something a gate found, for the person who must act on it.

    `verdict` is what it does to its gate; a finding that says `passed` is a remark that blocks nothing.
    """

    code: str = Field(pattern=r"^[A-Z][A-Z0-9_]+$", description="stable, e.g. PARITY_BATCH_FROZEN")
    owner: Owner
    verdict: Verdict = Verdict.FAILED
    message: str = Field(min_length=1, description="one sentence: what was expected, what was found, where")
    advice: str = Field(min_length=1, description="what to do about it")
    evidence: dict[str, str | int | float | bool] = Field(default_factory=dict, description="figures and places")


class Report(Contract):
    """Base of what gates answer. The verdict may be worse than the findings say, never better."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()

    @model_validator(mode="after")
    def _verdict_is_no_better_than_findings(self) -> Self:
        worst = Verdict.worst((self.verdict, *(finding.verdict for finding in self.findings)))
        if worst is not self.verdict:
            raise ValueError(f"the verdict is {self.verdict} but a finding says {worst}")
        return self


# --- files --------------------------------------------------------------------------------------------------------


class FileTree(Contract):
    """Files in the store, by relative path: a single file or a whole folder (SavedModel, ONNX with external data)."""

    files: tuple[PackagedFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sorted_and_inside(self) -> Self:
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("paths must be sorted and unique")
        for path in paths:
            if path.startswith("/") or "\\" in path or ".." in path.split("/"):
                raise ValueError(f"the path {path!r} leaves the tree")
        return self

    @property
    def digest(self) -> Digest:
        """Identity of the whole tree: the digest of its listing."""
        return digest_of([[file.path, file.digest] for file in self.files])

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


# --- the stages, in order -----------------------------------------------------------------------------------------


class Expectation(Contract):
    """One thing that was expected of a table, and whether it held: one Great Expectations result, in a sentence."""

    name: str = Field(description="Great Expectations' own, e.g. expect_column_values_to_not_be_null")
    column: str | None = None
    verdict: Verdict = Field(description="passed, or what a broken one does to its gate")
    message: str = Field(min_length=1, description="what was expected, and what was found")


class DataReport(Report):
    """What was expected of the evaluation data and found in it. `docs` are Great Expectations' Data Docs (a site)."""

    expectations: tuple[Expectation, ...] = ()
    docs: FileTree | None = None


class EvaluationData(Contract):
    """The evaluation data after its columns were checked against the signature."""

    file: PackagedFile
    rows: int = Field(ge=1)
    columns: tuple[str, ...]
    code: FileTree | None = Field(None, description="modules of the user's own metrics, where the spec has any")
    preprocessed: PackagedFile | None = Field(None, description="what training fed the model for the first rows")
    quality: DataReport | None = Field(None, description="what is expected of the data beyond its columns")

    @property
    def digest(self) -> Digest:
        """Identity of what models are measured on: the data, and the metrics' own code."""
        further = [part.digest for part in (self.code, self.preprocessed) if part is not None]
        return digest_of([self.file.digest, *further]) if further else self.file.digest


class Artifact(Contract):
    """Ingest's result: the trained model's bytes, how to load them, and where they came from.

    `loader` names an entry of `tasks.ingest.SOURCES` (`torch-state-dict`, `torch-export`, `keras`, `savedmodel`,
    `skops`, `onnx`). `root` is the path inside `files` to hand to the loader; `.` for the whole folder.
    """

    name: str
    framework: str
    loader: str
    root: str
    files: FileTree
    code: FileTree | None = Field(None, description="the entrypoint's module, for PyTorch state dicts")
    entrypoint: str | None = None
    signature: Signature
    preprocess: FileTree | None = Field(None, description="the files that preprocessing steps name")
    evaluation: EvaluationData
    source_uri: str = Field(description="pinned: an alias is resolved to its version")
    source_run: str | None = Field(None, description="the MLflow run that trained it, where known")


class Base(Contract):
    """The full-precision ONNX file that a format of reduced precision was made from."""

    files: FileTree
    root: str


class Export(Contract):
    """One format's files, with every version that decides how they behave."""

    format: str
    runtime: str = Field(description="which runtime image serves it: an entry of `tasks.image.RUNTIMES`")
    files: FileTree
    root: str = Field(description="path inside `files` to hand to the runtime; `.` for the whole folder")
    exporter: str = Field(description="which converter made it, e.g. torch.onnx or tf2onnx")
    opset: int | None = None
    ir_version: int | None = None
    versions: dict[str, str] = Field(description="framework, exporter and runtime distributions → version")
    precision: str = Field("full", description="of the arithmetic: full, float16 or int8")
    base: Base | None = Field(None, description="for reduced precision: what it was made from")
    needs: tuple[str, ...] = Field((), description="instruction-set extensions that the files hold, e.g. avx512f")


class ExportReport(Report):
    """One format's export. `export` is there exactly when the verdict is passed."""

    format: str
    export: Export | None = None

    @model_validator(mode="after")
    def _export_only_when_passed(self) -> Self:
        if (self.export is not None) != (self.verdict is Verdict.PASSED):
            raise ValueError("an export is there exactly when the verdict is passed")
        return self


class OutputComparison(Contract):
    """One output over all compared rows. Differences are in float64; `None` where nothing finite could be compared."""

    name: str
    compared_values: int
    max_abs_diff: float | None
    max_rel_diff: float | None
    worst_margin: float | None = Field(description="largest |difference| / allowed; above 1 fails")
    noise: float | None = Field(
        None, description="largest difference of the source from itself where only rounding changes; for floats"
    )
    tolerance: Tolerance


class MetricComparison(Contract):
    """One task metric on the evaluation data. `drop` is how much worse the export is; negative when it is better.

    The export is not inferior when `upper` is at most `max_drop`.
    """

    name: str
    source: float | None
    export: float | None
    drop: float | None
    upper: float | None = Field(None, description="one-sided upper confidence bound of the drop")
    max_drop: float
    confidence: float = Field(0.95, description="level of the bound")
    method: str = Field("", description="how the bound was computed")
    rows: int
    rows_needed: int | None = Field(None, description="where the rows are too few to decide: how many would do")


class ClassChange(Contract):
    """One class of the labels: how many of its rows each model gets right, and how many changed sides."""

    metric: str
    label: str
    rows: int
    source_right: int
    export_right: int
    lost: int = Field(description="rows that the source has right and the export wrong")
    gained: int = Field(description="rows that the export has right and the source wrong")


class Calibration(Contract):
    """Expected calibration error of both models, over bins of the winning probability; 0 is perfect."""

    metric: str
    source: float
    export: float
    bins: int


class LayerDrift(Contract):
    """One operator of the export against the source's value at the same place."""

    module: str = Field(description="the source's module or layer, e.g. encoder.layers.1.norm; empty where not known")
    kind: str = Field(description="its class, e.g. LayerNorm; empty where not known")
    operator: str = Field(description="operator of the export, e.g. LayerNormalization")
    node: str = Field(description="name of the value in the export's graph")
    difference: float = Field(description="largest |difference|; infinity is given as the largest float64")
    allowed: float = Field(description="what the source's own noise at this place allows")
    margin: float = Field(description="difference / allowed, at most 1e30; above 1 it diverges")


class Divergence(Contract):
    """Where an export leaves its source, layer by layer.

    `first` is the first operator in the graph's order that differs by more than is allowed while all that it is
    computed from does not. `worst` is ranked by how much each adds, `drift` is the whole way in the graph's order.
    """

    first: LayerDrift | None
    explanation: str = Field("", description="why this kind of layer drifts and what differs here, one sentence")
    worst: tuple[LayerDrift, ...] = ()
    drift: tuple[LayerDrift, ...] = ()
    compared: int = Field(description="values of the graph that have a counterpart in the source")
    total: int = Field(description="values of the graph")
    note: str = Field("", description="why nothing, or not everything, could be compared")


class ParityReport(Report):
    """One format against the source model. `golden` are raw inputs and the source's answers, for image and smoke."""

    format: str
    export_digest: Digest
    batch_sizes: tuple[int, ...]
    outputs: tuple[OutputComparison, ...] = ()
    metrics: tuple[MetricComparison, ...] = ()
    classes: tuple[ClassChange, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    divergence: Divergence | None = Field(None, description="where it leaves the source, when tensors differ")
    golden: PackagedFile | None = None
    html: PackagedFile | None = None
    reproduction: FileTree | None = Field(None, description="inputs, both answers and a script, when it failed")
    docs: FileTree | None = Field(None, description="Great Expectations' Data Docs of the parity table")


class Image(Contract):
    """A serving image in the engine. `digest` is the image's own (the sha256 of its configuration)."""

    format: str
    runtime: str
    reference: str = Field(description="name:tag to start it by")
    digest: Digest
    contract_digest: Digest
    contract: PackagedFile | None = Field(None, description="contract.json in the store, for `slipway bundle`")
    size_bytes: int
    model_bytes: int = Field(description="what this model adds to the runtime image that all models share")
    layers: tuple[Digest, ...]
    labels: dict[str, str]
    sbom: PackagedFile | None = Field(None, description="what is in it, CycloneDX JSON; also inside the image")
    licences: PackagedFile | None = Field(None, description="the licences of all that is in it, for people")


class TunedImage(Contract):
    """An image that `slipway tune` made of a package's: its layers, and one with another contract and the curve.

    It is no part of the manifest, which was signed before; it names the package and is signed itself.
    """

    package: Digest
    name: str
    format: str
    reference: str = Field(description="name:tag to start it by")
    digest: Digest
    layers: tuple[Digest, ...]
    base: Digest = Field(description="the package's image that it stands on")
    base_attestation: Digest = Field(description="sha256 of the envelope by which the package was trusted")
    contract: PackagedFile = Field(description="contract.json with the chosen setting, in the store")
    curve: PackagedFile = Field(description="tuning.json: every measurement, in the store")
    setting: Batching
    p99_ms: float = Field(description="the objective")
    rows: int = Field(description="of each request")
    cpus: float = Field(description="that it was tuned on")
    requests_per_s: float = Field(description="the highest rate that kept the objective each time")


class SmokeFigures(Contract):
    """What was measured while the image ran under one instance type's limits."""

    cold_start_s: float | None = Field(None, description="container start → first ready answer")
    p50_ms: float | None = None
    p99_ms: float | None = None
    requests: int = 0
    peak_memory_bytes: int | None = None
    golden_rows: int = 0
    concurrency: int = 0


class OutputMargin(Contract):
    """How far one output's golden answers lie from the source model's, at worst."""

    output: str
    difference: float | None = Field(description="the largest |answer - expected|; none where it is no number")
    of_allowed: float | None = Field(
        description="the largest share of parity's tolerance: above 1 is wrong; none where nothing may differ"
    )


class ProcessorProof(Contract):
    """One CPU generation of an instance type: how it was tried, and what that proved."""

    cpu: str
    level: str = Field(description="of its instruction set, as the catalogue names them: x86-64-v3")
    proof: Literal["native", "emulated", "masked", "unproven"]
    verdict: Verdict = Field(description="inconclusive where it was not proven")
    note: str = Field("", description="why it was not proven, or what the proof leaves open; a sentence")
    margins: tuple[OutputMargin, ...] = Field((), description="of the golden answers under it")


class LatencySplit(Contract):
    """Where one request's time goes at `Capacity.max_rate_rps`: the mean of each part, in milliseconds; they add up to
    the mean latency from the intended start."""

    queue_ms: float = Field(description="all waiting: for a connection, for the event loop, for a batch")
    preprocess_ms: float = Field(description="reading the request and preprocessing it")
    inference_ms: float = Field(description="of the batch that it was in")
    postprocess_ms: float = Field(description="writing the response")


class Capacity(Contract):
    """How much one instance type bears of one image. `None` is what was not measured; no default stands for it."""

    smallest_memory_bytes: int | None = Field(
        None, description="the smallest limit that survived peak load, by bisection"
    )
    too_little_memory_bytes: int | None = Field(None, description="the largest limit that was tried and was too little")
    headroom_bytes: int | None = Field(None, description="what the type has beyond the smallest that is enough")
    peak_clients: int | None = Field(None, description="clients at once in peak load, who ask all the time")
    peak_batch: int | None = Field(None, description="rows of each of their requests")
    replicas: int | None = Field(None, ge=0, description="how many fit side by side in the type's memory and vCPUs")
    models: int | None = Field(
        None, ge=0, description="how many different models of that need fit in the type's memory, idle ones among them"
    )
    max_rate_rps: float | None = Field(
        None, description="highest rate of Poisson arrivals that keeps the objective's p99, of one replica on its own"
    )
    p99_ms: float | None = Field(None, description="the p99 at that rate, from intended start")
    requests: int | None = Field(None, description="that were counted at that rate")
    client_late_ms: float | None = Field(
        None, description="how late the load itself was, 99th percentile; it is part of the latency"
    )
    cpus: float | None = Field(None, description="CPUs that one replica used at that rate")
    split: LatencySplit | None = None
    rate_measured_on: str | None = Field(
        None, description="the instance type with as many vCPUs that the rate was measured on, where not on this one"
    )
    memory_measured_on: str | None = Field(None, description="the same of the smallest memory")


class SmokeReport(Report):
    """One image on one instance type."""

    format: str
    image_digest: Digest
    instance_type: str
    vcpus: float
    memory_bytes: int
    figures: SmokeFigures = SmokeFigures()
    processors: tuple[ProcessorProof, ...] = Field((), description="what was proven of each, once it was ready")
    capacity: Capacity | None = Field(None, description="where it was measured")


class LineageRecord(Contract):
    """Where a package's history stands in MLflow."""

    tracking_uri: str
    experiment_id: str
    run_id: str
    run_url: str | None = None
    source_run: str | None = Field(None, description="the run that trained the model, as far as MLflow knows")
    model_name: str
    model_version: str | None = Field(None, description="registered only when the package passed")
    recorded_at: datetime | None = Field(None, description="when the package was first recorded")


class PackageInputs(Contract):
    """All that a package follows from. Its digest is the package's identity: the same inputs, the same package."""

    spec: Digest = Field(description="the parsed spec, so that comments and spacing do not matter")
    artifact: Digest
    evaluation: Digest
    formats: tuple[str, ...]
    instance_types: tuple[str, ...]
    pipeline: Digest = Field(description="Slipway's own code, the runtimes' locks and the base image")


class Package(Report):
    """The manifest: everything that every stage found out, under one digest."""

    name: str
    owner: str
    inputs: PackageInputs
    artifact: Artifact
    exports: tuple[ExportReport, ...]
    parity: tuple[ParityReport, ...] = ()
    images: tuple[Image, ...] = ()
    smoke: tuple[SmokeReport, ...] = ()
    serving_format: str | None = Field(None, description="the format that serves, where one passed every gate")

    @property
    def digest(self) -> Digest:
        """The package's identity: the digest of its inputs (docs/adr/0001)."""
        return digest_of(self.inputs)


# --- how a stage came by its result -------------------------------------------------------------------------------

Result = TypeVar("Result", Artifact, ExportReport, ParityReport, Image, SmokeReport)


class StageRun(Contract, Generic[Result]):
    """A stage's result, and whether it had to be worked for. The same key means the same inputs and the same code."""

    stage: str
    label: str = Field(description="the cell, for people: a format, `onnx × c6i.large`, or the model's name")
    key: Digest = Field(description="what the result is remembered by: the digest of all that it follows from")
    reused: bool = Field(description="an earlier result was taken, nothing was run")
    duration_s: float = Field(ge=0, description="how long this call took, reused or not")
    made_at: datetime | None = Field(None, description="when the result was worked for, UTC; not known of older ones")
    result: Result


class IngestRun(StageRun[Artifact]):
    """Ingest's. Named classes, because a parametrised generic has no import path for XCom to find it by."""


class ExportRun(StageRun[ExportReport]):
    """One format's export."""


class ParityRun(StageRun[ParityReport]):
    """One format's parity."""


class ImageRun(StageRun[Image]):
    """One format's image."""


class SmokeRun(StageRun[SmokeReport]):
    """One image on one instance type."""
