"""Golden samples: spread over the evaluation data, finite, off the edges, and the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from serving.contract import DimRange, DType, PreprocessStep, Signature, TensorSpec, Tolerance
from serving.golden import read_golden
from serving.preprocess import Preprocessing
from tasks.parity.golden import GOLDEN_ROWS, golden_bytes, golden_rows, replay
from tasks.parity.inputs import Batching
from tasks.parity.source import AskedSource

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


def test_where_values_may_miss_a_row_with_a_gap_is_taken_though_others_would_do() -> None:
    x = X.copy()
    x[41, 1] = np.nan
    assert 41 not in golden_rows({"x": x}, {"y": Y}, NONE)
    rows = golden_rows({"x": x}, {"y": Y}, NONE, may_miss=["x"])
    assert 41 in rows
    assert len(set(rows.tolist())) == GOLDEN_ROWS


def test_images_come_back_byte_for_byte(tmp_path: Path) -> None:
    images = np.empty(3, dtype=object)
    images[:] = [b"\x89PNG\x00\x00IEND\xaeB\x60\x82", b"\xff\xd8\x00\x00\xff\xd9", b"\x00\x01"]
    content = golden_bytes({"x": images}, {"y": Y}, np.array([2, 0, 1]), SIGNATURE)
    (tmp_path / "golden.npz").write_bytes(content)
    assert read_golden(tmp_path / "golden.npz").inputs["x"].tolist() == [images[2], images[0], images[1]]


# --- asked for alone, from their raw form on ----------------------------------------------------------------------

WORDS = Signature(
    (TensorSpec("ids", DType.INT64, ("batch", "length")), TensorSpec("mask", DType.INT64, ("batch", "length"))),
    (TensorSpec("y", DType.FLOAT32, ("batch",)),),
    {"batch": DimRange(1, 8), "length": DimRange(1, 16)},
)
TEXTS = ("a", "b a", "b b b a")


@dataclass
class Mean:
    """A source that takes the mean of each row's ids: over its tokens, or over its padding as well."""

    masked: bool
    native: Any = None

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids, mask = inputs["ids"], inputs["mask"] if self.masked else np.ones_like(inputs["mask"])
        return {"y": ((ids * mask).sum(axis=1) / mask.sum(axis=1)).astype(np.float32)}


@pytest.mark.parametrize("masked", [True, False])
def test_a_source_whose_answer_depends_on_the_padding_is_found_out(tmp_path: Path, masked: bool) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    step = PreprocessStep("tokenize", "ids", source="text", file="tokenizer.json", mask="mask")
    preprocessing = Preprocessing((step,), WORDS, tmp_path)
    source = AskedSource(Mean(masked), "savedmodel", WORDS, Batching((1, 4), 4))
    raw = {"text": np.array(TEXTS, dtype=object)}
    answers = source.answer(preprocessing(raw))
    (tmp_path / "golden.npz").write_bytes(golden_bytes(raw, answers, np.arange(3), WORDS))
    found = replay(tmp_path / "golden.npz", preprocessing, source, {"y": Tolerance(1e-6, 1e-6)})
    assert [finding.code for finding in found] == ([] if masked else ["PARITY_GOLDEN_NOT_REPRODUCED"])
    if not masked:
        assert "golden sample 0 otherwise when it is asked alone" in found[0].message
