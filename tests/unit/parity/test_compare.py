"""Value by value: nothing broadcasts, nothing wraps around, nothing that is not finite slips through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.contract import DType, TensorSpec
from tasks.parity.compare import Allowance, Comparison, Mismatch, compare


def floats(expected: Any, answer: Any, atol: float = 1e-6, rtol: float = 0.0) -> Comparison:
    expected = np.asarray(expected, dtype=np.float32)
    tensor = TensorSpec("y", DType.FLOAT32, ("batch", *expected.shape[1:]))
    return compare(
        expected, np.asarray(answer, dtype=np.float32), tensor, Allowance(np.full(expected.shape[1:], atol), rtol)
    )


def exact(expected: np.ndarray, answer: np.ndarray, dtype: DType) -> Comparison:
    return compare(expected, answer, TensorSpec("y", dtype, ("batch", *expected.shape[1:])), None)


def test_equal_answers_have_no_mismatch() -> None:
    found = floats([[1, 2], [3, 4]], [[1, 2], [3, 4]])
    assert found.mismatch is None
    assert (found.compared, found.max_abs_diff, found.worst_margin) == (4, 0.0, 0.0)


def test_a_difference_within_what_is_allowed_is_none() -> None:
    found = floats([[1.0]], [[1.0 + 5e-7]])
    assert found.mismatch is None
    assert 0 < (found.worst_margin or 0) < 1


def test_the_worst_value_is_named_with_its_place() -> None:
    found = floats([[1, 2], [3, 4]], [[1, 2], [3, 4.5]])
    assert found.mismatch is Mismatch.VALUE
    assert found.worst is not None
    assert (found.worst.row, found.worst.index, found.worst.expected, found.worst.got) == (1, (1,), "4", "4.5")
    assert list(found.wrong_rows) == [False, True]


def test_a_column_is_not_a_vector() -> None:
    found = floats(np.ones(3), np.ones((3, 1)))
    assert found.mismatch is Mismatch.SHAPE
    assert found.reason == "the shape is [3, 1], the source model's [3]"


def test_one_row_does_not_stand_for_all() -> None:
    assert floats(np.ones((3, 2)), np.ones((1, 2))).mismatch is Mismatch.SHAPE


def test_float64_is_not_float32() -> None:
    tensor = TensorSpec("y", DType.FLOAT32, ("batch",))
    found = compare(np.ones(2), np.ones(2), tensor, Allowance(np.zeros(()), 0.0))
    assert found.mismatch is Mismatch.DTYPE
    assert found.reason == "the dtype is float64, the spec declares float32"


def test_bytes_are_not_strings() -> None:
    answer = np.array([b"a"], dtype=object)
    assert exact(np.array(["a"], dtype=object), answer, DType.STRING).mismatch is Mismatch.DTYPE


def test_strings_are_compared_exactly() -> None:
    expected = np.array(["a", "b"], dtype=object)
    assert exact(expected, np.array(["a", "b"], dtype=object), DType.STRING).mismatch is None
    assert exact(expected, np.array(["a", "b "], dtype=object), DType.STRING).mismatch is Mismatch.VALUE


def test_unsigned_numbers_do_not_wrap_around() -> None:
    found = exact(np.array([255], dtype=np.uint8), np.array([0], dtype=np.uint8), DType.UINT8)
    assert found.mismatch is Mismatch.VALUE
    assert found.max_abs_diff == 255


def test_large_integers_that_float64_cannot_tell_apart_are_told_apart() -> None:
    big = np.array([2**53], dtype=np.int64)
    found = exact(big, big + 1, DType.INT64)
    assert found.mismatch is Mismatch.VALUE
    assert found.max_abs_diff == 1


def test_booleans_are_compared_exactly() -> None:
    assert exact(np.array([True]), np.array([False]), DType.BOOL).mismatch is Mismatch.VALUE


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (1.0, np.nan),
        (np.nan, 1.0),
        (np.inf, -np.inf),
        (1e30, np.inf),
        (np.inf, np.nan),
    ],
)
def test_what_is_not_finite_on_one_side_is_a_mismatch(expected: float, answer: float) -> None:
    assert floats([[0, expected]], [[0, answer]], atol=1e38).mismatch is Mismatch.NON_FINITE


def test_nan_and_infinities_in_the_same_places_agree() -> None:
    same = [[np.nan, np.inf, -np.inf, 1.0]]
    found = floats(same, same)
    assert found.mismatch is None
    assert found.compared == 1


def test_answers_without_a_finite_value_have_no_figures() -> None:
    found = floats([[np.nan]], [[np.nan]])
    assert (found.mismatch, found.compared, found.max_abs_diff, found.worst_margin) == (None, 0, None, None)


def test_a_small_position_borrows_nothing_from_a_large_one() -> None:
    expected, answer = np.float32([[1e6, 1e-3]]), np.float32([[1e6, 2e-3]])
    tensor = TensorSpec("y", DType.FLOAT32, ("batch", 2))
    found = compare(expected, answer, tensor, Allowance(np.array([1.0, 1e-9]), 0.0))
    assert found.mismatch is Mismatch.VALUE
    assert found.worst is not None
    assert found.worst.index == (1,)


def test_an_allowance_for_other_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Allowance(np.zeros(3), 0.0).of(np.zeros((5, 1)))


finite = st.floats(-(2.0**99), 2.0**99, width=32)
anything = st.floats(width=32)


@given(arrays.arrays(np.float32, (3, 2), elements=anything))
def test_everything_agrees_with_itself(values: np.ndarray) -> None:
    assert floats(values, values, atol=1e-30).mismatch is None


telling = st.sampled_from([0.0, -0.0, 0.4, 1.0, 1.4, 1.6, -1.0, 1e30, -1e30, np.inf, -np.inf, np.nan])


@given(arrays.arrays(np.float32, (2, 2), elements=telling), arrays.arrays(np.float32, (2, 2), elements=telling))
def test_answers_agree_exactly_when_every_value_is_within_its_allowance(
    expected: np.ndarray, answer: np.ndarray
) -> None:
    def fine(want: float, got: float) -> bool:
        if np.isfinite(want) and np.isfinite(got):
            return abs(got - want) <= 0.5 + 0.01 * abs(want)
        return want == got or bool(np.isnan(want) and np.isnan(got))

    right = [fine(float(want), float(got)) for want, got in zip(expected.flat, answer.flat, strict=True)]
    found = floats(expected, answer, atol=0.5, rtol=0.01)
    assert (found.mismatch is None) == all(right)
    if found.mismatch is Mismatch.VALUE:
        assert list(found.wrong_rows) == [not all(right[:2]), not all(right[2:])]


@given(arrays.arrays(np.uint8, (4,)), arrays.arrays(np.uint8, (4,)))
def test_integers_agree_exactly_when_they_are_equal(expected: np.ndarray, answer: np.ndarray) -> None:
    found = exact(expected, answer, DType.UINT8)
    assert (found.mismatch is None) == bool((expected == answer).all())
    assert found.max_abs_diff == max(abs(int(a) - int(b)) for a, b in zip(expected, answer, strict=True))


@given(arrays.arrays(np.float32, (2, 3), elements=finite), st.integers(0, 5), st.floats(1, 100))
def test_one_value_beyond_its_allowance_is_always_found(expected: np.ndarray, place: int, factor: float) -> None:
    answer = expected.astype(np.float64)
    tensor = TensorSpec("y", DType.FLOAT64, ("batch", 3))
    allowed = 1e-3 * (1 + np.abs(answer.ravel()[place]))
    answer.ravel()[place] += 2 * factor * allowed
    assume(abs(answer.ravel()[place] - float(expected.ravel()[place])) > allowed)
    found = compare(expected.astype(np.float64), answer, tensor, Allowance(np.full(3, 1e-3), 1e-3))
    assert found.mismatch is Mismatch.VALUE
