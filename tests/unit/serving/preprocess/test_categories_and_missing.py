"""Categories become ids, missing values are filled in; and clip, which keeps numbers between two ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.contract import DType, NanPolicy, PreprocessStep, TensorSpec
from serving.preprocess import BadRow, Preprocessing, apply, file_problems, problems, raw_signature, step_files
from tests.unit.serving.preprocess.conftest import column, signature

IDS = signature(TensorSpec("colour", DType.INT64, ("batch",)))
NUMBERS = signature(TensorSpec("x", DType.FLOAT32, ("batch", 2)))
MARKED = signature(TensorSpec("x", DType.FLOAT32, ("batch", 2)), TensorSpec("absent", DType.INT64, ("batch", 2)))


def vocabulary(**arguments: Any) -> PreprocessStep:
    return PreprocessStep("vocabulary", "colour", **arguments)


def impute(**arguments: Any) -> PreprocessStep:
    return PreprocessStep("impute", "x", **arguments)


def said(step: PreprocessStep, of: Any = IDS) -> list[str]:
    return [f"{problem.key}: {problem.message}" for problem in problems(of, (step,))]


# --- vocabulary ---------------------------------------------------------------------------------------------------


def test_values_become_their_place_counted_from_first() -> None:
    step = vocabulary(values=("red", "green"), first=5)
    assert apply((step,), {"colour": column("green", "red")}, IDS)["colour"].tolist() == [6, 5]


def test_an_unknown_value_becomes_the_declared_id() -> None:
    step = vocabulary(values=("red", "green"), first=1, unknown=0)
    ids = apply((step,), {"colour": column("blue", "green")}, IDS)["colour"]
    assert (ids.tolist(), ids.dtype) == ([0, 2], np.int64)


def test_an_unknown_value_is_refused_with_its_row_where_no_id_is_declared() -> None:
    pairs = signature(TensorSpec("colour", DType.INT64, ("batch", 2)))
    with pytest.raises(BadRow, match=r"input 'colour': row 1: 'blue' is none of the 2 known values") as caught:
        apply(
            (vocabulary(values=("red", "green")),),
            {"colour": column(*["red", "green", "red", "blue"]).reshape(2, 2)},
            pairs,
        )
    assert (caught.value.input, caught.value.row) == ("colour", 1)


def test_clients_send_strings_in_the_same_shape() -> None:
    raw = raw_signature(IDS, (vocabulary(values=("red",), source="paint"),))
    assert raw.inputs == (TensorSpec("paint", DType.STRING, ("batch",)),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.txt", b"red\ngreen\n"),
        ("v.txt", b"red\r\ngreen"),
        ("v.json", b'["red", "green"]'),
        ("v.json", b'{"green": 1, "red": 0}'),
    ],
)
def test_a_file_holds_the_values(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    steps = (vocabulary(file=name),)
    assert not file_problems(IDS, steps, tmp_path)
    assert apply(steps, {"colour": column("green", "red")}, IDS, tmp_path)["colour"].tolist() == [1, 0]
    assert step_files(steps) == (name,)


def test_a_line_break_that_only_python_knows_is_part_of_a_value(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("a\u2028b\nc\n")
    assert apply((vocabulary(file="v.txt"),), {"colour": column("c")}, IDS, tmp_path)["colour"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt", None, "v.txt cannot be read: No such file or directory"),
        ("v.txt", b"red\nred\n", "v.txt: holds 'red' twice"),
        ("v.txt", b"\xff\xfe", "v.txt is not UTF-8 text or JSON"),
        ("v.json", b"{", "v.json is not UTF-8 text or JSON"),
        ("v.json", b"[1, 2]", "v.json: expected a list of strings"),
        ("v.json", b'{"a": 99999999999999999999}', "do not fit into int64"),
    ],
)
def test_what_is_no_vocabulary_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (problem,) = file_problems(IDS, (vocabulary(file=name),), tmp_path)
    assert problem.key == "file"
    assert message in problem.message


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (vocabulary(), "values: a vocabulary needs either values, a list of strings, or file, the path of one"),
        (vocabulary(values=("a",), file="b"), "values: a vocabulary needs either"),
        (vocabulary(values=("a", "a")), "values: holds 'a' twice"),
        (vocabulary(values=()), "values: holds no values"),
        (vocabulary(values=("a",), unknown=2**63), "unknown: 9223372036854775808 does not fit into int64"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_is_named(step: PreprocessStep, message: str) -> None:
    assert any(each.startswith(message) for each in said(step))


def test_ids_are_whole_numbers() -> None:
    step = PreprocessStep("vocabulary", "x", values=("a",))
    assert said(step, NUMBERS) == ["input: a vocabulary gives whole numbers, 'x' is declared float32"]


# --- impute -------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (5, 2), elements=st.floats(-9, 9, width=32) | st.just(float("nan"))))
def test_what_is_missing_is_filled_and_marked_and_the_rest_left_alone(x: np.ndarray) -> None:
    before = x.copy()
    answer = apply((impute(fill=(1.5, -2.0), indicator="absent"),), {"x": x}, MARKED)
    missing = np.isnan(x)
    assert np.array_equal(answer["x"], np.where(missing, np.float32([1.5, -2.0]), x))
    assert np.array_equal(answer["absent"], missing.astype(np.int64))
    assert answer["absent"].dtype == np.int64
    assert np.array_equal(x, before, equal_nan=True)


def test_one_fill_is_for_all() -> None:
    answer = apply((impute(fill=(7.0,)),), {"x": np.array([[np.nan, 1]], np.float32)}, NUMBERS)
    assert answer["x"].tolist() == [[7, 1]]


def test_clients_may_leave_values_out_and_do_not_send_the_indicator() -> None:
    raw = raw_signature(MARKED, (impute(fill=(0.0,), indicator="absent"), PreprocessStep("scale", "x", by=2.0)))
    assert raw.inputs == (TensorSpec("x", DType.FLOAT32, ("batch", 2), nan=NanPolicy.ACCEPT),)


def test_statistics_of_scaled_values_fill_scaled_values() -> None:
    steps = (PreprocessStep("standardize", "x", mean=(10.0,), std=(2.0,)), impute(fill=(0.0,)))
    assert apply(steps, {"x": np.array([[np.nan, 12]], np.float32)}, NUMBERS)["x"].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (impute(), "fill: impute needs fill"),
        (impute(fill=(float("nan"),)), "fill: must be finite numbers"),
        (impute(fill=(1.0, 2.0, 3.0)), "fill: has 3 values; 'x' has 2 along axis -1"),
        (impute(fill=(1.0,), indicator="nowhere"), "indicator: no input 'nowhere'"),
        (impute(fill=(1.0,), indicator="x"), "indicator: 'x' is filled twice"),
    ],
)
def test_an_imputation_that_makes_no_sense_is_named(step: PreprocessStep, message: str) -> None:
    assert any(each.startswith(message) for each in said(step, MARKED))


def test_an_input_that_another_step_fills_takes_no_steps_of_its_own() -> None:
    steps = (impute(fill=(0.0,), indicator="absent"), PreprocessStep("cast", "absent", source_dtype=DType.INT8))
    assert [problem.message for problem in problems(MARKED, steps)] == ["'absent' is filled by the impute of 'x'"]


def test_integers_are_never_missing() -> None:
    steps = (PreprocessStep("cast", "x", source_dtype=DType.INT32), impute(fill=(0.0,)))
    (problem,) = problems(NUMBERS, steps)
    assert (problem.step, problem.message) == (1, "clients send int32, of which no value is missing")


# --- clip ---------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (3, 2), elements=st.floats(-9, 9, width=32)))
def test_clip_keeps_values_between_its_ends(x: np.ndarray) -> None:
    for low, high in ((-1.0, 2.0), (None, 2.0), (-1.0, None)):
        step = PreprocessStep("clip", "x", min=low, max=high)
        expected = np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)
        assert np.array_equal(apply((step,), {"x": x}, NUMBERS)["x"], expected)


@pytest.mark.parametrize("arguments", [{}, {"min": 1.0, "max": 1.0}, {"min": 2.0, "max": 1.0}, {"min": float("nan")}])
def test_a_clip_that_makes_no_sense_is_named(arguments: dict[str, float]) -> None:
    assert said(PreprocessStep("clip", "x", **arguments), NUMBERS)


# --- one raw input for several of the model's ---------------------------------------------------------------------


def test_one_raw_input_feeds_several_of_the_models() -> None:
    both = signature(TensorSpec("a", DType.INT64, ("batch",)), TensorSpec("b", DType.INT32, ("batch",)))
    steps = (
        PreprocessStep("vocabulary", "a", values=("x", "y"), source="word"),
        PreprocessStep("vocabulary", "b", values=("y", "x"), source="word"),
    )
    preprocessing = Preprocessing(steps, both)
    assert [tensor.name for tensor in preprocessing.raw.inputs] == ["word"]
    answer = preprocessing({"word": column("x", "y")})
    assert {name: array.tolist() for name, array in answer.items()} == {"a": [0, 1], "b": [1, 0]}


def test_two_inputs_cannot_be_made_of_one_name_in_two_forms() -> None:
    both = signature(TensorSpec("a", DType.INT64, ("batch",)), TensorSpec("b", DType.INT32, ("batch", 2)))
    steps = tuple(PreprocessStep("vocabulary", name, values=("x",), source="word") for name in ("a", "b"))
    (problem,) = problems(both, steps)
    assert problem.message == "'word' is already sent as string of shape ['batch'], here it is something else"
