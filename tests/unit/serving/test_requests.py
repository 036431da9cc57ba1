"""Requests: what fits the contract becomes exactly the declared arrays, and what does not is named."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.contract import DimRange, DType, Signature, TensorSpec
from serving.protocol import infer_response, parse_request, tensor_metadata
from serving.request import InferRequest, largest_request_bytes
from serving.tensors import BadRequest, to_bytes

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", 3)), TensorSpec("ids", DType.INT32, ("batch", "length"))),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 2)), TensorSpec("label", DType.INT64, ("batch",))),
    dynamic={"batch": DimRange(1, 4), "length": DimRange(1, 5)},
)
X = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2.5, 3, 4, 5, 6]}
IDS = {"name": "ids", "datatype": "INT32", "shape": [2, 2], "data": [[1, 2], [3, 4]]}
NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]


def one(dtype: DType, shape: tuple[int | str, ...] = ("n",)) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), SIGNATURE.outputs, {"n": DimRange(1, 64)})


def parse(*inputs: Any, signature: Signature = SIGNATURE, **others: Any) -> InferRequest:
    return parse_request(orjson.dumps({"inputs": list(inputs), **others}), None, signature)


def parse_binary(raw: bytes, *inputs: Any, signature: Signature = SIGNATURE, **others: Any) -> InferRequest:
    envelope = orjson.dumps({"inputs": list(inputs), **others})
    return parse_request(envelope + raw, str(len(envelope)), signature)


def refusal(*inputs: Any, **others: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        parse(*inputs, **others)
    return str(caught.value)


def test_flat_and_nested_data_become_the_declared_arrays() -> None:
    request = parse(X, IDS, id="7")
    assert request.id == "7"
    assert request.inputs["x"].dtype == np.float32
    assert request.inputs["x"].tolist() == [[1, 2.5, 3], [4, 5, 6]]
    assert request.inputs["ids"].dtype == np.int32
    assert request.inputs["ids"].tolist() == [[1, 2], [3, 4]]
    assert request.outputs == {"y": False, "label": False}


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([X], "expected the inputs x, ids; ids is missing"),
        ([X, IDS, {**X, "name": "z"}], "there is no input 'z'; the inputs are x, ids"),
        ([X, IDS, {}], "there is no input null; the inputs are x, ids"),
        ([X, X, IDS], "input 'x' is there twice"),
        ([{**X, "datatype": "FP64"}, IDS], "input 'x': expected datatype FP32, found 'FP64'"),
        (
            [{**X, "datatype": "float"}, IDS],
            "input 'x': expected datatype FP32, found 'float' (not a datatype of the protocol)",
        ),
        ([{**X, "shape": [6]}, IDS], "input 'x': expected 2 dimensions [batch, 3], found 1: [6]"),
        ([{**X, "shape": [3, 2]}, IDS], "input 'x': dimension 1 of [batch, 3] must be 3, found 2"),
        ([{**X, "shape": "2,3"}, IDS], "input 'x': shape must be a list of sizes, found '2,3'"),
        ([{**X, "shape": [2, 3.0]}, IDS], "input 'x': shape must be a list of sizes, found [2, 3.0]"),
        ([{**X, "shape": [True, 3]}, IDS], "input 'x': shape must be a list of sizes, found [True, 3]"),
        (
            [{**X, "shape": [1e30, 3]}, IDS],  # what JSON's 1 with thirty zeros is read as
            "input 'x': shape must be a list of sizes, found a number of more than 64 bits",
        ),
        ([{**X, "shape": None}, IDS], "input 'x': shape must be a list of sizes, found null"),
        ([{**X, "shape": [-2, 3]}, IDS], "input 'x': shape must be a list of sizes, found [-2, 3]"),
        (
            [{**X, "shape": [5, 3], "data": [0] * 15}, IDS],
            "input 'x': dimension 'batch' must lie between 1 and 4, found 5",
        ),
        ([{**X, "shape": [0, 3], "data": []}, IDS], "input 'x': dimension 'batch' must lie between 1 and 4, found 0"),
        (
            [{**X, "shape": [1, 3], "data": [1, 2, 3]}, IDS],
            "dimension 'batch' is 1 in input 'x' and 2 in input 'ids'; it must be the same",
        ),
        ([{**X, "data": [1, 2, 3]}, IDS], "input 'x': shape [2, 3] holds 6 values, data has 3"),
        ([{**X, "data": [[1, 2, 3]]}, IDS], "input 'x': data has 1 parts, the shape [2, 3] has 2"),
        ([{**X, "data": [[1, 2, 3], [4, 5]]}, IDS], "input 'x': nested data does not have the shape [2, 3]"),
        ([{**X, "data": [[1, 2, 3], 4]}, IDS], "input 'x': data must be nested 2 deep or flat throughout"),
        (
            [{**X, "data": [1, 2, 3, [4], 5, 6]}, IDS],
            "input 'x': expected FP32 values, found list [4] at position 3",
        ),
        ([{**X, "data": "123456"}, IDS], "input 'x': data must be a list, found '123456'"),
        ([{**X, "data": [1, 2, None, 4, 5, 6]}, IDS], "input 'x': expected FP32 values, found null at position 2"),
        (
            [{**X, "data": [1, 2, "3", 4, 5, 6]}, IDS],
            "input 'x': expected FP32 values, found string '3' at position 2",
        ),
        (
            [{**X, "data": [1, 2, True, 4, 5, 6]}, IDS],
            "input 'x': expected FP32 values, found boolean true at position 2",
        ),
        (
            [{**X, "data": [1, 2, 3, 4, 5, 1e39]}, IDS],
            "input 'x': expected finite FP32 values, found 1e+39 at position 5",
        ),
        (
            [X, {**IDS, "data": [1, 2, 3, 2**31]}],
            "input 'ids': INT32 lies between -2147483648 and 2147483647, found 2147483648 at position 3",
        ),
        ([X, {**IDS, "data": [1, 2.0, 3, 4.5]}], "input 'ids': expected INT32 values, found number 4.5 at position 3"),
        (
            [{key: value for key, value in X.items() if key != "data"}, IDS],
            "input 'x' has neither data nor parameters.binary_data_size",
        ),
        ([{**X, "parameters": 3}, IDS], "input 'x': parameters must be an object, found 3"),
    ],
)
def test_what_does_not_fit_is_named(inputs: list[Any], sentence: str) -> None:
    assert refusal(*inputs) == sentence


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({"id": 7}, "id must be a string, found 7"),
        ({"outputs": [{"name": "z"}]}, "there is no output 'z'; the outputs are y, label"),
        ({"outputs": [{"name": ["y"]}]}, "there is no output ['y']; the outputs are y, label"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is asked for twice"),
        ({"outputs": "y"}, "outputs must be a list of objects with a name, found 'y'"),
        ({"parameters": []}, "the request: parameters must be an object, found []"),
        ({"parameters": {"binary_data_output": 1}}, "binary_data_output must be true or false, found 1"),
    ],
)
def test_an_envelope_that_does_not_fit_is_named(others: dict[str, Any], sentence: str) -> None:
    assert refusal(X, IDS, **others) == sentence


def test_a_value_out_of_range_names_its_input_for_the_metrics() -> None:
    ids = Signature((TensorSpec("ids", DType.INT64, ("n",), (0, 999)),), SIGNATURE.outputs, {"n": DimRange(1, 64)})
    with pytest.raises(BadRequest, match="between 0 and 999, found -1 at position 1") as caught:
        parse({"name": "ids", "datatype": "INT64", "shape": [2], "data": [999, -1]}, signature=ids)
    assert (caught.value.input, caught.value.reason) == ("ids", "out_of_range")


@given(st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False))
@example(-(2**63) - 1)
@example(2.0**53)
def test_a_number_becomes_an_integer_only_where_it_is_exactly_that_one(value: float) -> None:
    number = one(DType.INT64)
    try:
        body = json.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [value]}]})
        taken = parse_request(body.encode(), None, number)
    except BadRequest:
        assert value % 1 or not -(2**53) < value < 2**53
        return
    assert taken.inputs["x"][0] == value


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"null", b'"x"', b'{"inputs": 3}', b"{}", b"\xff\xfe"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(body, None, SIGNATURE)


def test_nan_is_no_json() -> None:
    body = json.dumps({"inputs": [{**X, "data": [math.nan] * 6}, IDS]}).encode()
    with pytest.raises(BadRequest, match="not JSON"):
        parse_request(body, None, SIGNATURE)


@given(st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4), st.lists))
@example([[1, 2, 3], [4, 5, 6]])
def test_whatever_stands_in_data_is_an_array_that_fits_or_a_refusal(data: Any) -> None:
    try:
        request = parse({**X, "data": data}, IDS)
    except BadRequest:
        return
    assert request.inputs["x"].shape == (2, 3)
    assert request.inputs["x"].dtype == np.float32
    assert np.isfinite(request.inputs["x"]).all()


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.value)
def test_every_dtype_survives_json_and_binary(dtype: DType) -> None:
    if dtype is DType.BOOL:
        values = np.array([True, False, True])
    elif dtype.is_float:
        values = np.array([0, -1.5, np.finfo(dtype.numpy).max], dtype.numpy)
    else:
        limits = np.iinfo(dtype.numpy)
        values = np.array([0, limits.min, limits.max], dtype.numpy)
    header = {"name": "x", "datatype": dtype.protocol_name, "shape": [3]}
    by_json = parse({**header, "data": values.tolist()}, signature=one(dtype)).inputs["x"]
    raw = to_bytes(values)
    entry = {**header, "parameters": {"binary_data_size": len(raw)}}
    by_bytes = parse_binary(raw, entry, signature=one(dtype)).inputs["x"]
    for array in (by_json, by_bytes):
        assert array.dtype == dtype.numpy
        assert (array == values).all()


@given(hnp.arrays(np.float32, (2, 3), elements=st.floats(width=32)))
def test_binary_floats_are_taken_bit_by_bit_when_finite(values: np.ndarray) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    if np.isfinite(values).all():
        taken = parse_binary(values.tobytes(), entry, IDS).inputs["x"]
        assert taken.tobytes() == values.tobytes()
    else:
        with pytest.raises(BadRequest, match="expected finite FP32 values"):
            parse_binary(values.tobytes(), entry, IDS)


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_strings_survive_json_and_binary(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    header = {"name": "x", "datatype": "BYTES", "shape": [len(texts)]}
    raw = to_bytes(np.array(texts, object))
    assert parse({**header, "data": texts}, signature=one(DType.STRING)).inputs["x"].tolist() == texts
    entry = {**header, "parameters": {"binary_data_size": len(raw)}}
    assert parse_binary(raw, entry, signature=one(DType.STRING)).inputs["x"].tolist() == texts


@given(st.binary(max_size=40))
def test_any_bytes_for_strings_are_strings_or_a_refusal(raw: bytes) -> None:
    entry = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    try:
        taken = parse_binary(raw, entry, signature=one(DType.STRING)).inputs["x"]
    except BadRequest:
        return
    assert to_bytes(taken) == raw


def test_binary_tensors_lie_in_the_order_of_the_request() -> None:
    x, ids = np.arange(6, dtype=np.float32), np.arange(4, dtype=np.int32)
    request = parse_binary(
        ids.tobytes() + x.tobytes(),
        {"name": "ids", "datatype": "INT32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "x", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}},
    )
    assert request.inputs["x"].ravel().tolist() == x.tolist()
    assert request.inputs["ids"].ravel().tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("raw", "size", "sentence"),
    [
        (b"\0" * 20, 20, "input 'x': FP32 of shape [2, 3] is 24 bytes, found 20"),
        (b"\0" * 20, 24, "input 'x': binary_data_size is 24, but 20 bytes are left in the binary part"),
        (b"\0" * 25, 24, "the binary part has 25 bytes, the inputs account for 24"),
        (b"", "24", "input 'x': binary_data_size must be a number of bytes, found '24'"),
        (b"", -1, "input 'x': binary_data_size must be a number of bytes, found -1"),
        (b"", True, "input 'x': binary_data_size must be a number of bytes, found true"),
    ],
)
def test_a_binary_part_that_does_not_fit_is_named(raw: bytes, size: Any, sentence: str) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": size}}
    with pytest.raises(BadRequest) as caught:
        parse_binary(raw, entry, IDS)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("length", ["-1", "x", "1000000", "", "1.0", "²"])
def test_a_header_length_that_does_not_fit_is_refused(length: str) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        parse_request(b"{}", length, SIGNATURE)


def test_a_boolean_is_a_byte_of_0_or_1() -> None:
    entry = {"name": "x", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}}
    with pytest.raises(BadRequest, match="bytes 0 or 1"):
        parse_binary(b"\x01\x02", entry, signature=one(DType.BOOL))


def test_only_the_outputs_that_were_asked_for_come_back_in_their_order() -> None:
    request = parse(X, IDS, outputs=[{"name": "label"}])
    answers = {"y": np.zeros((2, 2), np.float32), "label": np.array([3, 4])}
    content = orjson.loads(infer_response(request, answers, SIGNATURE, "m", "1").body)
    assert content == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [3, 4]}],
    }


def test_a_response_mixes_json_and_binary_outputs() -> None:
    request = parse(X, IDS, id="a", outputs=[{"name": "y", "parameters": {"binary_data": True}}, {"name": "label"}])
    y = np.array([[1.5, np.nan], [np.inf, 0]], np.float32)
    response = infer_response(request, {"y": y, "label": np.array([3, 4])}, SIGNATURE, "m", "1")
    headers = dict(response.headers)
    length = int(headers["inference-header-content-length"])
    content = orjson.loads(response.body[:length])
    assert headers["content-type"] == "application/octet-stream"
    assert content["id"] == "a"
    assert content["outputs"][0] == {
        "name": "y",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": 16},
    }
    assert content["outputs"][1]["data"] == [3, 4]
    assert response.body[length:] == y.tobytes()


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.FLOAT32, DType.FLOAT64])
def test_nan_and_infinity_are_named_in_json_and_read_back_by_numpy(dtype: DType) -> None:
    signature = Signature((), (TensorSpec("y", dtype, ("n",)),), {})
    values = np.array([math.nan, 0.5, math.inf, -math.inf], dtype.numpy)
    response = infer_response(InferRequest(None, {}, {"y": False}), {"y": values}, signature, "m", "1")
    [output] = orjson.loads(response.body)["outputs"]
    assert output["data"] == ["NaN", 0.5, "Infinity", "-Infinity"]
    assert np.array_equal(np.array(output["data"], dtype.numpy), values, equal_nan=True)


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.value)
def test_json_numbers_come_back_as_the_same_values(dtype: DType) -> None:
    values = np.array([0, 1], dtype.numpy) if dtype is DType.BOOL else np.array([0, 1, 100], dtype.numpy)
    signature = Signature((), (TensorSpec("y", dtype, ("n",)),), {})
    response = infer_response(InferRequest(None, {}, {"y": False}), {"y": values}, signature, "m", "1")
    assert orjson.loads(response.body)["outputs"][0]["data"] == values.tolist()


def test_strings_come_back_as_text_or_after_their_length() -> None:
    signature = Signature((), (TensorSpec("y", DType.STRING, ("n",)),), {})
    answers = {"y": np.array(["é", b"ab"], object)}
    text = infer_response(InferRequest(None, {}, {"y": False}), answers, signature, "m", "1")
    raw = infer_response(InferRequest(None, {}, {"y": True}), answers, signature, "m", "1")
    assert orjson.loads(text.body)["outputs"][0]["data"] == ["é", "ab"]
    assert raw.body.endswith(struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 2) + b"ab")


def test_metadata_shows_dynamic_dimensions_as_minus_one() -> None:
    assert tensor_metadata(SIGNATURE.inputs[1]) == {"name": "ids", "datatype": "INT32", "shape": [-1, -1]}


def test_the_longest_request_that_fits_is_within_the_limit() -> None:
    longest = {**X, "shape": [4, 3], "data": [-1.2345678901234567e-300] * 12}
    ids = {**IDS, "shape": [4, 5], "data": [-(2**31)] * 20}
    limit = largest_request_bytes(SIGNATURE)
    assert limit is not None
    assert len(json.dumps({"inputs": [longest, ids]}, indent=1)) < limit


def test_a_dimension_without_an_end_has_no_limit() -> None:
    assert largest_request_bytes(Signature((TensorSpec("x", DType.INT8, ("n",)),), (), {})) is None
