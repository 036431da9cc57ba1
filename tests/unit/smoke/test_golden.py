"""Golden samples: what is asked over the wire, and that nothing but the source model's answer counts as right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from serving.contract import DimRange, DType, Signature, TensorSpec, Tolerance
from tasks.contracts import OutputComparison, ParityReport, Verdict
from tasks.load.client import Reply
from tasks.smoke.golden import GoldenSamples, NoGolden, batch_sizes, read_golden
from tasks.smoke.protocol import NotTheProtocol, decode_response, encode_request
from tasks.store import LocalStore, put_file

EXACT = Tolerance(atol=0, rtol=0)
SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", 2)),),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch",)),),
    dynamic={"batch": DimRange(1, 64)},
)


def response(**changes: Any) -> bytes:
    output = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]} | changes
    return orjson.dumps({"model_name": "m", "outputs": [output]})


# --- protocol -------------------------------------------------------------------------------------------------------


def test_nan_and_infinity_in_json_are_read_where_a_float_is_declared() -> None:
    found = decode_response(response(data=["NaN", "-Infinity"]), SIGNATURE)["y"]
    assert np.isnan(found[0])
    assert found[1] == -np.inf
    with pytest.raises(NotTheProtocol, match="not float32"):
        decode_response(response(data=["nan", "x"]), SIGNATURE)


def test_a_request_names_shapes_and_datatypes() -> None:
    body = encode_request({"x": np.zeros((3, 2), np.float32)}, {"y": np.zeros(3, np.float32)}, SIGNATURE)
    assert body.json_bytes is None
    assert orjson.loads(body.content) == {
        "inputs": [{"name": "x", "shape": [3, 2], "datatype": "FP32", "data": [0.0] * 6}]
    }


def test_large_tensors_go_as_bytes() -> None:
    inputs = np.arange(80_000, dtype=np.float32).reshape(40_000, 2)
    body = encode_request({"x": inputs}, {"y": inputs[:, 0]}, SIGNATURE)
    assert body.json_bytes is not None
    envelope, raw = orjson.loads(body.content[: body.json_bytes]), body.content[body.json_bytes :]
    assert envelope["inputs"][0]["parameters"] == {"binary_data_size": 320_000}
    assert envelope["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    assert np.frombuffer(raw, "<f4").tolist() == inputs.ravel().tolist()


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
        response(data=["1.0", "2.0"]),
        response(data=[None, 1.0]),
        response(data=[True, False]),
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


def golden(rows: int = 3) -> GoldenSamples:
    inputs = {"x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)}
    return GoldenSamples(inputs, {"y": inputs["x"].sum(axis=1)}, {"y": EXACT}, SIGNATURE)


def test_a_batch_larger_than_the_rows_goes_round() -> None:
    sample = golden(3).sample(2, 5)
    assert sample.expected["y"].tolist() == [9.0, 1.0, 5.0, 9.0, 1.0]
    assert orjson.loads(sample.body.content)["inputs"][0]["shape"] == [5, 2]


def complaint(body: bytes, json_bytes: int | None = None) -> str:
    """What is said about an answer to the first two rows, whose right answer is [1, 5]."""
    return golden().complaint(Reply(200, body, json_bytes), golden().sample(0, 2).expected) or ""


def test_a_right_answer_has_no_complaint() -> None:
    assert complaint(response(data=[1.0, 5.0])) == ""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (response(data=[1.0, 6.0]), "1 of 2 values differ"),
        (response(data=[5.0], shape=[1]), "shape"),
        (response(data=[1.0, 5.0], shape=[2, 1]), "shape"),
        (response(data=[1.0, 5.0, 5.0], shape=[3]), "shape"),
        (b"oops", "protocol"),
    ],
)
def test_a_wrong_answer_is_named(body: bytes, reason: str) -> None:
    assert reason in complaint(body)


def test_what_json_cannot_say_is_asked_for_and_read_as_bytes() -> None:
    outputs = np.asarray([np.nan, np.inf, 1.0], np.float32)
    samples = GoldenSamples({"x": np.zeros((3, 2), np.float32)}, {"y": outputs}, {"y": EXACT}, SIGNATURE)
    asked = orjson.loads(samples.sample(0, 3).body.content)
    assert asked["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    assert "outputs" not in orjson.loads(samples.sample(2, 1).body.content)
    head = orjson.dumps(
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}]}
    )
    right, wrong = outputs.tobytes(), np.asarray([np.nan, 2.0, 1.0], np.float32).tobytes()
    assert samples.complaint(Reply(200, head + right, len(head)), {"y": outputs}) is None
    assert samples.complaint(Reply(200, head + wrong, len(head)), {"y": outputs}) is not None
    assert "no output" in (samples.complaint(Reply(200, head + right + b"0000", len(head)), {"y": outputs}) or "")
    assert "values for" in (samples.complaint(Reply(200, head + right[:8], len(head)), {"y": outputs}) or "")


def test_batch_sizes_keep_to_the_signature_and_the_server() -> None:
    assert batch_sizes(SIGNATURE, 32) == (1, 2, 3, 7, 32)
    assert batch_sizes(SIGNATURE, 2) == (1, 2)
    narrow = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": DimRange(4, 6)})
    assert batch_sizes(narrow, 32) == (4, 6)
    beyond = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": DimRange(40, 64)})
    assert batch_sizes(beyond, 32) == (40,)
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
        ({"input/x": np.zeros((2, 2))}, "not an .npz of golden"),
        ({"output/y": np.zeros(2)}, "not an .npz of golden"),
        ({"input/x": np.zeros((2, 2)), "output/z": np.zeros(2)}, r"outputs \['z'\]"),
        ({"input/x": np.zeros((2, 2)), "output/y": np.zeros(3)}, "rows"),
        ({"input/x": np.zeros((0, 2)), "output/y": np.zeros(0)}, "rows"),
        ({"input/x": np.zeros((2, 2)), "output/y": np.asarray([None, None])}, "not an .npz of golden"),
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
