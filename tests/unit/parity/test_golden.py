"""Golden samples: spread over the evaluation data, finite, off the edges, and the same bytes every time."""

from __future__ import annotations

import io

import numpy as np

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.parity.golden import GOLDEN_ROWS, golden_bytes, golden_rows

SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", 2)),),
    (TensorSpec("y", DType.FLOAT32, ("batch",)),),
    {"batch": DimRange(1, 8)},
)
X = np.arange(200, dtype=np.float32).reshape(100, 2)
Y = X.sum(axis=1, dtype=np.float64)
NONE = np.array([], dtype=np.int64)


def opened(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def test_rows_are_spread_from_the_first_to_the_last() -> None:
    rows = golden_rows({"x": X}, {"y": Y}, NONE)
    assert len(rows) == GOLDEN_ROWS
    assert (rows[0], rows[-1]) == (0, 99)


def test_few_rows_are_all_taken_once() -> None:
    assert golden_rows({"x": X[:3]}, {"y": Y[:3]}, NONE).tolist() == [0, 1, 2]


def test_rows_that_are_not_finite_or_stand_on_an_edge_are_left_out() -> None:
    x, y = X.copy(), Y.copy()
    x[0, 1], y[99] = np.nan, np.inf
    rows = golden_rows({"x": x}, {"y": y}, np.array([50]))
    assert not {0, 50, 99} & set(rows.tolist())


def test_where_no_row_is_finite_some_are_taken_all_the_same() -> None:
    assert len(golden_rows({"x": np.full((4, 2), np.nan)}, {"y": np.zeros(4)}, NONE)) == 4


def test_answers_are_stored_in_their_declared_dtype() -> None:
    golden = opened(golden_bytes({"x": X}, {"y": Y}, np.array([3, 5]), SIGNATURE))
    assert golden["output/y"].dtype == np.float32
    np.testing.assert_array_equal(golden["output/y"], Y[[3, 5]])
    np.testing.assert_array_equal(golden["input/x"], X[[3, 5]])


def test_the_same_samples_have_the_same_bytes() -> None:
    rows = np.array([1, 2])
    assert golden_bytes({"x": X}, {"y": Y}, rows, SIGNATURE) == golden_bytes({"x": X}, {"y": Y}, rows, SIGNATURE)


def test_a_fixed_batch_is_filled_to_a_whole_request() -> None:
    fixed = Signature((TensorSpec("x", DType.FLOAT32, (5, 2)),), (TensorSpec("y", DType.FLOAT32, (5,)),))
    golden = opened(golden_bytes({"x": X}, {"y": Y}, np.array([1, 2]), fixed))
    assert golden["input/x"].shape == (5, 2)
