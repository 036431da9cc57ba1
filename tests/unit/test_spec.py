"""model.yaml: what holds is read, and everything that does not is said, with its line and key."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.contract import Batching, DimRange, DType, NanPolicy, PreprocessStep, TensorSpec
from tasks.errors import SpecError
from tasks.export.formats import formats_of
from tasks.spec import Framework, ModelSpec, load_spec
from tasks.spec_document import dotted, parse_document
from tasks.spec_hints import nearest
from tasks.spec_keys import EXPECTED, MODELS, keys_of

GOOD = """\
name: digits-cnn
owner: vision@example.com
source:
  uri: artifacts/digits.pt
  framework: pytorch
  entrypoint: model:build
inputs:
  - {name: pixels, dtype: float32, shape: [batch, 1, 8, 8]}
outputs:
  - {name: logits, dtype: float32, shape: [batch, 10]}
dynamic:
  batch: {min: 1, max: 64}
preprocess:
  - {op: scale, input: pixels, by: 0.0625}
evaluation:
  data: artifacts/eval.npz
  metrics:
    - {name: accuracy, output: logits, label: label, max_drop: 0.005}
formats: [onnx, savedmodel, torch-export]
serving: {format: auto, max_batch: 32, p99_ms: 50, cold_start_s: 3}
smoke: {instance_types: [c6i.large, c4.large]}
release: {steps: [1, 5, 25, 50, 100], bake: 60s, min_requests: 500, approval: true}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec's folder with everything that `GOOD` names."""
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "digits.pt").write_bytes(b"weights")
    np.savez(tmp_path / "artifacts" / "eval.npz", pixels=np.zeros(1))
    (tmp_path / "model.py").write_text("def build():\n    ...\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "model.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, *changes: tuple[str, str]) -> list[tuple[int | None, str, str]]:
    """What is wrong with `GOOD` after each old text was replaced by a new one: (line, key, message)."""
    text = GOOD
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    with pytest.raises(SpecError) as caught:
        load_spec(write(folder, text))
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def test_a_spec_as_in_the_design_is_read_with_every_value(folder: Path) -> None:
    spec = load_spec(write(folder, GOOD))

    assert spec.folder == folder
    assert (spec.name, spec.owner) == ("digits-cnn", "vision@example.com")
    assert (spec.source.uri, spec.source.framework) == ("artifacts/digits.pt", Framework.PYTORCH)
    assert spec.source.entrypoint == "model:build"
    assert spec.inputs == (TensorSpec("pixels", DType.FLOAT32, ("batch", 1, 8, 8)),)
    assert spec.outputs == (TensorSpec("logits", DType.FLOAT32, ("batch", 10)),)
    assert spec.dynamic == {"batch": DimRange(1, 64)}
    assert spec.preprocess == (PreprocessStep("scale", "pixels", by=0.0625),)
    assert spec.evaluation.data == "artifacts/eval.npz"
    assert spec.evaluation.metrics[0].model_dump() == {
        "name": "accuracy",
        "output": "logits",
        "label": "label",
        "group": None,
        "callable": None,
        "direction": None,
        "max_drop": 0.005,
    }
    assert (spec.evaluation.confidence, spec.evaluation.class_regression) == (0.95, "remark")
    assert spec.formats == ("onnx", "savedmodel", "torch-export")
    assert (spec.serving.max_batch, spec.serving.p99_ms, spec.serving.cold_start_s) == (32, 50, 3)
    assert spec.smoke.instance_types == ("c6i.large", "c4.large")
    assert (spec.release.steps, spec.release.bake) == ((1, 5, 25, 50, 100), "60s")
    assert (spec.release.min_requests, spec.release.approval) == (500, True)


def test_the_optional_parts_have_defaults(folder: Path) -> None:
    text = "".join(line for line in GOOD.splitlines(True) if not line.startswith(("serving", "release")))
    spec = load_spec(write(folder, text))

    assert (spec.serving.format, spec.serving.max_batch) == ("auto", 32)
    assert spec.release.steps[-1] == 100


def test_all_formats_are_those_that_the_framework_gives(folder: Path) -> None:
    text = GOOD.replace("[onnx, savedmodel, torch-export]", "[all]").replace("format: auto", "format: savedmodel")
    spec = load_spec(write(folder, text))
    assert spec.formats == formats_of("pytorch")
    named = text.replace("[all]", f"[{', '.join(formats_of('pytorch'))}]")
    by_name = load_spec(write(folder, named))
    assert by_name.formats == spec.formats
    assert (spec.every_format, by_name.every_format) == (True, False)  # what cannot be is left out of the one, not both


def test_how_requests_are_batched_goes_into_the_contract_as_it_is(folder: Path) -> None:
    text = GOOD.replace("max_batch: 32", "max_batch: 32, batch_rows: 16, batch_window_ms: 1.5, threads: 1")
    assert load_spec(write(folder, text)).serving.batching == Batching(16, 1.5, None, None, 1)


def test_max_batch_is_never_above_the_batch_dimension_by_default(folder: Path) -> None:
    text = GOOD.replace("max_batch: 32, ", "").replace("max: 64", "max: 16")
    assert load_spec(write(folder, text)).serving.max_batch == 16


def test_the_digest_ignores_comments_spacing_and_the_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("artifacts", "model.py"):
        (elsewhere / name).symlink_to(folder / name)
    block = GOOD.replace(
        "formats: [onnx, savedmodel, torch-export]", "formats:  # all\n- onnx\n- savedmodel\n- torch-export"
    )

    digest = load_spec(write(elsewhere, block)).digest
    assert load_spec(write(folder, GOOD)).digest == digest
    assert load_spec(write(folder, GOOD.replace("0.005", "0.006"))).digest != digest


PIXELS = "{name: pixels, dtype: float32, shape: [batch, 1, 8, 8]}"


def test_inputs_may_bound_their_values_and_take_nan(folder: Path) -> None:
    text = GOOD.replace(PIXELS, PIXELS.replace("}", ", range: [0, 16.5], nan: accept}"))
    open_ended = GOOD.replace(PIXELS, PIXELS.replace("}", ", range: [null, 16]}"))
    assert (load_spec(write(folder, text)).inputs[0].range, load_spec(write(folder, text)).inputs[0].nan) == (
        (0, 16.5),
        NanPolicy.ACCEPT,
    )
    assert load_spec(write(folder, open_ended)).inputs[0].range == (None, 16)
    assert load_spec(write(folder, open_ended)).inputs[0].nan is NanPolicy.REFUSE


@pytest.mark.parametrize(
    ("dtype", "keys", "key", "part"),
    [
        ("float32", "range: [2, 1]", "inputs.0.range", "the least value 2 is above the greatest 1"),
        ("float32", "range: [null, null]", "inputs.0.range", "has no end at all"),
        ("float32", "range: [0]", "inputs.0.range.1", "is missing; expected a number, or null for no end"),
        ("float32", "range: 5", "inputs.0.range", "expected the least and the greatest value"),
        ("float32", 'range: ["0", 1]', "inputs.0.range.0", "expected a number, or null for no end; found the text '0'"),
        ("float16", "range: [0, 1e5]", "inputs.0.range.1", "100000.0 is no float16, which has -65504.0 to 65504.0"),
        ("float32", "range: [0, .inf]", "inputs.0.range.1", "inf is no float32"),
        ("uint8", "range: [-1, 5]", "inputs.0.range.0", "-1 is no uint8, which has 0 to 255; write null for no end"),
        ("int64", "range: [0, 9.5]", "inputs.0.range", "int64 has whole numbers; found [0, 9.5]"),
        ("bool", "range: [0, 1]", "inputs.0.range", "bool has no range of numbers"),
        ("int64", "nan: accept", "inputs.0.nan", "int64 has no NaN"),
        ("float32", "nan: acept", "inputs.0.nan", "did you mean accept?"),
    ],
)
def test_a_range_or_nan_policy_that_does_not_hold_is_named(
    folder: Path, dtype: str, keys: str, key: str, part: str
) -> None:
    given = PIXELS.replace("float32", dtype).replace("}", f", {keys}}}")
    steps = "preprocess:\n  - {op: scale, input: pixels, by: 0.0625}\n"
    [(_, found, message)] = problems(folder, (PIXELS, given), (steps, ""))
    assert found == key
    assert part in message


def test_outputs_have_no_range(folder: Path) -> None:
    [(_, key, message)] = problems(folder, ("shape: [batch, 10]}", "shape: [batch, 10], range: [0, 1]}"))
    assert key == "outputs.0.range"
    assert "unknown key; outputs takes name, dtype, shape" in message


# (what is changed, line, key, parts of the message)
BAD_VALUES = [
    # names
    ("name: digits-cnn", "name: Digits_CNN", 1, "name", ["DNS label", "'Digits_CNN'", "digits-cnn would do"]),
    ("name: digits-cnn", "name: -digits", 1, "name", ["DNS label"]),
    ("name: digits-cnn", f"name: {'d' * 64}", 1, "name", ["1 to 63"]),
    ("name: digits-cnn", "name: 7", 1, "name", ["the number 7"]),
    ("owner: vision@example.com", "owner:", 2, "owner", ["nothing", "fill it in"]),
    ("owner: vision@example.com\n", "", 1, "owner", ["is missing", "who answers for the model"]),
    # unknown keys
    ("owner:", "ownr: x\nowner:", 2, "ownr", ["unknown key", "did you mean owner?"]),
    ("label: label", "lable: label", 18, "evaluation.metrics.0.lable", ["did you mean label?"]),
    ("max: 64", "max: 64, step: 2", 12, "dynamic.batch.step", ["unknown key", "min, max"]),
    ("by: 0.0625", "bye: 0.0625", 14, "preprocess.0.bye", ["did you mean by?"]),
    # tensors and dimensions
    ("dtype: float32, shape: [batch, 10]", "dtype: float, shape: [batch, 10]", 10, "outputs.0.dtype", ["float32?"]),
    ("name: logits", "name: pixels", 10, "outputs.0.name", ["already the name of inputs.0"]),
    ("name: logits", "name: lo-gits", 10, "outputs.0.name", ["letters, digits and underscores", "'lo-gits'"]),
    ("name: logits", "name: lambda", 10, "outputs.0.name", ["'lambda'"]),
    ("[batch, 10]", "[batch, 0]", 10, "outputs.0.shape.1", ["at least 1", "found 0"]),
    ("[batch, 10]", "[batch, 10.5]", 10, "outputs.0.shape.1", ["whole number", "10.5"]),
    ("[batch, 10]", "[batch, true]", 10, "outputs.0.shape.1", ["whole number", "true"]),
    ("[batch, 10]", "[bach, 10]", 10, "outputs.0.shape.0", ["no range under `dynamic`", "did you mean batch?"]),
    ("[batch, 10]", "[batch, length]", 10, "outputs.0.shape.1", ["no range", "length: {min: 1, max: 64}"]),
    ("[batch, 10]", "batch", 10, "outputs.0.shape", ["a list", "write [batch]"]),
    ("[batch, 10]", "[]", 10, "outputs.0.shape", ["begin with the batch dimension"]),
    ("[batch, 10]", "[1, 10]", 10, "outputs.0.shape.0", ["frozen at 1"]),
    ("min: 1", "min: 0", 12, "dynamic.batch.min", ["at least 1", "found 0"]),
    ("min: 1", "min: 65", 12, "dynamic.batch", ["min 65 is above max 64"]),
    ("min: 1", "min: 64", 12, "dynamic.batch", ["one size 64", "write 64"]),
    ("min: 1", 'min: "1"', 12, "dynamic.batch.min", ["whole number", "the text '1'", "remove the quotes"]),
    ("  batch: {min", "  rows: {min: 1, max: 2}\n  batch: {min", 12, "dynamic.rows", ["no input or output"]),
    ("  - {name: logits", "  - name: logits\n    foo: {name: x", 11, "outputs.0.foo", ["unknown key"]),
    # preprocessing
    ("op: scale", "op: scal", 14, "preprocess.0.op", ["unknown operation 'scal'", "did you mean scale?"]),
    ("input: pixels", "input: pixel", 14, "preprocess.0.input", ["no input 'pixel'", "did you mean pixels?"]),
    ("by: 0.0625", "mean: [1]", 14, "preprocess.0.mean", ["scale takes by and offset, not mean"]),
    ("by: 0.0625", "by: 0.0625, axis: 1", 14, "preprocess.0.axis", ["not axis"]),
    # evaluation
    ("eval.npz", "eval.npy", 16, "evaluation.data", [".npz or .parquet"]),
    ("eval.npz", "evl.npz", 16, "evaluation.data", ["no evl.npz", "did you mean eval.npz?"]),
    ("name: accuracy", "name: acuracy", 18, "evaluation.metrics.0.name", ["did you mean accuracy?"]),
    ("name: accuracy", "name: top10", 18, "evaluation.metrics.0.output", ["more than 10 classes"]),
    ("output: logits", "output: logit", 18, "evaluation.metrics.0.output", ["no output 'logit'", "mean logits?"]),
    ("max_drop: 0.005", "max_drop: -0.1", 18, "evaluation.metrics.0.max_drop", ["above 0", "-0.1"]),
    ("max_drop: 0.005", "max_drop: .nan", 18, "evaluation.metrics.0.max_drop", ["above 0"]),
    ("max_drop: 0.005", "max_drop: .inf", 18, "evaluation.metrics.0.max_drop", ["above 0"]),
    ("max_drop: 0.005", "max_drop: 1", 18, "evaluation.metrics.0.max_drop", ["between 0 and 1"]),
    ("shape: [batch, 10]", "shape: [batch, 100000000000]", 11, "outputs.0.shape", ["batch = 64", "2 GiB"]),
    ("max: 64", f"max: 1{'0' * 400}", 9, "inputs.0.shape", ["2 GiB"]),
    ("max: 64", "max: 100000000000000000000", 9, "inputs.0.shape", ["batch = 100000000000000000000", "2 GiB"]),
    ("max_drop: 0.005", "max_drop: 0", 18, "evaluation.metrics.0.max_drop", ["above 0", "no number of rows"]),
    ("label: label,", "label: label, group: query,", 18, "evaluation.metrics.0.group", ["ranks nothing"]),
    ("name: accuracy", "name: ndcg, group: query", 18, "evaluation.metrics.0.group", ["each row is a query"]),
    ("label: label,", "label: label, direction: higher,", 18, "evaluation.metrics.0.direction", ["accuracy knows"]),
    ("name: accuracy", "name: p, callable: model:build, direction: x", 18, "evaluation.metrics.0.direction", ["lower"]),
    ("name: accuracy", "name: p, callable: model:build", 18, "evaluation.metrics.0.direction", ["is missing"]),
    ("name: accuracy", "name: p, callable: metric:p", 18, "evaluation.metrics.0.callable", ["no module metric"]),
    ("name: accuracy", "name: p, callable: model:bild", 18, "evaluation.metrics.0.callable", ["did you mean build?"]),
    ("name: accuracy", "name: p, callable: model", 18, "evaluation.metrics.0.callable", ["expected module:function"]),
    ("name: accuracy", "name: rmse, callable: model:build", 18, "evaluation.metrics.0.name", ["Slipway's own"]),
    ("name: accuracy", "name: a/b, callable: model:build", 18, "evaluation.metrics.0.name", ["letters, digits"]),
    ("  metrics:", "  confidence: 1\n  metrics:", 17, "evaluation.confidence", ["below 1"]),
    ("  metrics:", "  confidence: 0.5\n  metrics:", 17, "evaluation.confidence", ["above 0.5"]),
    ("  metrics:", "  class_regression: bloc\n  metrics:", 17, "evaluation.class_regression", ["did you mean block?"]),
    # formats
    ("[onnx, savedmodel,", "[onnx, onnxx,", 19, "formats.1", ["unknown format", "did you mean onnx?"]),
    ("[onnx, savedmodel,", "[onnx, onnx,", 19, "formats.1", ["already formats.0"]),
    ("[onnx, savedmodel, torch-export]", "[all, onnx]", 19, "formats.0", ["all stands alone", "write [all]"]),
    ("[onnx, savedmodel, torch-export]", "[all, all]", 19, "formats.1", ["already formats.0"]),
    ("[onnx, savedmodel,", "[al,", 19, "formats.0", ["unknown format", "did you mean all?"]),
    ("[onnx, savedmodel, torch-export]", "[]", 19, "formats", ["an empty list"]),
    ("[onnx, savedmodel, torch-export]", "onnx", 19, "formats", ["a list", "write [onnx]"]),
    # serving
    ("format: auto", "format: onnxx", 20, "serving.format", ["onnx, savedmodel, torch-export", "did you mean onnx?"]),
    ("max_batch: 32", "max_batch: 65", 20, "serving.max_batch", ["65 is outside the range 1 to 64"]),
    ("max_batch: 32", "max_batch: 1.5", 20, "serving.max_batch", ["whole number", "1.5"]),
    ("max_batch: 32", "batch_rows: 33", 20, "serving.batch_rows", ["33 is above serving.max_batch, 32"]),
    ("max_batch: 32", "batch_rows: 0", 20, "serving.batch_rows", ["whole number from 1 to max_batch"]),
    ("max_batch: 32", "batch_window_ms: -1", 20, "serving.batch_window_ms", ["at least 0", "milliseconds"]),
    ("max_batch: 32", "prediction_log: {sample: 0}", 20, "serving.prediction_log.sample", ["above 0 and at most 1"]),
    ("max_batch: 32", "prediction_log: {smple: 1}", 20, "serving.prediction_log.smple", ["did you mean sample?"]),
    ("max_batch: 32", "prediction_log: {omit: [pixls]}", 20, "serving.prediction_log.omit.0", ["did you mean pixels?"]),
    ("max_batch: 32", "prediction_log: {hash: [3]}", 20, "serving.prediction_log.hash.0", ["the name of an input"]),
    ("max_batch: 32", "worker: 2", 20, "serving.worker", ["did you mean workers?"]),
    ("p99_ms: 50", "p99_ms: 0", 20, "serving.p99_ms", ["above 0", "milliseconds"]),
    ("p99_ms: 50", "p99_ms: '50'", 20, "serving.p99_ms", ["remove the quotes"]),
    ("cold_start_s: 3", "cold_start_s: soon", 20, "serving.cold_start_s", ["above 0", "'soon'"]),
    # smoke
    ("c6i.large", "c6i.lrge", 21, "smoke.instance_types.0", ["unknown instance type", "did you mean c6i.large?"]),
    ("c4.large", "c6i.large", 21, "smoke.instance_types.1", ["already instance_types.0"]),
    # release
    ("[1, 5, 25, 50, 100]", "[5, 1, 100]", 22, "release.steps.1", ["1 follows 5"]),
    ("[1, 5, 25, 50, 100]", "[1, 50]", 22, "release.steps", ["must be 100", "found 50"]),
    ("[1, 5, 25, 50, 100]", "[1, 101]", 22, "release.steps.1", ["at most 100"]),
    ("[1, 5, 25, 50, 100]", "[]", 22, "release.steps", ["an empty list"]),
    ("bake: 60s", "bake: 60", 22, "release.bake", ["unit s, m or h", "the number 60"]),
    ("bake: 60s", "bake: 0s", 22, "release.bake", ["unit s, m or h"]),
    ("min_requests: 500", "min_requests: 0", 22, "release.min_requests", ["at least 1"]),
    ("approval: true", "approval: yes", 22, "release.approval", ["the text 'yes'", "write true, without quotes"]),
    ("approval: true", "approval: 1", 22, "release.approval", ["true or false", "the number 1"]),
    # source
    ("framework: pytorch", "framework: torch", 5, "source.framework", ["did you mean pytorch?"]),
    ("digits.pt", "digit.pt", 4, "source.uri", ["no digit.pt in the folder artifacts", "did you mean digits.pt?"]),
    ("artifacts/digits.pt", "artifacts", 4, "source.uri", ["state_dict"]),
    ("artifacts/digits.pt", "artifacts/digits.pkl", 4, "source.uri", ["a .pkl file", "torch.save(model.state_dict()"]),
    ("artifacts/digits.pt", "s33://bucket/digits.pt", 4, "source.uri", ["unknown scheme s33://", "did you mean s3?"]),
    ("artifacts/digits.pt", "https://me:pass@host/digits.pt", 4, "source.uri", ["password"]),
    ("artifacts/digits.pt", "models:/digits", 4, "source.uri", ["models:/name/3", "models:/name@alias"]),
    ("artifacts/digits.pt", "runs:/abc", 4, "source.uri", ["runs:/run_id/path"]),
    ("\n  entrypoint: model:build", "", 4, "source.entrypoint", ["is missing", "such as model:build"]),
    ("model:build", "model", 6, "source.entrypoint", ["module:callable", "'model'"]),
    ("model:build", "modle:build", 6, "source.entrypoint", ["no module modle", "did you mean model?"]),
    ("model:build", "model:biuld", 6, "source.entrypoint", ["defines no biuld", "did you mean build?"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "fragments"), BAD_VALUES, ids=[f"{case[3]} {case[1][:24]!r}" for case in BAD_VALUES]
)
def test_a_bad_value_is_named_with_its_line_and_key(
    folder: Path, old: str, new: str, line: int, key: str, fragments: list[str]
) -> None:
    found = problems(folder, (old, new))
    [message] = [message for at, where, message in found if (at, where) == (line, key)] or [f"not in {found}"]
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("case", BAD_VALUES, ids=[f"{case[3]} {case[1][:24]!r}" for case in BAD_VALUES])
def test_no_message_speaks_of_the_validation_library(folder: Path, case: tuple[str, str]) -> None:
    for _, _, message in problems(folder, (case[0], case[1])):
        for jargon in ("Input should", "type=", "pydantic", "instance of", "tuple"):
            assert jargon not in message


def test_all_problems_are_reported_at_once_and_in_order(folder: Path) -> None:
    chosen = [
        ("name: digits-cnn", "name: Digits", 1, "name"),
        ("digits.pt", "digit.pt", 4, "source.uri"),
        ("name: logits", "name: lo gits", 10, "outputs.0.name"),
        ("min: 1", "min: '1'", 12, "dynamic.batch.min"),
        ("op: scale", "op: scal", 14, "preprocess.0.op"),
        ("name: accuracy", "name: acuracy", 18, "evaluation.metrics.0.name"),
        ("max_drop: 0.005", "max_drop: -1", 18, "evaluation.metrics.0.max_drop"),
        ("formats: [onnx,", "formats: [tflite,", 19, "formats.0"),
        ("p99_ms: 50", "p99_ms: fast", 20, "serving.p99_ms"),
        ("format: auto", "format: other", 20, "serving.format"),
        ("c6i.large", "c6i.lrge", 21, "smoke.instance_types.0"),
        ("bake: 60s", "bake: 60", 22, "release.bake"),
        ("50, 100", "50, 99", 22, "release.steps"),
    ]
    found = problems(folder, *[(old, new) for old, new, _, _ in chosen])

    assert {(line, key) for _, _, line, key in chosen} <= {(line, key) for line, key, _ in found}
    assert [line for line, _, _ in found] == sorted(line for line, _, _ in found if line is not None)


def test_one_mistake_is_reported_once(folder: Path) -> None:
    for old, new in [("dtype: float32, shape: [batch, 10]", "dtype: flat32, shape: [batch, 10]"), ("min: 1", "min: x")]:
        assert len(problems(folder, (old, new))) == 1


def test_the_message_names_the_file_and_the_line(folder: Path) -> None:
    path = write(folder, GOOD.replace("min: 1", "min: 0"))
    with pytest.raises(SpecError, match=r"model\.yaml:12: dynamic\.batch\.min: a size is at least 1") as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("framework", "uri", "formats", "gives"),
    [
        ("sklearn", "m.skops", "[onnx, savedmodel]", "sklearn gives onnx"),
        ("keras", "m.keras", "[onnx, torch-export]", "keras gives onnx, onnx-int8, onnx-fp16, savedmodel"),
        ("onnx", "m.onnx", "[onnx, savedmodel]", "onnx gives onnx"),
    ],
)
def test_a_format_that_the_framework_cannot_give_is_refused_with_those_it_can(
    folder: Path, framework: str, uri: str, formats: str, gives: str
) -> None:
    (folder / uri).write_bytes(b"x")
    changes = [
        ("artifacts/digits.pt", uri),
        ("framework: pytorch", f"framework: {framework}"),
        ("\n  entrypoint: model:build", ""),
        ("[onnx, savedmodel, torch-export]", formats),
    ]
    [(_, key, message)] = problems(folder, *changes)
    assert key == "formats.1"
    assert gives in message


def test_an_entrypoint_is_refused_where_the_model_describes_itself(folder: Path) -> None:
    (folder / "m.keras").write_bytes(b"x")
    changes = [("artifacts/digits.pt", "m.keras"), ("framework: pytorch", "framework: keras"), (", torch-export]", "]")]
    [(line, key, message)] = problems(folder, *changes)
    assert (line, key) == (6, "source.entrypoint")
    assert "remove it" in message


def test_a_torch_export_archive_needs_no_entrypoint(folder: Path) -> None:
    (folder / "m.pt2").write_bytes(b"x")
    text = GOOD.replace("artifacts/digits.pt", "m.pt2").replace("\n  entrypoint: model:build", "")
    assert load_spec(write(folder, text)).source.entrypoint is None


def test_a_tensorflow_source_must_be_a_savedmodel_folder(folder: Path) -> None:
    changes = [
        ("artifacts/digits.pt", "artifacts"),
        ("framework: pytorch", "framework: tensorflow"),
        ("\n  entrypoint: model:build", ""),
        (", torch-export]", "]"),
    ]
    [(_, key, message)] = problems(folder, *changes)
    assert key == "source.uri"
    assert "saved_model.pb" in message


@pytest.mark.parametrize(
    "uri",
    [
        "models:/digits/3",
        "models:/digits@champion",
        "runs:/0a1b/model/digits.pt",
        "s3://bucket/key/digits.pt",
        "memory://digits.pt",
    ],
)
def test_uris_of_registries_and_filesystems_are_accepted_without_looking(folder: Path, uri: str) -> None:
    assert load_spec(write(folder, GOOD.replace("artifacts/digits.pt", uri))).source.uri == uri


def test_strings_are_refused_where_the_framework_has_none(folder: Path) -> None:
    found = problems(folder, ("dtype: float32, shape: [batch, 10]", "dtype: string, shape: [batch, 10]"))
    assert (10, "outputs.0.dtype") in [(line, key) for line, key, _ in found]


def test_inputs_and_outputs_must_share_the_batch(folder: Path) -> None:
    changes = [("[batch, 10]", "[rows, 10]"), ("  batch: {", "  rows: {min: 1, max: 9}\n  batch: {")]
    [(_, key, message)] = problems(folder, *changes)
    assert key == "inputs"
    assert "batch (inputs.0), rows (outputs.0)" in message


def test_two_metrics_that_measure_the_same_are_refused(folder: Path) -> None:
    line = "    - {name: accuracy, output: logits, label: label, max_drop: 0.005}\n"
    [(at, key, message)] = problems(folder, (line, line + line))
    assert (at, key) == (19, "evaluation.metrics.1")
    assert "evaluation.metrics.0" in message


def test_the_entrypoint_may_be_bound_by_import_or_assignment(folder: Path) -> None:
    for text in (
        "from nets import build\n",
        "build = object\n",
        "from nets import *\n",
        "try:\n  x\nexcept E:\n  def build(): 0\n",
    ):
        (folder / "model.py").write_text(text)
        assert load_spec(write(folder, GOOD)).source.entrypoint == "model:build"


def test_an_entrypoint_module_that_is_not_python_is_named_with_its_line(folder: Path) -> None:
    (folder / "model.py").write_text("x = 1\ndef build(:\n")
    [(_, key, message)] = problems(folder, ("name: digits-cnn", "name: digits-cnn"))
    assert key == "source.entrypoint"
    assert "model.py:2 is not Python" in message


# --- files that are no specs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "fragment"),
    [
        ("", 1, "", "is empty"),
        ("# only a comment\n", 1, "", "is empty"),
        ("- a\n- b\n", 1, "", "expected a mapping"),
        ("name: a: b\n", 1, "", "mapping values are not allowed here"),
        ("name: x\nowner: [a, b\n", 2, "", "is not YAML"),
        ("name: x\n\towner: y\n", 2, "", "is not YAML"),
        ("name: x\n---\nname: y\n", 2, "", "another document"),
        ("name: *other\n", 1, "", "undefined alias"),
        ("name: x\nname: y\n", 2, "name", "twice, first on line 1"),
        ("a: {b: 1,\n    b: 2}\n", 2, "a.b", "twice, first on line 1"),
        ("name: !!python/object:os.system x\n", 1, "name", "tags"),
        ("name: !env HOME\n", 1, "name", "tags"),
        ("inputs: &a\n  - *a\n", 1, "inputs.0", "refers to what it lies in"),
        ("? [1, 2]\n: x\n", 1, "", "a key must be a plain text"),
    ],
)
def test_yaml_that_is_no_spec_is_named_with_its_line(
    folder: Path, text: str, line: int, key: str, fragment: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(write(folder, text))
    assert [p for p in caught.value.problems if (p.line, p.key) == (line, key) and fragment in p.message], str(
        caught.value
    )


def test_aliases_that_multiply_are_refused(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(SpecError, match="endless"):
        load_spec(write(folder, "\n".join(lines)))


def test_a_missing_file_a_folder_and_binary_bytes_are_told_apart(folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"PK\x03\x04\n\xff\xfe")
    for path, fragment in [
        (folder / "nothing.yaml", "no such file"),
        (folder, "is a folder"),
        (folder / "model.pt", "not UTF-8"),
    ]:
        with pytest.raises(SpecError, match=fragment):
            load_spec(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(folder: Path) -> None:
    path = folder / "model.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_spec(path).name == "digits-cnn"


# --- the tables ---------------------------------------------------------------------------------------------------


def test_every_key_of_the_spec_has_a_sentence_about_what_it_expects() -> None:
    keys = {".".join(filter(None, (pattern, key))) for pattern in MODELS for key in keys_of(pattern)}
    assert keys <= set(EXPECTED)
    assert {pattern for pattern in EXPECTED if not pattern.endswith("*")} == keys


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(deadline=None)
@given(VALUES, st.sampled_from(sorted(EXPECTED)))
def test_any_value_anywhere_is_a_spec_or_a_spec_error(value: object, pattern: str) -> None:
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load(GOOD)
    target, *path = document, *pattern.replace("*", "0").split(".")
    keys = [int(part) if part == "0" else part for part in path]
    for key in keys[:-1]:
        if isinstance(target, dict) and key not in target:
            key = next(iter(target), None) if key == 0 else key  # noqa: PLW2901 - `dynamic.*` is keyed by name
        try:
            target = target[key]
        except (KeyError, IndexError, TypeError):
            return
    try:
        target[keys[-1]] = value
    except (IndexError, TypeError):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.yaml"
        YAML(typ="safe", pure=True).dump(document, path)
        with contextlib.suppress(SpecError):
            assert isinstance(load_spec(path), ModelSpec)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_document_or_has_a_problem(text: str) -> None:
    document, found = parse_document(text)
    assert document is not None or found


def test_the_line_of_a_missing_key_is_its_parents() -> None:
    document, _ = parse_document("a:\n  b:\n    - c: 1\n")
    assert document is not None
    assert document.line(("a", "b", 0, "missing")) == 3
    assert dotted(("a", "b", 0)) == "a.b.0"


def test_the_nearest_name_is_suggested_only_where_one_is_near() -> None:
    assert nearest("acuracy", ["accuracy", "rmse"]) == "; did you mean accuracy?"
    assert nearest("zzz", ["accuracy", "rmse"]) == ""
