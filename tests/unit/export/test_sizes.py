"""Sizes to trace with, and inputs of those sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.export.sizes import other_size, sample_inputs, shape_of, tracing_sizes

ranges = st.tuples(st.integers(1, 40), st.integers(1, 200)).map(lambda pair: DimRange(pair[0], pair[0] + pair[1]))


def signature(*shape: int | str, dtype: DType = DType.FLOAT32, **dynamic: DimRange) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),), dynamic)


@given(batch=ranges, length=ranges, fixed=st.integers(1, 12))
def test_sizes_lie_in_their_ranges_and_never_are_one(batch: DimRange, length: DimRange, fixed: int) -> None:
    sizes = tracing_sizes(signature("batch", "length", fixed, batch=batch, length=length))
    assert batch.min <= sizes["batch"] <= batch.max
    assert length.min <= sizes["length"] <= length.max
    assert min(sizes.values()) >= 2


@given(batch=ranges, length=ranges, fixed=st.integers(1, 12))
def test_wide_ranges_give_sizes_unlike_each_other_and_any_fixed_one(
    batch: DimRange, length: DimRange, fixed: int
) -> None:
    wide = {"batch": DimRange(batch.min, batch.max + 4), "length": DimRange(length.min, length.max + 4)}
    sizes = tracing_sizes(signature("batch", "length", fixed, **wide))
    assert len({*sizes.values(), fixed}) == 3


@given(span=ranges)
def test_the_other_size_is_another_one_of_the_range(span: DimRange) -> None:
    traced = tracing_sizes(signature("batch", batch=span))["batch"]
    assert other_size(span, traced) != traced
    assert span.min <= other_size(span, traced) <= span.max


@given(dtype=st.sampled_from(DType))
def test_samples_have_the_declared_dtype_and_shape_and_repeat(dtype: DType) -> None:
    described = signature("batch", 3, dtype=dtype, batch=DimRange(1, 8))
    first, second = (sample_inputs(described, {"batch": 5})["x"] for _ in range(2))
    assert first.shape == shape_of(described.inputs[0], {"batch": 5}) == (5, 3)
    assert first.dtype == dtype.numpy
    assert np.array_equal(first, second)


def test_samples_lie_in_the_range_that_is_declared() -> None:
    inputs = (
        TensorSpec("ids", DType.UINT64, ("batch", 9), (2**63, None)),
        TensorSpec("x", DType.FLOAT16, ("batch",), (2, 3)),
    )
    samples = sample_inputs(Signature(inputs, (), {"batch": DimRange(1, 8)}), {"batch": 5})
    assert set(samples["ids"].ravel().tolist()) == {2**63}
    assert ((samples["x"] >= 2) & (samples["x"] <= 3)).all()


def test_integers_are_ids_that_any_embedding_has() -> None:
    samples = sample_inputs(signature("batch", 3, dtype=DType.INT64, batch=DimRange(1, 8)), {"batch": 5})
    assert set(samples["x"].ravel()) == {0, 1}
