"""Golden samples: what is asked over the wire, and that nothing but the source model's answer counts as right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.contract import DimRange, DType, Signature, TensorSpec, Tolerance
from tasks.contracts import OutputComparison, ParityReport, Verdict
from tasks.smoke.golden import Golden, NoGolden, batch_sizes, difference, read_golden
from tasks.smoke.protocol import NotTheProtocol, decode_response, encode_request
from tasks.store import LocalStore, put_file

NAN, INF = math.nan, math.inf
EXACT = Tolerance(atol=0, rtol=0)
SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", 2)),),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch",)),),
    dynamic={"batch": DimRange(1, 64)},
)


def floats(*values: float) -> NDArray[Any]:
    return np.asarray(values, dtype=np.float32)


def response(**changes: Any) -> bytes:
    output = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]} | changes
    return orjson.dumps({"model_name": "m", "outputs": [output]})


# --- comparison -----------------------------------------------------------------------------------------------------


def test_equal_within_the_tolerance_is_no_difference() -> None:
    assert difference(floats(1.0, 2.001), floats(1.0, 2.0), Tolerance(atol=0.01, rtol=0)) is None
    assert difference(floats(200.1), floats(200.0), Tolerance(atol=0, rtol=0.001)) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (floats(1.02), floats(1.0)),
        (floats(NAN), floats(1.0)),
        (floats(1.0), floats(NAN)),
        (floats(INF), floats(1.0)),
        (floats(1.0), floats(INF)),
        (floats(-INF), floats(INF)),
        (floats(NAN), floats(INF)),
        (floats(1.0), floats(1.0, 1.0)),
        (floats(1.0, 1.0), floats(1.0)),
        (floats(1.0).reshape(1, 1), floats(1.0)),
        (np.asarray([2**53], dtype=np.int64), np.asarray([2**53 + 1], dtype=np.int64)),
        (np.asarray(["cat"], dtype=object), np.asarray(["dog"])),
        (np.asarray([True]), np.asarray([False])),
    ],
)
def test_anything_else_is_a_difference(answer: NDArray[Any], expected: NDArray[Any]) -> None:
    tolerance = Tolerance(atol=0.01, rtol=0) if expected.dtype.kind == "f" else EXACT
    assert difference(answer, expected, tolerance) is not None


def test_nan_equals_nan_and_infinity_the_same_infinity() -> None:
    assert difference(floats(NAN, INF, -INF), floats(NAN, INF, -INF), EXACT) is None


def test_strings_and_scalars_are_compared() -> None:
    assert difference(np.asarray(["cat"], dtype=object), np.asarray(["cat"]), EXACT) is None
    assert difference(np.asarray(1.0), np.asarray(1.0), EXACT) is None
    assert difference(np.asarray(1.0), np.asarray(2.0), EXACT) is not None


def test_integers_may_have_a_tolerance() -> None:
    assert difference(np.asarray([10]), np.asarray([11]), Tolerance(atol=1, rtol=0)) is None
    assert difference(np.asarray([10]), np.asarray([12]), Tolerance(atol=1, rtol=0)) is not None


def test_a_difference_says_where() -> None:
    found = difference(floats(1.0, 5.0, 3.0), floats(1.0, 2.0, 3.0), EXACT)
    assert found == "differs in 1 of 3 values, first at [1]: 5.0 instead of 2.0"


@given(st.lists(st.floats(width=32), max_size=8))
def test_every_array_equals_itself(values: list[float]) -> None:
    assert difference(floats(*values), floats(*values), EXACT) is None


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8), st.data())
def test_a_value_beyond_the_tolerance_is_always_found(values: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    expected = np.asarray(values, dtype=np.float64)
    answer = expected.copy()
    answer[place] += 1 + abs(answer[place])
    assert difference(answer, expected, Tolerance(atol=0.5, rtol=0.4)) is not None


# --- protocol -------------------------------------------------------------------------------------------------------


def test_a_request_names_shapes_and_datatypes() -> None:
    body = orjson.loads(encode_request({"x": np.zeros((3, 2), np.float32)}, SIGNATURE))
    assert body == {"inputs": [{"name": "x", "shape": [3, 2], "datatype": "FP32", "data": [0.0] * 6}]}


def test_an_answer_in_the_contracts_form_is_read() -> None:
    assert decode_response(response(), SIGNATURE)["y"].tolist() == [1.0, 2.0]
    assert decode_response(response(data=[[1.0], [2.0]]), SIGNATURE)["y"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs": 1}',
        b'{"outputs": []}',
        b'{"outputs": [1]}',
        response(name="z"),
        response(name=None),
        response(datatype="FP64"),
        response(datatype=None),
        response(shape=[3]),
        response(shape=[2.0]),
        response(shape=[-2]),
        response(shape=None),
        response(data=[1.0]),
        response(data=None),
        response(data=["cat", "dog"]),
        response(data=[[1.0], [2.0, 3.0]]),
    ],
)
def test_anything_else_is_not_the_protocol(body: bytes) -> None:
    with pytest.raises(NotTheProtocol):
        decode_response(body, SIGNATURE)


def test_an_output_that_comes_twice_is_not_the_protocol() -> None:
    once = orjson.loads(response())["outputs"]
    with pytest.raises(NotTheProtocol, match="outputs"):
        decode_response(orjson.dumps({"outputs": once * 2}), SIGNATURE)


@pytest.mark.parametrize("data", [[1.5, 2.0], [300, 1], ["1", "2"], [True, False], [None, 1], [2**63, 1]])
def test_integers_are_not_made_of_other_things(data: list[Any]) -> None:
    signature = Signature(SIGNATURE.inputs, (TensorSpec("y", DType.INT8, ("batch",)),), SIGNATURE.dynamic)
    with pytest.raises(NotTheProtocol):
        decode_response(response(datatype="INT8", data=data), signature)


# --- samples --------------------------------------------------------------------------------------------------------


def golden(rows: int = 3) -> Golden:
    inputs = {"x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)}
    return Golden(inputs, {"y": inputs["x"].sum(axis=1)}, {"y": EXACT}, SIGNATURE)


def test_a_batch_larger_than_the_rows_goes_round() -> None:
    sample = golden(3).sample(2, 5)
    assert sample.expected["y"].tolist() == [9.0, 1.0, 5.0, 9.0, 1.0]
    assert orjson.loads(sample.payload)["inputs"][0]["shape"] == [5, 2]


def test_a_right_answer_has_no_complaint_and_a_wrong_one_is_named() -> None:
    sample = golden().sample(0, 2)
    assert golden().complaint(response(data=[1.0, 5.0]), sample.expected) is None
    assert "output 'y' differs" in (golden().complaint(response(data=[1.0, 6.0]), sample.expected) or "")
    assert "protocol" in (golden().complaint(b"oops", sample.expected) or "")


def test_batch_sizes_keep_to_the_signature_and_the_server() -> None:
    assert batch_sizes(SIGNATURE, 32) == (1, 2, 3, 7, 32)
    assert batch_sizes(SIGNATURE, 2) == (1, 2)
    narrow = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": DimRange(4, 6)})
    assert batch_sizes(narrow, 32) == (4, 6)
    fixed = Signature((TensorSpec("x", DType.FLOAT32, (1, 2)),), (TensorSpec("y", DType.FLOAT32, (1,)),))
    assert batch_sizes(fixed, 32) == (1,)


def stored(tmp_path: Path, arrays: dict[str, NDArray[Any]], *, tolerances: tuple[str, ...] = ("y",)) -> ParityReport:
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return ParityReport(
        verdict=Verdict.PASSED,
        format="onnx",
        export_digest="sha256:" + "0" * 64,
        batch_sizes=(1,),
        outputs=tuple(
            OutputComparison(
                name=name, compared_values=1, max_abs_diff=0, max_rel_diff=0, worst_margin=0, tolerance=EXACT
            )
            for name in tolerances
        ),
        golden=put_file(LocalStore(tmp_path / "store"), path),
    )


def test_golden_samples_come_from_the_parity_report(tmp_path: Path) -> None:
    whole = golden()
    report = stored(tmp_path, {"input/x": np.asarray(whole.inputs["x"]), "output/y": np.asarray(whole.outputs["y"])})
    found = read_golden(report, SIGNATURE, LocalStore(tmp_path / "store"), tmp_path / "work")
    assert found.rows == 3
    assert found.outputs["y"].tolist() == whole.outputs["y"].tolist()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"input/x": np.zeros((2, 2))}, "no array for 'y'"),
        ({"output/y": np.zeros(2)}, "no array for 'x'"),
        ({"input/x": np.zeros((2, 2)), "output/y": np.zeros(3)}, "rows"),
        ({"input/x": np.zeros((0, 2)), "output/y": np.zeros(0)}, "rows"),
        ({"input/x": np.zeros((2, 2)), "output/y": np.asarray([None, None])}, "plain arrays"),
    ],
)
def test_incomplete_golden_samples_are_none(tmp_path: Path, arrays: dict[str, NDArray[Any]], reason: str) -> None:
    with pytest.raises(NoGolden, match=reason):
        read_golden(stored(tmp_path, arrays), SIGNATURE, LocalStore(tmp_path / "store"), tmp_path / "work")


def test_an_output_without_a_tolerance_is_no_golden(tmp_path: Path) -> None:
    report = stored(tmp_path, {"input/x": np.zeros((2, 2)), "output/y": np.zeros(2)}, tolerances=())
    with pytest.raises(NoGolden, match="no tolerance for output 'y'"):
        read_golden(report, SIGNATURE, LocalStore(tmp_path / "store"), tmp_path / "work")


def test_a_report_without_golden_samples_is_no_golden(tmp_path: Path) -> None:
    report = stored(tmp_path, {"input/x": np.zeros((2, 2))}).model_copy(update={"golden": None})
    with pytest.raises(NoGolden, match="no golden samples"):
        read_golden(report, SIGNATURE, LocalStore(tmp_path / "store"), tmp_path / "work")
