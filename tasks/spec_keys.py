"""Which keys a model.yaml has, where each is declared, and what belongs there.

A key is named by its pattern: dotted, `*` for a list position or a name of the user's. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache

from pydantic import TypeAdapter

from serving.contract import (
    Channels,
    DimRange,
    DType,
    Interpolation,
    Layout,
    NanPolicy,
    Padding,
    PreprocessStep,
    TensorSpec,
)
from tasks.spec import (
    ClassRegression,
    Direction,
    EvaluationSpec,
    ExportSpec,
    Framework,
    GuardsSpec,
    Int8,
    MetricSpec,
    ModelSpec,
    PredictionLogSpec,
    PreprocessedSpec,
    ReleaseSpec,
    ServingSpec,
    ShadowSpec,
    SmokeSpec,
    SourceSpec,
)
from tasks.spec_document import KeyPath

#: Fields that are not written in a file: where it lies, and what is asked of inputs alone.
_NO_KEYS = {("", "folder"), ("", "every_format"), ("outputs.*", "range"), ("outputs.*", "nan")}

_TENSORS = "a list of tensors such as [{name: x, dtype: float32, shape: [batch, 4]}]"
_TENSOR = "a tensor such as {name: x, dtype: float32, shape: [batch, 4]}"
_TENSOR_NAME = "a name such as pixels: letters, digits and underscores, not beginning with a digit"
_DTYPE = f"one of {', '.join(DType)}"
_SHAPE = "a list of sizes and dimension names such as [batch, 3, 224, 224]"
_SIZE = "a whole number, or the name of a dimension under `dynamic`"

#: Key (`*` stands for a list position or a name of the user's) → what belongs there. Every key of the spec is here.
EXPECTED: dict[str, str] = {
    "name": "a DNS label: 1 to 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
    "owner": "who answers for the model, such as vision@example.com",
    "source": "a mapping with uri and framework",
    "source.uri": "a path relative to this file, or a URI such as s3://bucket/key, models:/name/3 or runs:/id/path",
    "source.framework": f"one of {', '.join(Framework)}",
    "source.entrypoint": "module:callable, such as model:build for a function build in model.py beside this file",
    "inputs": _TENSORS,
    "inputs.*": _TENSOR,
    "inputs.*.name": _TENSOR_NAME,
    "inputs.*.dtype": _DTYPE,
    "inputs.*.shape": _SHAPE,
    "inputs.*.shape.*": _SIZE,
    "inputs.*.range": "the least and the greatest value that clients may send, such as [0, 999]; null for no end",
    "inputs.*.range.*": "a number, or null for no end",
    "inputs.*.nan": f"one of {', '.join(NanPolicy)}: whether clients may send NaN",
    "outputs": _TENSORS,
    "outputs.*": _TENSOR,
    "outputs.*.name": _TENSOR_NAME,
    "outputs.*.dtype": _DTYPE,
    "outputs.*.shape": _SHAPE,
    "outputs.*.shape.*": _SIZE,
    "dynamic": "a mapping from each named dimension to its range, such as batch: {min: 1, max: 64}",
    "dynamic.*": "a range such as {min: 1, max: 64}",
    "dynamic.*.min": "a whole number, the smallest size",
    "dynamic.*.max": "a whole number, the largest size",
    "preprocess": "a list of steps such as [{op: scale, input: x, by: 0.5}]",
    "preprocess.*": "a step such as {op: scale, input: x, by: 0.5}",
    "preprocess.*.op": "the name of an operation, such as scale",
    "preprocess.*.input": "the name of an input",
    "preprocess.*.by": "a number",
    "preprocess.*.offset": "a number",
    "preprocess.*.mean": "a list of numbers",
    "preprocess.*.mean.*": "a number",
    "preprocess.*.std": "a list of numbers",
    "preprocess.*.std.*": "a number",
    "preprocess.*.axis": "a whole number, the position of a dimension",
    "preprocess.*.source_dtype": _DTYPE,
    "preprocess.*.min": "a number",
    "preprocess.*.max": "a number",
    "preprocess.*.fill": "a list of numbers, such as [0]",
    "preprocess.*.fill.*": "a number",
    "preprocess.*.indicator": "the name of another input, which says where values were missing",
    "preprocess.*.source": "the name under which clients send it, such as image or text",
    "preprocess.*.file": "the path of a file beside this one, such as tokenizer.json",
    "preprocess.*.values": "a list of strings such as [red, green]",
    "preprocess.*.values.*": "a string",
    "preprocess.*.first": "a whole number, the id of the first value",
    "preprocess.*.unknown": "a whole number, the id of every value that is not known",
    "preprocess.*.channels": f"one of {', '.join(Channels)}",
    "preprocess.*.size": "a list of sizes: [height, width], or [256] for the shorter side",
    "preprocess.*.size.*": "a whole number of at least 1",
    "preprocess.*.interpolation": f"one of {', '.join(Interpolation)}",
    "preprocess.*.antialias": "true or false",
    "preprocess.*.to": f"one of {', '.join(Layout)}",
    "preprocess.*.max_pixels": "a whole number, the most pixels of one image",
    "preprocess.*.max_bytes": "a whole number, the most bytes of one image",
    "preprocess.*.max_length": "a whole number, the most tokens of one text",
    "preprocess.*.truncate": "true or false",
    "preprocess.*.padding": f"one of {', '.join(Padding)}",
    "preprocess.*.pad_id": "a whole number, the id of the padding",
    "preprocess.*.mask": "the name of another input, which says where tokens are",
    "preprocess.*.type_ids": "the name of another input, which says to which segment tokens belong",
    "evaluation": "a mapping with data and metrics",
    "evaluation.data": "the path of an .npz or .parquet file",
    "evaluation.preprocessed": "a mapping such as {data: fed.npz}: what training fed the model for the first rows",
    "evaluation.preprocessed.data": "the path of an .npz or .parquet file with a column for each input of the model",
    "evaluation.preprocessed.atol": "a number of at least 0: the difference that is allowed, beside rounding",
    "evaluation.metrics": "a list of metrics such as [{name: accuracy, output: y, label: label, max_drop: 0.005}]",
    "evaluation.metrics.*": "a metric such as {name: accuracy, output: y, label: label, max_drop: 0.005}",
    "evaluation.metrics.*.name": "the name of a metric, such as accuracy",
    "evaluation.metrics.*.output": "the name of an output",
    "evaluation.metrics.*.label": "the name of a column of the evaluation data",
    "evaluation.metrics.*.group": "the name of the column of the evaluation data that names each row's query",
    "evaluation.metrics.*.callable": "module:function, such as metric:profit for a function profit in metric.py beside "
    "this file",
    "evaluation.metrics.*.direction": f"one of {', '.join(Direction)}: whether a higher or a lower value is better",
    "evaluation.metrics.*.max_drop": "a number above 0: how much worse the export may be, in the metric's unit "
    "(that nothing at all is lost, no number of rows could show)",
    "evaluation.confidence": "a number above 0.5 and below 1, such as 0.95",
    "evaluation.class_regression": f"one of {', '.join(ClassRegression)}",
    "formats": "a list of formats such as [onnx], or [all]",
    "formats.*": "the name of a format such as onnx, or all",
    "export": "a mapping with int8 and external_data",
    "export.int8": f"one of {', '.join(Int8)}",
    "export.external_data": "true or false",
    "serving": "a mapping with format, max_batch, p99_ms, cold_start_s and prediction_log",
    "serving.format": "auto, or one of the formats",
    "serving.max_batch": "a whole number of at least 1: the most rows that the model is given at once",
    "serving.batch_rows": "a whole number from 1 to max_batch: the most rows of a batch",
    "serving.batch_window_ms": "a number of at least 0: milliseconds",
    "serving.queue_rows": "a whole number of at least 1: the most rows that wait",
    "serving.workers": "a whole number of at least 1: batches at once",
    "serving.threads": "a whole number of at least 1: threads of a batch",
    "serving.p99_ms": "a number above 0: milliseconds",
    "serving.cold_start_s": "a number above 0: seconds",
    "serving.prediction_log": "a mapping with sample, max_mb, omit and hash, such as {sample: 0.01}",
    "serving.prediction_log.sample": "a number above 0 and at most 1: the share of requests that is recorded",
    "serving.prediction_log.max_mb": "a whole number of at least 1: MiB of all files together",
    "serving.prediction_log.omit": "a list of inputs that are not recorded, such as [name]",
    "serving.prediction_log.omit.*": "the name of an input",
    "serving.prediction_log.hash": "a list of inputs of which a hash is recorded, such as [user]",
    "serving.prediction_log.hash.*": "the name of an input",
    "smoke": "a mapping with instance_types",
    "smoke.instance_types": "a list of instance types such as [c6i.large]",
    "smoke.instance_types.*": "the name of an instance type, such as c6i.large",
    "release": "a mapping such as {steps: [1, 5, 25, 50, 100], bake: 60s, min_requests: 500, approval: true}",
    "release.steps": "a list of percentages such as [1, 5, 25, 50, 100]",
    "release.steps.*": "a percentage above 0 and at most 100",
    "release.bake": "a whole number with a unit s, m or h, such as 60s",
    "release.extend": "a whole number with a unit s, m or h, such as 10m",
    "release.min_requests": "a whole number of at least 1",
    "release.approval": "true or false",
    "release.automatic": "true or false",
    "release.split_by": "the name of a request header in lower case, such as x-request-id or x-user-id",
    "release.alpha": "a number above 0 and at most 0.2: the chance that an equal version is rolled back",
    "release.guards": "a mapping such as {errors: 1.5, slow: 1.5, predictions: 0.02, harm: 0.005}",
    "release.guards.errors": "a number from 1 to 100: how many times as many failed requests do not matter",
    "release.guards.slow": "a number from 1 to 100: how many times as many slow requests do not matter",
    "release.guards.predictions": "a number above 0 and below 1: by how much a class' share may move",
    "release.guards.harm": "a number above 0 and below 1: the share of all requests that a step may put at risk",
    "release.shadow": "a mapping such as {requests: 1000, agreement: 0.95}",
    "release.shadow.requests": "a whole number of at least 1000",
    "release.shadow.agreement": "a number above 0 and at most 1: the least share of equal answers",
}

#: Where each mapping's keys are declared; `""` is the top.
MODELS: dict[str, type] = {
    "": ModelSpec,
    "source": SourceSpec,
    "inputs.*": TensorSpec,
    "outputs.*": TensorSpec,
    "dynamic.*": DimRange,
    "preprocess.*": PreprocessStep,
    "evaluation": EvaluationSpec,
    "evaluation.preprocessed": PreprocessedSpec,
    "evaluation.metrics.*": MetricSpec,
    "export": ExportSpec,
    "serving": ServingSpec,
    "serving.prediction_log": PredictionLogSpec,
    "smoke": SmokeSpec,
    "release": ReleaseSpec,
    "release.guards": GuardsSpec,
    "release.shadow": ShadowSpec,
}


@lru_cache
def required_keys(pattern: str) -> tuple[str, ...]:
    """Those of `keys_of(pattern)` that have no default."""
    if pattern not in MODELS:
        return ()
    return tuple(TypeAdapter(MODELS[pattern]).json_schema().get("required", ()))


def keys_of(pattern: str) -> tuple[str, ...]:
    """The keys that the mapping at `pattern` takes."""
    model = MODELS[pattern]
    names = [field.name for field in fields(model)] if is_dataclass(model) else list(model.model_fields)  # type: ignore[attr-defined]
    return tuple(name for name in names if (pattern, name) not in _NO_KEYS)


def pattern_of(path: KeyPath) -> str:
    """`('inputs', 0, 'shape')` → `inputs.*.shape`, and `('dynamic', 'batch', 'min')` → `dynamic.*.min`."""
    parts = ["*" if isinstance(part, int) else part for part in path]
    if len(parts) > 1 and parts[0] == "dynamic":
        parts[1] = "*"
    return ".".join(parts)


def joined(pattern: str, key: str) -> str:
    return f"{pattern}.{key}" if pattern else key
