"""Long lists of numbers in JSON: read in pieces, they are what they are when read whole, or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.contract import DimRange, DType, NanPolicy, Signature, TensorSpec
from serving.numbers import LONG_BYTES, outline
from serving.protocol import parse_request
from serving.tensors import BadRequest

MANY = 20_000


def signature(dtype: DType = DType.FLOAT32) -> Signature:
    spec = TensorSpec("x", dtype, ("batch",), nan=NanPolicy.ACCEPT if dtype.is_float else NanPolicy.REFUSE)
    return Signature((spec,), (), {"batch": DimRange(0, 1 << 20)})


def body(data: str, count: int = MANY, dtype: str = "FP32", more: str = "") -> bytes:
    return (
        f'{{"inputs": [{{"name": "x", "datatype": "{dtype}", "shape": [{count}], "data" : [{data}]}}]{more}}}'.encode()
    )


def read(content: bytes, dtype: DType = DType.FLOAT32) -> NDArray[Any]:
    return parse_request(content, None, signature(dtype)).inputs["x"]


@settings(max_examples=30)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-5, 5), min_size=1))
def test_numbers_are_what_they_were(values: list[float]) -> None:
    many = values * (2 * MANY // len(values))
    content = body(orjson.dumps(many).decode()[1:-1], len(many))
    assert len(outline(content).lists) == 1
    np.testing.assert_array_equal(read(content), np.array(many, np.float32))


def test_null_is_nan_where_it_may_be() -> None:
    assert np.isnan(read(body(",".join(["1.5", "null"] * (MANY // 2))))).sum() == MANY // 2


def test_whole_numbers_stay_exact() -> None:
    values = range(2**62, 2**62 + MANY)
    content = body(",".join(map(str, values)), dtype="INT64")
    np.testing.assert_array_equal(read(content, DType.INT64), np.array(values, np.int64))


NUMBERS = ", ".join(["0.25"] * MANY)
WRONG = {
    "a comma at the end": (body(NUMBERS + ","), "not JSON"),
    "a comma at the start": (body("," + NUMBERS), "not JSON"),
    "two commas where pieces meet": (body(NUMBERS.replace(", ", ",,", 1366)), "not JSON"),
    "a word": (body(NUMBERS + ", nul"), "not JSON"),
    "no end": (body(NUMBERS)[:-4], "not JSON"),
    "true": (body(NUMBERS + ", true", MANY + 1), "position 20000"),
    "one too many": (body(NUMBERS + ", 1"), "holds 20000 values, data has 20001"),
    "beyond float32": (body(NUMBERS + ", 1e39", MANY + 1), "position 20000"),
    "a parameter": (body("1", 1, more=f', "parameters": {{"data": [{NUMBERS}]}}'), "the parameter 'data' must be"),
    "text after the end": (body(NUMBERS) + b"]", "not JSON"),
}


@pytest.mark.parametrize(("content", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_as_of_the_whole_list(content: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        read(content)


def test_a_string_that_looks_like_data_is_left_alone() -> None:
    trap = orjson.dumps({"note": '"data": [' + "1," * LONG_BYTES + "1]"}).decode()
    request = parse_request(body("1, 2", 2, more=f', "parameters": {trap}'), None, signature())
    assert request.parameters == orjson.loads(trap)
