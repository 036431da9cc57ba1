"""Arithmetic: what each operation computes, what it refuses, and that it never touches what it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.contract import DimRange, DType, PreprocessStep, Signature, TensorSpec
from serving.preprocess import OPERATIONS, apply, problems, raw_signature

FLOATS = st.floats(-1e3, 1e3, width=32)


def signature(dtype: DType = DType.FLOAT32, shape: tuple[int | str, ...] = ("batch", 3, 2)) -> Signature:
    return Signature(
        inputs=(TensorSpec("x", dtype, shape),),
        outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 1)),),
        dynamic={"batch": DimRange(1, 8)},
    )


def scale(**arguments: Any) -> PreprocessStep:
    return PreprocessStep("scale", "x", **arguments)


def standardize(**arguments: Any) -> PreprocessStep:
    return PreprocessStep("standardize", "x", **arguments)


def cast(source: DType) -> PreprocessStep:
    return PreprocessStep("cast", "x", source_dtype=source)


def of(*messages: str, found: tuple[Any, ...]) -> None:
    assert [f"{problem.step}.{problem.key}" for problem in found] == list(messages)


@given(hnp.arrays(np.float32, (4, 3, 2), elements=FLOATS), FLOATS.filter(lambda by: by != 0), FLOATS)
def test_scale_multiplies_and_adds(x: np.ndarray, by: float, offset: float) -> None:
    answer = apply((scale(by=by, offset=offset),), {"x": x}, signature())["x"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, x.astype(float) * by + offset, rtol=1e-5, atol=0.2)


@given(hnp.arrays(np.float32, (4, 3, 2), elements=FLOATS), st.sampled_from([-2, -1, 1, 2]))
def test_standardize_along_any_axis_is_each_slice_with_its_own_constants(x: np.ndarray, axis: int) -> None:
    size = x.shape[axis]
    mean, std = tuple(float(index) for index in range(size)), tuple(float(index + 1) for index in range(size))
    answer = apply((standardize(mean=mean, std=std, axis=axis),), {"x": x}, signature())["x"]
    for index in range(size):
        np.testing.assert_allclose(
            np.take(answer, index, axis), (np.take(x, index, axis) - index) / (index + 1), rtol=1e-5, atol=1e-5
        )


def test_standardize_takes_the_last_axis_unless_told_otherwise() -> None:
    x = np.ones((1, 3, 2), np.float32)
    answer = apply((standardize(mean=(0.0, 1.0), std=(1.0, 1.0)),), {"x": x}, signature())["x"]
    assert answer[0].tolist() == [[1, 0]] * 3


@given(hnp.arrays(np.uint8, (2, 3, 2)))
def test_a_cast_comes_out_in_the_declared_dtype_with_the_same_values(x: np.ndarray) -> None:
    answer = apply((cast(DType.UINT8),), {"x": x}, signature())["x"]
    assert answer.dtype == np.float32
    assert (answer == x).all()


@given(hnp.arrays(np.uint8, (2, 3, 2)))
def test_steps_run_in_their_order_and_leave_the_raw_input_alone(x: np.ndarray) -> None:
    before = x.copy()
    steps = (cast(DType.UINT8), scale(by=1 / 255), standardize(mean=(0.5,), std=(0.25,)))
    answer = apply(steps, {"x": x, "other": x}, signature())
    np.testing.assert_allclose(answer["x"], (x.astype(float) / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
    assert answer["other"] is x
    assert (x == before).all()


@given(hnp.arrays(np.float16, (5, 3, 2), elements=st.floats(-10, 10, width=16)))
def test_half_precision_is_computed_in_single_and_rounded_once(x: np.ndarray) -> None:
    answer = apply((standardize(mean=(3.3,), std=(0.7,)),), {"x": x}, signature(DType.FLOAT16))["x"]
    expected = ((x.astype(np.float32) - np.float32(3.3)) / np.float32(0.7)).astype(np.float16)
    assert answer.dtype == np.float16
    assert (answer == expected).all()


@given(hnp.arrays(np.float32, (6, 3, 2), elements=FLOATS), st.integers(1, 5))
def test_a_batch_is_preprocessed_as_its_rows_are(x: np.ndarray, split: int) -> None:
    steps = (scale(by=0.3, offset=1.0), standardize(mean=(1.0, 2.0, 3.0), std=(2.0, 3.0, 4.0), axis=1))
    whole = apply(steps, {"x": x}, signature())["x"]
    parts = [apply(steps, {"x": part}, signature())["x"] for part in (x[:split], x[split:])]
    assert np.array_equal(whole, np.concatenate(parts))


def test_clients_send_what_stands_before_the_cast() -> None:
    raw = raw_signature(signature(), (cast(DType.UINT8), scale(by=2.0)))
    assert raw.inputs == (TensorSpec("x", DType.UINT8, ("batch", 3, 2)),)
    assert raw.outputs == signature().outputs
    assert raw.dynamic == signature().dynamic


def test_without_steps_clients_send_what_the_model_takes() -> None:
    assert raw_signature(signature(), ()) == signature()


def test_an_unknown_operation_names_those_that_there_are() -> None:
    (problem,) = problems(signature(), (PreprocessStep("blur", "x"),))
    assert problem.key == "op"
    assert problem.message == "no operation 'blur'; there are " + ", ".join(OPERATIONS)


@pytest.mark.parametrize(
    ("step", "keys"),
    [
        (PreprocessStep("scale", "z", by=1.0), ["input"]),
        (scale(), ["by"]),
        (scale(by=0.0), ["by"]),
        (scale(by=float("nan")), ["by"]),
        (scale(offset=float("inf")), ["offset"]),
        (scale(by=2.0, mean=(1.0,)), ["mean"]),
        (standardize(mean=(1.0,)), ["std"]),
        (standardize(mean=(1.0,), std=(0.0,)), ["std"]),
        (standardize(mean=(1.0, float("nan")), std=(1.0,)), ["mean"]),
        (standardize(mean=(1.0, 2.0, 3.0), std=(1.0,)), ["mean"]),
        (standardize(mean=(1.0,), std=(1.0, 2.0), axis=0), ["std"]),
        (standardize(mean=(1.0,), std=(1.0,), axis=3), ["axis"]),
        (PreprocessStep("cast", "x"), ["source_dtype"]),
        (cast(DType.STRING), ["source_dtype"]),
    ],
)
def test_arguments_that_make_no_sense_are_named(step: PreprocessStep, keys: list[str]) -> None:
    assert [problem.key for problem in problems(signature(), (step,))] == keys


def test_a_cast_must_not_lose_what_clients_send() -> None:
    (problem,) = problems(signature(DType.INT32), (cast(DType.FLOAT32),))
    assert problem.message == "float32 does not fit into int32, the declared dtype of 'x'"


def test_a_cast_after_arithmetic_is_refused() -> None:
    of("1.op", found=problems(signature(), (scale(by=2.0), cast(DType.UINT8))))


def test_arithmetic_on_integers_is_refused() -> None:
    of("0.input", found=problems(signature(DType.INT64), (scale(by=2.0),)))


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"preprocess\.0\.op.*preprocess\.1\.by"):
        raw_signature(signature(), (PreprocessStep("blur", "x"), scale()))


def test_running_a_step_that_was_never_checked_fails_instead_of_passing_through() -> None:
    with pytest.raises(ValueError, match="no operation 'blur'"):
        apply((PreprocessStep("blur", "x"),), {"x": np.zeros(1)}, signature())
