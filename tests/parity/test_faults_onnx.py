"""Faults injected into real ONNX files: each is blocked, and by its own name."""

from __future__ import annotations

import numpy as np
import pytest

from serving.contract import DimRange, DType, TensorSpec
from tasks.contracts import Finding, ParityReport, Verdict
from tests.parity.conftest import BIAS, LINEAR, WEIGHT, Gate, codes, linear, metric, model, rows

WIDE = TensorSpec("y", DType.FLOAT32, ("batch", 4))


def the(report: ParityReport, code: str) -> Finding:
    assert report.verdict is not Verdict.PASSED
    assert codes(report) == [code], [finding.message for finding in report.findings]
    return next(finding for finding in report.findings if finding.code == code)


def of_width(count: int, width: int) -> dict[str, np.ndarray]:
    return {"x": rows(count, width), "label": np.zeros((count, width), dtype=np.float32)}


# --- it does not run ----------------------------------------------------------------------------------------------


def test_a_batch_dimension_frozen_at_one(gate: Gate) -> None:
    frozen = model("net (float[1, 4] x) => (float[1, 3] y) { y = Gemm (x, w, b) }", w=WEIGHT, b=BIAS)
    found = the(gate(linear(), frozen), "PARITY_BATCH_FROZEN")
    assert "works with 1" in found.message


def test_a_batch_dimension_frozen_at_a_size_that_is_never_asked_for(gate: Gate) -> None:
    frozen = model("net (float[5, 4] x) => (float[5, 3] y) { y = Gemm (x, w, b) }", w=WEIGHT, b=BIAS)
    found = the(gate(linear(), frozen), "PARITY_BATCH_FROZEN")
    assert found.evidence["frozen_at"] == 5


def test_a_reshape_that_turns_rows_into_columns(gate: Gate) -> None:
    flat = model(
        """net (float[batch, 4] x) => (float[rows, columns] y) {
            z = Gemm (x, w, b)
            y = Reshape (z, shape)
        }""",
        w=WEIGHT,
        b=BIAS,
        shape=np.array([1, -1]),
    )
    found = the(gate(linear(), flat), "PARITY_BATCH_FROZEN")
    assert "another shape" in found.message


def test_a_length_that_is_frozen(gate: Gate) -> None:
    series = TensorSpec("x", DType.FLOAT32, ("batch", "length", 4))
    total = TensorSpec("y", DType.FLOAT32, ("batch", 4))
    text = "net (float[batch, %s, 4] x) => (float[batch, 4] y) { y = ReduceSum <keepdims = 0> (x, axes) }"
    axes = np.array([1])
    found = the(
        gate(
            model(text % "length", axes=axes),
            model(text % "6", axes=axes),
            {
                "x": np.random.default_rng(0).normal(size=(20, 6, 4)).astype(np.float32),
                "label": np.zeros((20, 4), dtype=np.float32),
            },
            inputs=(series,),
            outputs=(total,),
            dynamic={"batch": DimRange(1, 16), "length": DimRange(1, 9)},
        ),
        "PARITY_LENGTH_FROZEN",
    )
    assert "length" in found.message


def test_a_runtime_that_raises_on_a_value(gate: Gate) -> None:
    ids = TensorSpec("x", DType.INT64, ("batch", 1))
    out = TensorSpec("y", DType.FLOAT32, ("batch", 1, 2))
    text = "net (int64[batch, 1] x) => (float[batch, 1, 2] y) { y = Gather (table, x) }"
    table = rows(10, 2)
    found = the(
        gate(
            model(text, table=table),
            model(text, table=table[:7]),  # ids above 6 are out of its range
            {"x": np.arange(40).reshape(40, 1) % 10, "label": np.zeros((40, 1, 2), dtype=np.float32)},
            inputs=(ids,),
            outputs=(out,),
        ),
        "PARITY_RUNTIME_ERROR",
    )
    assert "out of data bounds" in found.message


def test_a_file_that_is_no_model(gate: Gate) -> None:
    assert "refused the export" in the(gate(linear(), b"not a model"), "PARITY_RUNTIME_ERROR").message


# --- names and structure ------------------------------------------------------------------------------------------


def test_a_renamed_output(gate: Gate) -> None:
    renamed = model(LINEAR.replace(" y", " output_0"), w=WEIGHT, b=BIAS)
    assert "'y' → 'output_0'" in the(gate(linear(), renamed), "PARITY_OUTPUT_RENAMED").message


def test_a_renamed_input(gate: Gate) -> None:
    renamed = model(LINEAR.replace(" x", " input_0").replace("(x,", "(input_0,"), w=WEIGHT, b=BIAS)
    assert "'x' → 'input_0'" in the(gate(linear(), renamed), "PARITY_INPUT_RENAMED").message


TWO = """net (float[batch, 4] x) => (%s) {
    one = Gemm (x, w, b)
    two = Tanh (one)
}"""
TWO_OUTPUTS = (TensorSpec("one", DType.FLOAT32, ("batch", 3)), TensorSpec("two", DType.FLOAT32, ("batch", 3)))
ONE, BOTH = "float[batch, 3] one", "float[batch, 3] one, float[batch, 3] two"


def test_an_output_that_is_missing(gate: Gate) -> None:
    both, one = (model(TWO % outputs, w=WEIGHT, b=BIAS) for outputs in (BOTH, ONE))
    assert "no output 'two'" in the(gate(both, one, outputs=TWO_OUTPUTS), "PARITY_OUTPUT_MISSING").message


def test_an_output_that_nobody_declared(gate: Gate) -> None:
    both, one = (model(TWO % outputs, w=WEIGHT, b=BIAS) for outputs in (BOTH, ONE))
    assert "'two'" in the(gate(one, both, outputs=TWO_OUTPUTS[:1]), "PARITY_OUTPUT_EXTRA").message


def test_swapped_outputs(gate: Gate) -> None:
    source = model(TWO % BOTH, w=WEIGHT, b=BIAS)
    swapped = model(
        """net (float[batch, 4] x) => (float[batch, 3] one, float[batch, 3] two) {
            two = Gemm (x, w, b)
            one = Tanh (two)
        }""",
        w=WEIGHT,
        b=BIAS,
    )
    found = the(gate(source, swapped, outputs=TWO_OUTPUTS), "PARITY_OUTPUT_SWAPPED")
    assert "'one' gives 'two', 'two' gives 'one'" in found.message


def test_outputs_in_another_order_are_only_a_remark_because_they_are_asked_for_by_name(gate: Gate) -> None:
    source = model(TWO % BOTH, w=WEIGHT, b=BIAS)
    other = model(TWO % "float[batch, 3] two, float[batch, 3] one", w=WEIGHT, b=BIAS)
    report = gate(source, other, outputs=TWO_OUTPUTS)
    assert report.verdict is Verdict.PASSED
    assert [finding.code for finding in report.findings] == ["PARITY_OUTPUT_ORDER"]


def test_an_output_of_another_dtype(gate: Gate) -> None:
    double = model(
        """net (float[batch, 4] x) => (double[batch, 3] y) {
            z = Gemm (x, w, b)
            y = Cast <to = 11> (z)
        }""",
        w=WEIGHT,
        b=BIAS,
    )
    assert "float64, the spec declares float32" in the(gate(linear(), double), "PARITY_DTYPE").message


def test_a_shape_that_only_broadcasts(gate: Gate) -> None:
    flat = model(
        "net (float[batch, 4] x) => (float[batch] y) { y = ReduceSum <keepdims = 0> (x, axes) }", axes=np.array([1])
    )
    column = model(
        "net (float[batch, 4] x) => (float[batch, 1] y) { y = ReduceSum <keepdims = 1> (x, axes) }", axes=np.array([1])
    )
    found = the(
        gate(
            flat,
            column,
            {"x": rows(), "label": np.zeros(40, dtype=np.float32)},
            outputs=(TensorSpec("y", DType.FLOAT32, ("batch",)),),
        ),
        "PARITY_SHAPE",
    )
    assert "[8, 1], the source model's [8]" in found.message


# --- values -------------------------------------------------------------------------------------------------------


def test_a_nan_on_a_rare_input(gate: Gate) -> None:
    inputs = rows(200)
    inputs[171] = -9.0  # the only row below -8
    source = model("net (float[batch, 4] x) => (float[batch, 4] y) { y = Identity (x) }")
    rare = model(
        """net (float[batch, 4] x) => (float[batch, 4] y) {
            shifted = Add (x, eight)
            root = Sqrt (shifted)
            square = Mul (root, root)
            z = Sub (square, shifted)
            kept = Mul (z, zero)
            y = Add (x, kept)
        }""",
        eight=np.float32([8]),
        zero=np.float32([0]),
    )
    report = gate(source, rare, {"x": inputs, "label": np.zeros((200, 4), dtype=np.float32)}, outputs=(WIDE,))
    assert codes(report)[0] == "PARITY_NAN"
    assert report.findings[0].evidence["row"] == 171


def test_an_infinity_of_the_other_sign(gate: Gate) -> None:
    text = "net (float[batch, 4] x) => (float[batch, 4] y) { y = Div (%s, zero) }"
    zero = np.float32([0])
    source = model(text % "x", zero=zero)
    other = model(text.replace("y = Div (%s, zero)", "m = Neg (x) y = Div (m, zero)"), zero=zero)
    report = gate(source, other, of_width(40, 4), outputs=(WIDE,))
    assert "PARITY_NAN" in codes(report)


def test_unsigned_numbers_that_wrapped_around(gate: Gate) -> None:
    count = TensorSpec("y", DType.UINT8, ("batch", 4))
    source = model("net (uint8[batch, 4] x) => (uint8[batch, 4] y) { y = Identity (x) }")
    wrapped = model("net (uint8[batch, 4] x) => (uint8[batch, 4] y) { y = Sub (x, one) }", one=np.uint8([1]))
    report = gate(
        source,
        wrapped,
        {"x": np.zeros((20, 4), dtype=np.uint8), "label": np.zeros((20, 4))},
        inputs=(TensorSpec("x", DType.UINT8, ("batch", 4)),),
        outputs=(count,),
    )
    assert the(report, "PARITY_TENSOR_DIFFERS").evidence["max_abs_diff"] == 255


def test_stale_weights(gate: Gate) -> None:
    stale = WEIGHT.copy()
    stale[2, 1] += np.float32(1e-4)
    found = the(gate(linear(), linear(stale)), "PARITY_TENSOR_DIFFERS")
    assert found.evidence["index"] == "[1]"


def test_answers_that_depend_on_the_rest_of_the_batch_but_are_right_alone(gate: Gate) -> None:
    # The mean over the batch, less itself where there is one row only: nothing for singles, something for batches.
    source = model("net (float[batch, 4] x) => (float[batch, 4] y) { y = Identity (x) }")
    dependent = model(
        """net (float[batch, 4] x) => (float[batch, 4] y) {
            mean = ReduceMean <keepdims = 1> (x, axes)
            off = Sub (x, mean)
            small = Mul (off, factor)
            y = Add (x, small)
        }""",
        axes=np.array([0]),
        factor=np.float32([0.01]),
    )
    found = the(gate(source, dependent, of_width(40, 4), outputs=(WIDE,)), "PARITY_BATCH_DEPENDENT")
    assert "depends on the rows beside it" in found.message


def test_a_small_output_beside_a_large_one_is_not_hidden_by_it(gate: Gate) -> None:
    scale = np.float32([1e6, 1.0, 1e-4])
    off = WEIGHT * scale
    off[:, 2] *= np.float32(1.001)
    found = the(gate(linear(WEIGHT * scale, BIAS * scale), linear(off, BIAS * scale)), "PARITY_TENSOR_DIFFERS")
    assert found.evidence["index"] == "[2]"


def test_a_label_that_is_off_by_one(gate: Gate) -> None:
    text = """net (float[batch, 4] x) => (int64[batch] y) {
        best = ArgMax <axis = 1, keepdims = 0> (x)
        y = %s
    }"""
    label = TensorSpec("y", DType.INT64, ("batch",))
    evaluation = {"x": rows(), "label": np.argmax(rows(), axis=1)}
    report = gate(
        model(text % "Identity (best)"),
        model(text % "Add (best, one)", one=np.array([1])),
        evaluation,
        outputs=(label,),
        metrics=metric("accuracy", "y", 0.5),
    )
    assert codes(report) == ["PARITY_TENSOR_DIFFERS", "PARITY_METRIC_DROP"]


# --- metrics ------------------------------------------------------------------------------------------------------


def test_a_metric_that_drops_too_far(gate: Gate) -> None:
    inputs = rows()
    labels = inputs @ WEIGHT + BIAS
    report = gate(
        linear(), linear(bias=BIAS + np.float32(0.5)), {"x": inputs, "label": labels}, metrics=metric("rmse", "y", 0.1)
    )
    assert codes(report) == ["PARITY_TENSOR_DIFFERS", "PARITY_METRIC_DROP"]
    assert report.metrics[0].drop == pytest.approx(0.5, rel=1e-3)


def test_rows_too_few_to_show_the_margin_block(gate: Gate) -> None:
    """The very same file: forty rows that agree cannot show that no more than a point of accuracy is lost."""
    labels = np.argmax(rows() @ WEIGHT + BIAS, axis=1)
    report = gate(linear(), linear(), {"x": rows(), "label": labels}, metrics=metric("accuracy", "y", 0.01))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert codes(report) == ["PARITY_TOO_FEW_ROWS"]
    assert report.metrics[0].rows_needed == 268
    assert sum(change.rows for change in report.classes) == 40
    assert report.calibration[0].source == report.calibration[0].export


def test_a_metric_without_a_value_is_no_pass(gate: Gate) -> None:
    labels = np.zeros((40, 3))
    labels[7] = np.nan
    report = gate(linear(), linear(), {"x": rows(), "label": labels})
    assert report.verdict is Verdict.INCONCLUSIVE
    assert codes(report) == ["PARITY_METRIC_MISSING"]
