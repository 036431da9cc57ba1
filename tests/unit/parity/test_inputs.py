"""What both models are asked: rows within what was seen, every batch size that is promised, every row once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.errors import BadInput
from tasks.parity.inputs import Batching, Part, batching, plan, pools


def signature(*inputs: TensorSpec, batch: DimRange | None = None, **dynamic: DimRange) -> Signature:
    output = TensorSpec("y", DType.FLOAT32, ("batch",))
    return Signature(inputs, (output,), {"batch": batch or DimRange(1, 64), **dynamic})


X = TensorSpec("x", DType.FLOAT32, ("batch", 3))
TOKENS = TensorSpec("tokens", DType.INT64, ("batch", "length"))


def test_batch_sizes_are_the_telling_ones_both_ends_and_what_is_served() -> None:
    assert batching(signature(X), 32) == Batching((1, 2, 3, 7, 32, 64), 32)


def test_batch_sizes_stay_within_the_declared_range() -> None:
    assert batching(signature(X, batch=DimRange(2, 5)), 32) == Batching((2, 3, 5), 5)


def test_a_fixed_first_dimension_is_the_only_batch_size() -> None:
    fixed = Signature((TensorSpec("x", DType.FLOAT32, (4, 3)),), (TensorSpec("y", DType.FLOAT32, (4,)),))
    assert batching(fixed, 32) == Batching((4,), 4)


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    loose = Signature((X,), (TensorSpec("y", DType.FLOAT32, (2, "batch")),), {"batch": DimRange(1, 4)})
    with pytest.raises(BadInput, match="first dimension"):
        batching(loose, 4)


def test_the_evaluation_rows_come_first_and_as_they_are() -> None:
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    first, *_ = pools(signature(X), {"x": x, "label": np.zeros(10)}, "seed")
    assert first.name == "evaluation"
    assert first.raw["x"] is x


def test_random_rows_stay_within_each_feature_s_own_range_and_reach_its_ends() -> None:
    x = np.float32([[0, 100, -1], [1, 200, -1], [0.5, 150, -1]])
    _, random = pools(signature(X), {"x": x}, "seed")
    values = random.raw["x"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.min(axis=0), x.min(axis=0))
    np.testing.assert_array_equal(values.max(axis=0), x.max(axis=0))


def test_random_ids_are_all_that_the_spec_allows_and_reach_its_ends() -> None:
    ids = TensorSpec("ids", DType.INT64, ("batch", 40), (0, 999))
    _, random = pools(signature(ids), {"ids": np.full((5, 40), 17)}, "seed")
    assert (random.raw["ids"].min(), random.raw["ids"].max()) == (0, 999)


def test_random_numbers_stay_within_what_the_spec_allows() -> None:
    x = TensorSpec("x", DType.FLOAT32, ("batch", 3), (0, None))
    _, random = pools(signature(x), {"x": np.float32([[-5, 1, -2], [5, 2, -1]])}, "seed")
    assert random.raw["x"].min() == 0
    assert random.raw["x"].max() == 5


def test_the_same_seed_asks_the_same_and_another_seed_something_else() -> None:
    x = {"x": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)}
    first, again, other = (pools(signature(X), x, seed)[1].raw["x"] for seed in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_every_other_dynamic_dimension_is_asked_for_at_its_ends() -> None:
    tokens = np.random.default_rng(0).integers(0, 9, (6, 5))
    found = pools(signature(TOKENS, length=DimRange(1, 12)), {"tokens": tokens}, "seed")
    assert [dict(pool.lengths) for pool in found] == [{"length": 5}, {"length": 5}, {"length": 1}, {"length": 12}]
    assert [pool.raw["tokens"].shape[1] for pool in found] == [5, 5, 1, 12]


def test_inputs_that_share_a_dimension_get_the_same_length() -> None:
    mask = TensorSpec("mask", DType.BOOL, ("batch", "length"))
    columns = {"tokens": np.ones((4, 5), dtype=np.int64), "mask": np.ones((4, 5), dtype=bool)}
    for pool in pools(signature(TOKENS, mask, length=DimRange(2, 9)), columns, "seed"):
        assert pool.raw["mask"].shape == pool.raw["tokens"].shape


def test_random_integers_reach_both_ends_of_their_range_exactly() -> None:
    ends = np.iinfo(np.int64)
    whole = TensorSpec("x", DType.INT64, ("batch",))
    _, random = pools(signature(whole), {"x": np.array([ends.min, ends.max])}, "seed")
    assert {ends.min, ends.max} <= set(random.raw["x"].tolist())


def test_random_strings_are_strings_that_were_seen() -> None:
    words = TensorSpec("x", DType.STRING, ("batch",))
    _, random = pools(signature(words), {"x": np.array(["a", "b"], dtype=object)}, "seed")
    assert set(random.raw["x"]) == {"a", "b"}


def test_a_range_is_that_of_the_finite_values() -> None:
    x = np.float32([[np.nan, 1, np.inf], [np.nan, 2, 3]])
    _, random = pools(signature(X), {"x": x}, "seed")
    assert np.isfinite(random.raw["x"]).all()
    assert random.raw["x"][:, 2].max() == 3


def test_the_first_batch_is_asked_for_twice() -> None:
    batches = plan(Batching((1, 2), 2), (5,))
    again = [batch for batch in batches if batch.part is Part.AGAIN]
    assert [(batch.start, batch.size) for batch in again] == [(batches[0].start, batches[0].size)]


def test_every_batch_is_asked_for_only_once_otherwise() -> None:
    batches = [batch for batch in plan(Batching((1, 2, 3, 7, 32, 64), 32), (40,)) if batch.part is Part.SIZE]
    assert len(set(batches)) == len(batches)


@given(st.integers(1, 200), st.integers(1, 5), st.integers(0, 60), st.data())
def test_whole_pools_cover_every_row_once_in_batches_that_are_allowed(
    rows: int, least: int, more: int, data: st.DataObject
) -> None:
    chunk = data.draw(st.integers(least, least + more))
    sizes = Batching(tuple(sorted({least, chunk, least + more})), chunk)
    kept: list[int] = []
    for batch in plan(sizes, (rows,)):
        assert least <= batch.size <= least + more
        if batch.part is Part.WHOLE:
            kept += batch.rows(rows)[: batch.kept].tolist()
    assert kept == list(range(rows))


@given(st.integers(1, 64), st.integers(1, 500))
def test_every_promised_size_is_asked_for(largest: int, rows: int) -> None:
    sizes = batching(signature(X, batch=DimRange(1, largest)), 32)
    assert {1, largest} <= {batch.size for batch in plan(sizes, (rows,))}
