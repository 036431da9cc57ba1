"""`model.yaml` → `ModelSpec`: the one file that a user writes, validated completely before anything runs.

Unknown keys are errors that suggest the nearest name; every error names file, line and key; all of them at once.
docs/model-yaml.md is the reference for users. How a file becomes a spec:

    spec_document.py    YAML → plain values with their lines
    spec_keys.py        which keys there are and what belongs there
    spec_draft.py       plain values → the parts that hold
    spec_hints.py       what is said of those that do not
    spec_checks.py      what the parts must be to each other, the files beside them, and Slipway's tables
    spec_tensors.py     … tensors and dimensions among them
    spec_source.py      … where the files are
"""

from __future__ import annotations

import json
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from serving.contract import Batching, DimRange, PreprocessStep, Signature, TensorSpec
from tasks.contracts import Contract, Digest, digest_of
from tasks.errors import SpecError

#: The most rows in one request where a spec does not say it and its batch dimension allows as many.
DEFAULT_MAX_BATCH = 32

#: A duration as people write it: 90s, 10m, 1h.
DURATION_PATTERN = r"^[1-9][0-9]*(s|m|h)$"


class Framework(StrEnum):
    """What trained the model."""

    PYTORCH = "pytorch"
    KERAS = "keras"
    TENSORFLOW = "tensorflow"
    SKLEARN = "sklearn"
    ONNX = "onnx"


class SourceSpec(Contract):
    """Where the trained artifact is: a path relative to the spec, or a URI that ingest knows."""

    uri: str = Field(min_length=1)
    framework: Framework
    entrypoint: str | None = Field(None, description="module:callable → nn.Module, for PyTorch state dicts")


class Direction(StrEnum):
    """Which way a metric improves."""

    HIGHER = "higher"
    LOWER = "lower"

    @property
    def sign(self) -> int:
        """1 where more of it is better, -1 where less is."""
        return 1 if self is Direction.HIGHER else -1


class MetricSpec(Contract):
    """A task metric, and how much of it the export may lose against the source model."""

    name: str = Field(min_length=1)
    output: str
    label: str = Field(min_length=1)
    group: str | None = Field(None, min_length=1, description="column that names each row's query, for rankings")
    callable: str | None = Field(None, description="module:function beside the spec, for a metric of the user's own")
    direction: Direction | None = Field(None, description="for a callable: which way it improves")
    max_drop: float = Field(gt=0, allow_inf_nan=False, description="in the metric's own unit")


class ClassRegression(StrEnum):
    """What a class that loses significantly does, where its metric as a whole does not."""

    REMARK = "remark"
    BLOCK = "block"


class PreprocessedSpec(Contract):
    """What training fed the model for the first rows of the evaluation data: columns named after the model's inputs."""

    data: str = Field(min_length=1)
    atol: float = Field(0, ge=0, allow_inf_nan=False, description="difference that is allowed, beside rounding")


class EvaluationSpec(Contract):
    """The evaluation data (.npz or .parquet) and what is measured on it."""

    data: str = Field(min_length=1)
    preprocessed: PreprocessedSpec | None = None
    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    confidence: float = Field(0.95, gt=0.5, lt=1, allow_inf_nan=False, description="that no more than max_drop is lost")
    class_regression: ClassRegression = ClassRegression.REMARK

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the evaluation data that metrics read, beside the inputs; sorted."""
        read = {metric.label for metric in self.metrics} | {metric.group for metric in self.metrics if metric.group}
        return tuple(sorted(read))


class Int8(StrEnum):
    """How `onnx-int8` finds the ranges of what flows through the model."""

    STATIC = "static"  # measured once, on rows of the evaluation data
    DYNAMIC = "dynamic"  # measured again for every request


class ExportSpec(Contract):
    """How formats are written, where there is a choice."""

    int8: Int8 = Int8.STATIC
    external_data: bool = Field(False, description="ONNX: weights in a file beside the graph, whatever their size")


class PredictionLogSpec(Contract):
    """Which share of answered requests a server records, and what of their inputs it must not keep."""

    sample: float = Field(0.01, gt=0, le=1, allow_inf_nan=False)
    max_mb: int = Field(256, ge=1, description="MiB of all files together; the oldest go first")
    omit: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


class ServingSpec(Contract):
    """What serving must hold: batch size, 99th percentile of latency, time from container start to ready.

    The rest is how the server puts requests together; what is not said, it decides itself (`serving.scheduling`).
    """

    format: str = "auto"
    max_batch: int = Field(DEFAULT_MAX_BATCH, ge=1, description="rows; never above the batch's own max")
    p99_ms: float = Field(50, gt=0, allow_inf_nan=False)
    cold_start_s: float = Field(3, gt=0, allow_inf_nan=False)
    batch_rows: int | None = Field(None, ge=1, description="most rows of a batch; at most max_batch")
    batch_window_ms: float | None = Field(None, ge=0, allow_inf_nan=False)
    queue_rows: int | None = Field(None, ge=1, description="most rows that wait")
    workers: int | None = Field(None, ge=1, description="batches at once")
    threads: int | None = Field(None, ge=1, description="of each of them")
    prediction_log: PredictionLogSpec | None = None

    @property
    def batching(self) -> Batching:
        """How requests are put together, as contracts have it."""
        return Batching(**self.model_dump(include={item.name for item in fields(Batching)}))


class SmokeSpec(Contract):
    """The instance types (of `tasks/smoke/instance_types.yaml`) that the image must be proven on."""

    instance_types: tuple[str, ...] = Field(min_length=1)


class GuardsSpec(Contract):
    """How much worse than the stable version a new one may be: less than that never rolls it back."""

    errors: float = Field(1.5, ge=1, le=100, allow_inf_nan=False, description="times as many failed requests")
    slow: float = Field(1.5, ge=1, le=100, allow_inf_nan=False, description="times as many requests over p99_ms")
    predictions: float = Field(0.02, gt=0, lt=1, allow_inf_nan=False, description="by which a class' share may move")
    harm: float = Field(
        0.005, gt=0, lt=1, allow_inf_nan=False, description="share of all users' requests that a step puts at risk"
    )


class ShadowSpec(Contract):
    """What is replayed to the old and the new version before any user meets the new one."""

    requests: int = Field(1000, ge=1000)
    agreement: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="for a retrained model: least share of equal answers"
    )


class ReleaseSpec(Contract):
    """How a release takes traffic over."""

    steps: tuple[Annotated[float, Field(gt=0, le=100)], ...] = (1, 5, 25, 50, 100)
    bake: str = Field("60s", pattern=DURATION_PATTERN)
    extend: str = Field("10m", pattern=DURATION_PATTERN, description="a step that does not decide is held after it")
    min_requests: int = Field(500, ge=1)
    approval: bool = True
    automatic: bool = Field(False, description="a package that passed starts its release by itself")
    split_by: str = Field("x-request-id", pattern=r"^[a-z][-a-z0-9]{0,62}$", description="the header that decides")
    alpha: float = Field(0.01, gt=0, le=0.2, allow_inf_nan=False, description="chance of a rollback for nothing")
    guards: GuardsSpec = GuardsSpec()
    shadow: ShadowSpec = ShadowSpec()

    @property
    def bake_s(self) -> int:
        return seconds(self.bake)

    @property
    def extend_s(self) -> int:
        return seconds(self.extend)


def seconds(duration: str) -> int:
    """`90s`, `10m` or `1h` → seconds."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


class ModelSpec(Contract):
    """A validated model.yaml. `folder` is where relative paths start; it is not part of the spec's identity."""

    folder: Path
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    owner: str = Field(min_length=1)
    source: SourceSpec
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    dynamic: dict[str, DimRange] = Field(default_factory=dict)
    preprocess: tuple[PreprocessStep, ...] = ()
    evaluation: EvaluationSpec
    formats: tuple[str, ...] = Field(min_length=1, description="names; `[all]` in a file was replaced by them")
    every_format: bool = Field(False, description="`[all]` was asked for: what cannot express the model is left out")
    export: ExportSpec = ExportSpec()
    serving: ServingSpec = ServingSpec()
    smoke: SmokeSpec
    release: ReleaseSpec = ReleaseSpec()

    @property
    def signature(self) -> Signature:
        """What the model itself takes and gives, after preprocessing."""
        return Signature(inputs=self.inputs, outputs=self.outputs, dynamic=self.dynamic)

    @property
    def digest(self) -> Digest:
        """Identity of what was asked for, wherever the file lies and however it is spaced."""
        return digest_of(self.model_dump(mode="json", exclude={"folder"}))


def load_spec(path: Path) -> ModelSpec:
    """Read and validate a model.yaml.

    Raises:
        SpecError: with every problem found, each with its line and key.
    """
    from tasks.export.formats import named_formats
    from tasks.spec_checks import CHECKS
    from tasks.spec_document import read_document
    from tasks.spec_draft import read_keys

    folder = path.parent.absolute()
    document, problems = read_document(path)
    if document is None:
        raise SpecError(str(path), tuple(problems))
    draft, found = read_keys(document)
    problems += found
    for check in CHECKS:
        problems += [document.problem(key, message) for key, message in check(draft, folder)]
    if problems:
        in_order = sorted(dict.fromkeys(problems), key=lambda problem: (problem.line or 0, problem.key))
        raise SpecError(str(path), tuple(in_order))
    spec = ModelSpec.model_validate_json(json.dumps({**document.data, "folder": str(folder)}))
    named = named_formats(spec.formats, spec.source.framework)
    spec = spec.model_copy(update={"formats": named, "every_format": named != spec.formats})
    if draft.written("serving", "max_batch") is None:
        most = min(DEFAULT_MAX_BATCH, spec.dynamic[spec.signature.batch].max) if spec.signature.batch else 1
        spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"max_batch": most})})
    return spec
