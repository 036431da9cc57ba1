"""Faithful ONNX exports pass, whatever they are made of; and rows on an edge of the source are told from faults."""

from __future__ import annotations

import io

import numpy as np
import onnx.parser
import pytest

from serving.contract import DimRange, DType, PreprocessStep, TensorSpec
from tasks.contracts import Verdict
from tasks.store import read_bytes
from tests.parity.conftest import BIAS, LINEAR, WEIGHT, Gate, X, Y, codes, linear, metric, model, rows


def test_the_same_file_passes_without_any_difference(gate: Gate) -> None:
    report = gate(linear(), linear())
    assert report.verdict is Verdict.PASSED
    assert report.batch_sizes == (1, 2, 3, 7, 8, 16)
    assert report.outputs[0].max_abs_diff == 0
    assert report.metrics[0].drop == 0


def test_the_same_sum_in_another_order_passes_with_a_difference(gate: Gate) -> None:
    order = np.array([2, 0, 3, 1])
    other = model(
        "net (float[batch, 4] x) => (float[batch, 3] y) { z = Gather <axis = 1> (x, order) y = Gemm (z, w, b) }",
        order=order,
        w=WEIGHT[order],
        b=BIAS,
    )
    report = gate(linear(), other)
    assert report.verdict is Verdict.PASSED
    assert 0 < (report.outputs[0].worst_margin or 0) < 1


def test_several_inputs_and_outputs_of_several_dtypes_pass(gate: Gate) -> None:
    text = """net (float[batch, 2] x, int64[batch] ids, bool[batch] flag)
        => (float[batch, 2] sum, int64[batch] next, bool[batch] not) {
        sum = Add (x, x)
        next = Add (ids, one)
        not = Not (flag)
    }"""
    either = model(text, one=np.array([1]))
    report = gate(
        either,
        either,
        {
            "x": rows(20, 2),
            "ids": np.arange(20),
            "flag": np.arange(20) % 3 == 0,
            "label": np.zeros((20, 2)),
        },
        inputs=(
            TensorSpec("x", DType.FLOAT32, ("batch", 2)),
            TensorSpec("ids", DType.INT64, ("batch",)),
            TensorSpec("flag", DType.BOOL, ("batch",)),
        ),
        outputs=(
            TensorSpec("sum", DType.FLOAT32, ("batch", 2)),
            TensorSpec("next", DType.INT64, ("batch",)),
            TensorSpec("not", DType.BOOL, ("batch",)),
        ),
    )
    assert report.verdict is Verdict.PASSED
    assert [output.tolerance.atol for output in report.outputs[1:]] == [0, 0]


def test_strings_pass_and_a_changed_string_does_not(gate: Gate) -> None:
    def encoder(second: str) -> bytes:
        body = f"""<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml" : 3]>
        net (string[batch] x) => (string[batch] y) {{
            y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_strings = ["one", "{second}"],
                                         default_string = "?"> (x)
        }}"""
        return bytes(onnx.parser.parse_model(body).SerializeToString())

    words = np.array(["a", "b", "c", "b"] * 5, dtype=object)
    expected = np.array(["one", "two", "?", "two"] * 5, dtype=object)
    asked = {
        "evaluation": {"x": words, "label": expected},
        "inputs": (TensorSpec("x", DType.STRING, ("batch",)),),
        "outputs": (TensorSpec("y", DType.STRING, ("batch",)),),
        "metrics": metric("accuracy", "y", 0.2),  # 20 rows show no less
    }
    clean = gate(encoder("two"), encoder("two"), **asked)
    assert clean.verdict is Verdict.PASSED, [finding.message for finding in clean.findings]
    assert "PARITY_TENSOR_DIFFERS" in codes(gate(encoder("two"), encoder("too"), **asked))


def test_sequences_pass_at_every_length(gate: Gate) -> None:
    series = TensorSpec("x", DType.FLOAT32, ("batch", "length", 4))
    states = TensorSpec("y", DType.FLOAT32, ("batch", "length", 3))
    either = model("net (float[batch, length, 4] x) => (float[batch, length, 3] y) { y = MatMul (x, w) }", w=WEIGHT)
    report = gate(
        either,
        either,
        {"x": rows(30, 24).reshape(30, 6, 4), "label": np.zeros((30, 6, 3))},
        inputs=(series,),
        outputs=(states,),
        dynamic={"batch": DimRange(1, 16), "length": DimRange(1, 9)},
    )
    assert report.verdict is Verdict.PASSED


def test_answers_that_are_nan_where_the_source_is_nan_pass(gate: Gate) -> None:
    text = "net (float[batch, 4] x) => (float[batch, 4] y) { y = Log (x) }"  # half of the inputs are negative
    report = gate(
        model(text),
        model(text),
        {"x": rows(), "label": np.zeros(40)},
        outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 4)),),
    )
    assert codes(report) == ["PARITY_METRIC_MISSING"]  # and nothing about the outputs
    assert report.outputs[0].compared_values > 0


def test_a_batch_that_is_fixed_on_both_sides_is_asked_for_in_that_size(gate: Gate) -> None:
    fixed = model("net (float[4, 4] x) => (float[4, 3] y) { y = Gemm (x, w, b) }", w=WEIGHT, b=BIAS)
    report = gate(
        fixed,
        fixed,
        inputs=(TensorSpec("x", DType.FLOAT32, (4, 4)),),
        outputs=(TensorSpec("y", DType.FLOAT32, (4, 3)),),
        dynamic={"unused": DimRange(1, 2)},
    )
    assert report.verdict is Verdict.PASSED
    assert report.batch_sizes == (4,)


def test_preprocessing_is_applied_before_both_models(gate: Gate) -> None:
    report = gate(
        linear(),
        linear(),
        {"x": np.random.default_rng(0).integers(0, 256, (40, 4), dtype=np.uint8)},
        preprocess=(
            PreprocessStep(op="cast", input="x", source_dtype=DType.UINT8),
            PreprocessStep(op="scale", input="x", by=1 / 255),
        ),
    )
    assert report.verdict is Verdict.PASSED


def test_golden_samples_are_raw_inputs_and_the_source_s_answers(gate: Gate) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (40, 4), dtype=np.uint8)
    report = gate(
        linear(),
        linear(),
        {"x": raw},
        preprocess=(PreprocessStep(op="cast", input="x", source_dtype=DType.UINT8),),
    )
    assert report.golden is not None
    golden = np.load(io.BytesIO(read_bytes(gate.store, report.golden)), allow_pickle=False)
    assert golden["input/x"].dtype == np.uint8
    assert golden["input/x"].shape == (16, 4)
    np.testing.assert_allclose(golden["output/y"], golden["input/x"] @ WEIGHT + BIAS, rtol=1e-5)


def test_the_same_question_gives_the_same_report(gate: Gate) -> None:
    first, again = gate(linear(), linear()), gate(linear(), linear())
    assert first == again


THRESHOLD = """net (float[batch, 4] x) => (int64[batch, 4] y) {
    z = Mul (x, factor)
    above = Greater (z, limit)
    y = Cast <to = 7> (above)
}"""


@pytest.mark.parametrize("factor", [1 + 2**-22, 1.001])
def test_rows_on_an_edge_are_excused_only_within_rounding(gate: Gate, factor: float) -> None:
    inputs = rows(60)
    inputs[17, 2] = 0.75  # exactly at the limit: the source says no, a factor of one and a bit says yes
    inputs[18, 2] = 0.7499  # near it for people, far from it for rounding
    report = gate(
        model(THRESHOLD, factor=np.float32([1.0]), limit=np.float32([0.75])),
        model(THRESHOLD, factor=np.float32([factor]), limit=np.float32([0.75])),
        {"x": inputs, "label": np.zeros((60, 4))},
        outputs=(TensorSpec("y", DType.INT64, ("batch", 4)),),
    )
    within_rounding = factor < 1.0001
    assert (report.verdict is Verdict.PASSED) is within_rounding
    assert [finding.evidence["rows"] for finding in report.findings if finding.code == "PARITY_ROWS_ON_EDGE"] == [1]
    if not within_rounding:
        assert {finding.evidence.get("row") for finding in report.findings} >= {18}


def test_a_threshold_that_is_missed_by_all_rows_is_no_edge(gate: Gate) -> None:
    report = gate(
        model(THRESHOLD, factor=np.float32([1.0]), limit=np.float32([0.75])),
        model(THRESHOLD, factor=np.float32([1.0]), limit=np.float32([0.5])),
        {"x": rows(60), "label": np.zeros((60, 4))},
        outputs=(TensorSpec("y", DType.INT64, ("batch", 4)),),
    )
    assert codes(report) == ["PARITY_TENSOR_DIFFERS"]


MASKED = """net (float[batch, 4] x, bool[batch, 4] mask) => (float[batch, 4] y) {
    hidden = Where (mask, x, never)
    y = Softmax <axis = 1> (hidden)
}"""


def test_made_up_rows_that_mean_nothing_to_the_source_are_left_out_and_said(gate: Gate) -> None:
    masked = model(MASKED, never=np.float32([-np.inf]))
    shown = np.ones((40, 4), dtype=bool)
    shown[np.arange(40), np.arange(40) % 4] = False  # one of four hidden, never all
    report = gate(
        masked,
        masked,
        {"x": rows(), "mask": shown, "label": np.zeros((40, 4))},
        inputs=(X, TensorSpec("mask", DType.BOOL, ("batch", 4))),
        outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 4)),),
    )
    assert report.verdict is Verdict.PASSED
    assert "PARITY_ROWS_LEFT_OUT" in {finding.code for finding in report.findings}


# --- sources that cannot be compared with -------------------------------------------------------------------------


def test_a_source_that_answers_at_random_is_the_model_owner_s(gate: Gate) -> None:
    random = model("net (float[batch, 4] x) => (float[batch, 4] y) { n = RandomNormalLike (x) y = Add (x, n) }")
    report = gate(random, random, outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 4)),))
    assert codes(report) == ["PARITY_SOURCE_NOT_DETERMINISTIC"]
    assert report.findings[0].owner == "model"


def test_a_source_that_depends_on_the_batch_is_the_model_owner_s(gate: Gate) -> None:
    dependent = model("net (float[batch, 4] x) => (float[batch, 4] y) { y = Softmax <axis = 0> (x) }")
    report = gate(dependent, dependent, outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 4)),))
    assert codes(report) == ["PARITY_SOURCE_BATCH_DEPENDENT"]


def test_a_source_that_does_not_give_what_the_spec_declares(gate: Gate) -> None:
    flat = model(
        "net (float[batch, 4] x) => (float[n, m] y) { z = Gemm (x, w, b) y = Reshape (z, shape) }",
        w=WEIGHT,
        b=BIAS,
        shape=np.array([-1, 1]),
    )
    report = gate(flat, flat)
    assert codes(report) == ["PARITY_SOURCE_FAILED"]
    assert report.findings[0].owner == "model"


def test_a_source_that_loses_its_digits_is_inconclusive(gate: Gate) -> None:
    wild = model(
        "net (float[batch, 4] x) => (float[batch, 4] y) { z = Mul (x, million) y = Sin (z) }", million=np.float32([1e6])
    )
    report = gate(wild, wild, outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 4)),))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert codes(report) == ["PARITY_SOURCE_UNSTABLE"]


def test_names_with_markup_do_not_reach_the_page_as_markup(gate: Gate) -> None:
    renamed = model(LINEAR.replace(" y", " evil"), w=WEIGHT, b=BIAS)
    report = gate(linear(), renamed.replace(b"evil", b"<b>x"), inputs=(X,), outputs=(Y,))
    assert report.html is not None
    page = read_bytes(gate.store, report.html).decode()
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
