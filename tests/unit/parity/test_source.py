"""Asking the source: chunk by chunk, whatever rows are left over, and never in another kind of dtype than declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.parity.inputs import Batching
from tasks.parity.source import AskedSource, SourceFailed, as_declared
from tasks.parity.tolerance import ALONE, MOVED, SAFETY

SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", 2)),),
    (TensorSpec("y", DType.FLOAT32, ("batch",)),),
    {"batch": DimRange(1, 8)},
)
X = np.arange(20, dtype=np.float32).reshape(10, 2) + 1


@dataclass
class Sum:
    """A source that adds up each row, and remembers how many rows it was asked for at a time."""

    native: Any = None
    sizes: list[int] = field(default_factory=list)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(axis=1)}


def asked(model: Any, *sizes: int, chunk: int = 4) -> AskedSource:
    return AskedSource(model, "savedmodel", SIGNATURE, Batching(sizes or (1, 4), chunk))


def test_rows_are_asked_for_as_they_will_be_served() -> None:
    model = Sum()
    answers = asked(model).answer({"x": X})
    assert model.sizes == [4, 4, 2]
    np.testing.assert_array_equal(answers["y"], X.sum(axis=1))


def test_a_last_batch_that_is_too_small_is_filled_up_and_cut() -> None:
    model = Sum()
    answers = asked(model, 3, 4).answer({"x": X})
    assert model.sizes == [4, 4, 3]
    np.testing.assert_array_equal(answers["y"], X.sum(axis=1))


def test_what_the_framework_raises_becomes_a_sentence() -> None:
    class Broken(Sum):
        def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            raise KeyError("no such layer")

    with pytest.raises(SourceFailed, match=r"raised KeyError for x \[4, 2\]: 'no such layer'"):
        asked(Broken()).answer({"x": X})


def test_answers_without_one_row_per_row_are_refused() -> None:
    class Total(Sum):
        def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"y": inputs["x"].sum(keepdims=True)[0]}

    with pytest.raises(SourceFailed, match="answers 4 rows with shape"):
        asked(Total()).answer({"x": X})


def test_probes_ask_for_single_rows_and_move_inputs_by_a_few_units() -> None:
    model = Sum()
    source = asked(model)
    probes = source.probes({"x": X}, source.answer({"x": X}), 2.0**-24, np.random.default_rng(0))
    assert ALONE in {probe.condition for probe in probes}
    assert 1 in model.sizes
    moved = [probe.answers["y"] for probe in probes if probe.condition == MOVED]
    change = np.max(np.abs(np.stack(moved) - X.sum(axis=1)), axis=0)
    assert (change > 0).any()
    assert (change <= 2 * SAFETY * 2.0**-24 * X.sum(axis=1)).all()


def test_whole_inputs_cannot_be_moved() -> None:
    source = asked(Sum())
    assert source.moved({"x": X.astype(np.int64)}, 2.0**-24, np.random.default_rng(0), 3) == ()


@pytest.mark.parametrize(
    ("given", "declared", "kept"),
    [
        (np.float64, DType.FLOAT32, np.float64),  # wider than declared: the better reference
        (np.float16, DType.FLOAT32, np.float32),
        (np.int32, DType.INT64, np.int64),
        (np.uint8, DType.UINT8, np.uint8),
    ],
)
def test_answers_come_in_the_declared_kind(given: Any, declared: DType, kept: Any) -> None:
    output = TensorSpec("y", declared, ("batch",))
    assert as_declared({"y": np.ones(3, dtype=given)}, (output,))["y"].dtype == kept


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (np.ones(3), TensorSpec("y", DType.INT64, ("batch",))),
        (np.ones(3, dtype=np.int64), TensorSpec("y", DType.FLOAT32, ("batch",))),
        (np.array([300]), TensorSpec("y", DType.UINT8, ("batch",))),
        (np.ones((3, 1), dtype=np.float32), TensorSpec("y", DType.FLOAT32, ("batch",))),
        (np.ones((3, 2), dtype=np.float32), TensorSpec("y", DType.FLOAT32, ("batch", 3))),
        (np.array(["a"]), TensorSpec("y", DType.FLOAT32, ("batch",))),
    ],
)
def test_answers_of_another_kind_or_shape_are_refused(answer: np.ndarray, output: TensorSpec) -> None:
    with pytest.raises(SourceFailed, match="the spec declares"):
        as_declared({"y": answer}, (output,))
