"""What each key of a model.yaml expects, and what is structurally wrong with one: the first half of validation.

In: a `Document`. Out: a `Draft` of the parts that hold (which `tasks.spec_checks` then looks at), and a problem for
each key that is missing, unknown or of the wrong kind. pydantic does the checking; the sentences are `EXPECTED`'s.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

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
from tasks.errors import Problem
from tasks.spec import (
    ClassRegression,
    Direction,
    EvaluationSpec,
    ExportSpec,
    Framework,
    Int8,
    MetricSpec,
    ModelSpec,
    PredictionLogSpec,
    PreprocessedSpec,
    ReleaseSpec,
    ServingSpec,
    SmokeSpec,
    SourceSpec,
)
from tasks.spec_document import Document, KeyPath, describe

#: What other libraries call our dtypes and frameworks.
_ALIASES = {
    **{"float": "float32", "half": "float16", "double": "float64", "int": "int64", "long": "int64", "str": "string"},
    **{"torch": "pytorch", "tf": "tensorflow", "scikit-learn": "sklearn", "savedmodel": "tensorflow"},
}

#: Keys whose value is one of a few words; what else is one, is a dtype.
_ENUMS: dict[str, type[StrEnum]] = {
    "framework": Framework,
    "int8": Int8,
    "direction": Direction,
    "class_regression": ClassRegression,
    "nan": NanPolicy,
    "channels": Channels,
    "interpolation": Interpolation,
    "to": Layout,
    "padding": Padding,
}

#: Fields that are not written in a file: where it lies, and what is asked of inputs alone.
_NO_KEYS = {("", "folder"), ("", "every_format"), ("outputs.*", "range"), ("outputs.*", "nan")}

T = TypeVar("T")

#: What a check yields: where, and what is wrong there.
Found: TypeAlias = Iterator[tuple[KeyPath, str]]

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
    "release": "a mapping with steps, bake, min_requests and approval",
    "release.steps": "a list of percentages such as [1, 5, 25, 50, 100]",
    "release.steps.*": "a percentage above 0 and at most 100",
    "release.bake": "a whole number with a unit s, m or h, such as 60s",
    "release.min_requests": "a whole number of at least 1",
    "release.approval": "true or false",
}

#: Where each mapping's keys are declared; `""` is the top.
_MODELS: dict[str, type] = {
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
}


@dataclass(frozen=True, slots=True)
class Draft:
    """What holds of a spec on its own, before its parts are looked at together.

    As fine as it goes, so that one mistake hides no other: elements that hold come with their position, and a value
    that does not hold is None.
    """

    document: Document
    uri: str | None
    framework: Framework | None
    entrypoint: str | None
    inputs: dict[int, TensorSpec]
    outputs: dict[int, TensorSpec]
    dynamic: dict[str, DimRange]
    preprocess: dict[int, PreprocessStep]
    data: str | None
    preprocessed: str | None
    formats: dict[int, str]
    serving_format: str | None
    max_batch: int | None
    instance_types: dict[int, str]
    steps: dict[int, float]

    def written(self, *path: str | int) -> Any:
        """The plain value at `path` whether it holds or not, None where there is none."""
        value: Any = self.document.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def texts(self, *path: str) -> Iterator[tuple[KeyPath, dict[str, str]]]:
        """Each mapping in the list at `path`, with those of its values that are texts: its names, mostly."""
        items = self.written(*path)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            values = item.items() if isinstance(item, dict) else ()
            yield (*path, index), {key: value for key, value in values if isinstance(value, str)}

    def names(self, part: str) -> list[str]:
        """The names of all inputs or outputs."""
        return [texts["name"] for _, texts in self.texts(part) if "name" in texts]

    def shapes(self) -> Iterator[tuple[KeyPath, tuple[int | str, ...] | None]]:
        """The shape of each input and output, None where it does not hold."""
        for part in ("inputs", "outputs"):
            for path, _ in self.texts(part):
                yield (*path, "shape"), _sound(tuple[int | str, ...], self.written(*path, "shape"))

    @property
    def batch(self) -> str | None:
        """The dimension that every shape begins with, where it is one and named."""
        leads = {shape[0] if shape else None for _, shape in self.shapes()}
        lead = leads.pop() if len(leads) == 1 else None
        return lead if isinstance(lead, str) else None


def read_keys(document: Document) -> tuple[Draft, list[Problem]]:
    """What holds in the document, and every structural problem."""
    data = copy.deepcopy(document.data)
    problems = [document.problem(path, message) for path, message in _unknown_keys(data, "", ())]
    broken: dict[KeyPath, Problem] = {}
    for path, kind in _errors(data):
        broken.setdefault(path, document.problem(path, _sentence(document, path, kind)))
    return _draft(document, data), problems + list(broken.values())


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` where something known is near, else nothing."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def required_keys(pattern: str) -> tuple[str, ...]:
    """Those of `keys_of(pattern)` that have no default."""
    if pattern not in _MODELS:
        return ()
    return tuple(_adapter(_MODELS[pattern]).json_schema().get("required", ()))


def keys_of(pattern: str) -> tuple[str, ...]:
    """The keys that the mapping at `pattern` takes."""
    model = _MODELS[pattern]
    names = [field.name for field in fields(model)] if is_dataclass(model) else list(model.model_fields)  # type: ignore[attr-defined]
    return tuple(name for name in names if (pattern, name) not in _NO_KEYS)


# --- structure ----------------------------------------------------------------------------------------------------


def _unknown_keys(data: Any, pattern: str, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Take the unknown keys out of `data`, in place, and report each."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _unknown_keys(item, _join(pattern, "*"), (*path, index))
    if not isinstance(data, dict):
        return
    known = keys_of(pattern) if pattern in _MODELS else None
    for key in list(data):
        if known is not None and key not in known:
            del data[key]
            hint = nearest(key, known) or f"; {pattern.removesuffix('.*') or 'a model.yaml'} takes {', '.join(known)}"
            yield (*path, key), f"unknown key{hint}"
        else:
            yield from _unknown_keys(data[key], _join(pattern, key if known else "*"), (*path, key))


def _errors(data: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Path and pydantic's kind of each structural error."""
    try:
        _validate(ModelSpec, {**data, "folder": "."})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            path = _existing(detail["loc"], data, missing=detail["type"] == "missing")
            if detail["type"] != "too_short" or not detail["input"]:  # else its elements are what is wrong
                yield path, detail["type"]


def _validate(form: Any, data: Any) -> Any:
    """Strictly, as JSON: a list is a tuple, a text may name an enum's value, but '3' is no number and 1 is not true."""
    return _adapter(form).validate_json(json.dumps(data), strict=True)


@lru_cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _existing(location: KeyPath, data: Any, *, missing: bool) -> KeyPath:
    """pydantic's location without the names of union members, which are no keys of the document."""
    path: list[str | int] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if missing:
                path.append(part)
            break
        path.append(part)
    return tuple(path)


def _sentence(document: Document, path: KeyPath, kind: str) -> str:
    expected = EXPECTED[_pattern(path)]
    if kind == "missing":
        return f"is missing; expected {expected}"
    value: Any = document.data
    for part in path:
        value = value[part]
    return f"expected {expected}; found {describe(value)}{_hint(path, value, kind)}"


def _hint(path: KeyPath, value: Any, kind: str) -> str:
    """What to do about it, where the mistake is a common one."""
    hint = ""
    list_wanted = kind in ("tuple_type", "list_type")
    truth = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
    match value:
        case None:
            hint = (
                "; fill it in" if path[-1] in required_keys(_pattern(path[:-1])) else "; fill it in, or remove the key"
            )
        case str() if kind in ("int_type", "float_type") and _is_number(value):
            hint = "; remove the quotes"
        case str() if kind == "bool_type" and value.lower() in truth:
            hint = f"; write {truth[value.lower()]}, without quotes"
        case str() if kind == "enum":
            near = nearest(value, _ENUMS.get(str(path[-1]), DType))
            hint = f"; did you mean {_ALIASES[value]}?" if value in _ALIASES else near
        case str() if path == ("name",):
            hint = _label_hint(value)
        case str() | int() | float() if list_wanted and not isinstance(value, bool):
            hint = f"; write [{value}]"
        case dict() if list_wanted:
            hint = "; begin each element with `- `"
    return hint


def _label_hint(name: str) -> str:
    """A DNS label made of `name`."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in name.lower()).split()
    label = "-".join(words)[:63].strip("-")
    return f"; {label} would do" if label else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pattern(path: KeyPath) -> str:
    """`('inputs', 0, 'shape')` → `inputs.*.shape`, and `('dynamic', 'batch', 'min')` → `dynamic.*.min`."""
    parts = ["*" if isinstance(part, int) else part for part in path]
    if len(parts) > 1 and parts[0] == "dynamic":
        parts[1] = "*"
    return ".".join(parts)


def _join(pattern: str, key: str) -> str:
    return f"{pattern}.{key}" if pattern else key


# --- what holds ---------------------------------------------------------------------------------------------------


def _draft(document: Document, data: dict[str, Any]) -> Draft:
    source, evaluation, serving, smoke, release = (
        value if isinstance(value := data.get(part), dict) else {}
        for part in ("source", "evaluation", "serving", "smoke", "release")
    )
    return Draft(
        document=document,
        uri=_sound(str, source.get("uri")),
        framework=_sound(Framework, source.get("framework")),
        entrypoint=_sound(str, source.get("entrypoint")),
        inputs=_elements(TensorSpec, data.get("inputs")),
        outputs=_elements(TensorSpec, data.get("outputs")),
        dynamic=_elements(DimRange, data.get("dynamic")),
        preprocess=_elements(PreprocessStep, data.get("preprocess")),
        data=_sound(str, evaluation.get("data")),
        preprocessed=_sound(str, fed.get("data")) if isinstance(fed := evaluation.get("preprocessed"), dict) else None,
        formats=_elements(str, data.get("formats")),
        serving_format=_sound(str, serving.get("format")),
        max_batch=_sound(int, serving.get("max_batch")),
        instance_types=_elements(str, smoke.get("instance_types")),
        steps=_elements(float, release.get("steps")),
    )


def _sound(form: type[T], data: Any) -> T | None:
    try:
        return cast(T, _validate(form, data))
    except ValidationError:
        return None


def _elements(form: type[T], data: Any) -> dict[Any, T]:
    """The elements that hold, by their position in a list or their key in a mapping."""
    items = enumerate(data) if isinstance(data, list) else data.items() if isinstance(data, dict) else ()
    read = ((key, _sound(form, item)) for key, item in items)
    return {key: item for key, item in read if item is not None}
