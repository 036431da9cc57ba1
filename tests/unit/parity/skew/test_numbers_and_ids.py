"""Tabular and text models whose training code did something else than is declared: named, and a clean case each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from serving.contract import DimRange, DType, PreprocessStep, Signature, TensorSpec
from tasks.contracts import Finding, Verdict
from tests.unit.parity.skew.conftest import held
from tests.unit.serving.preprocess.conftest import column


def of(*tensors: TensorSpec) -> Signature:
    outputs = (TensorSpec("y", DType.FLOAT32, ("batch", 1)),)
    return Signature(inputs=tensors, outputs=outputs, dynamic={"batch": DimRange(1, 64)})


def cause(findings: tuple[Finding, ...]) -> tuple[str, str]:
    (finding,) = findings
    assert finding.code == "PARITY_PREPROCESS_DIFFERS"
    return str(finding.evidence.get("cause")), finding.message


# --- numbers ------------------------------------------------------------------------------------------------------

TABLE = of(TensorSpec("x", DType.FLOAT32, ("batch", 3)), TensorSpec("absent", DType.FLOAT32, ("batch", 3)))
MEAN, STD = (10.0, -3.0, 0.25), (2.0, 5.0, 0.125)
STEPS = (
    PreprocessStep("impute", "x", fill=MEAN, indicator="absent"),
    PreprocessStep("standardize", "x", mean=MEAN, std=STD),
)
X = (np.random.default_rng(3).normal(size=(12, 3)) * STD + MEAN).astype(np.float32)
X[[1, 4], [0, 2]] = np.nan


def standardized(
    fill: tuple[float, ...] = MEAN, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> np.ndarray:
    filled = np.where(np.isnan(X), np.float64(fill), X.astype(np.float64))
    return ((filled - mean) / std).astype(np.float32)


def tabular(x: np.ndarray, absent: np.ndarray | None = None) -> tuple[Finding, ...]:
    marks = np.isnan(X).astype(np.float32) if absent is None else absent
    return held(STEPS, TABLE, {"x": X}, {"x": x, "absent": marks})


def test_a_table_that_was_prepared_as_declared_passes() -> None:
    assert tabular(standardized()) == ()


def test_another_fill_is_told_from_other_constants() -> None:
    name, message = cause(tabular(standardized(fill=(0.0, 0.0, 0.0))))
    assert name == "fill"
    assert "only values that are missing in the raw rows differ" in message


def test_the_fills_are_told_where_imputing_is_the_last_step() -> None:
    filled = np.where(np.isnan(X), np.float32(7), X)
    one = (PreprocessStep("impute", "x", fill=(0.0,)),)
    name, message = cause(held(one, TABLE, {"x": X, "absent": X}, {"x": filled}))
    assert name == "fill"
    assert "the first with 7, the declared step with 0" in message


@pytest.mark.parametrize("column_of", [0, 1, 2])
def test_another_mean_of_one_column_is_told_with_its_place(column_of: int) -> None:
    mean = tuple(value + (index == column_of) for index, value in enumerate(MEAN))
    name, message = cause(tabular(standardized(mean=mean, fill=MEAN)))
    assert name == "constants"
    assert f"at position {column_of} of axis 1" in message
    assert f"mean {mean[column_of]:.4g} and std {STD[column_of]:.4g}, not {MEAN[column_of]:.4g}" in message


def test_an_indicator_the_other_way_round_is_told() -> None:
    name, _ = cause(tabular(standardized(), 1 - np.isnan(X).astype(np.float32)))
    assert name == "mask_inverted"


def test_a_clip_that_training_did_not_take_is_told() -> None:
    steps = (PreprocessStep("scale", "x", by=0.5), PreprocessStep("clip", "x", min=-1, max=2))
    whole = np.nan_to_num(X)
    name, message = cause(held(steps, TABLE, {"x": whole, "absent": whole}, {"x": whole * np.float32(0.5)}))
    assert name == "step_left_out"
    assert "training did not take the step clip" in message


@pytest.mark.parametrize(
    ("by", "offset", "said"),
    [
        (1.0, 0.0, "training did not take the step scale"),
        (0.5, 0.0, "training's values are 2 times those of the declared steps, as if scale had by: 0.5"),
        (0.5, -1.0, "training's values are 2 × those of the declared steps -1, as if scale had by: 0.5, offset: -1"),
        (-4.0, 0.0, "as if scale had by: -4"),
    ],
)
def test_another_factor_is_told_in_the_words_of_the_declaration(by: float, offset: float, said: str) -> None:
    whole = np.nan_to_num(X)
    fed = (whole.astype(np.float64) * by + offset).astype(np.float32)
    _, message = cause(
        held(((PreprocessStep("scale", "x", by=0.25)),), TABLE, {"x": whole, "absent": whole}, {"x": fed})
    )
    assert message.endswith(said)


@given(st.integers(-6, 6), st.floats(0.01, 1), st.floats(-100, 100))
def test_the_same_arithmetic_in_another_order_is_the_same_up_to_rounding(power: int, by: float, mean: float) -> None:
    """(x - mean) / std, and x * (1 / std) - mean / std, and all of it in float64: as three libraries do it."""
    std = by * 10.0**power
    x = (np.nan_to_num(X) + mean).astype(np.float32)
    steps = (PreprocessStep("standardize", "x", mean=(mean,), std=(std,)),)
    one, many = np.float32(1 / std), np.float32(mean / std)
    for fed in (x * one - many, ((x.astype(np.float64) - mean) / std).astype(np.float32)):
        assert held(steps, TABLE, {"x": x, "absent": x}, {"x": fed}) == ()


def test_a_small_column_is_not_hidden_by_a_large_one() -> None:
    x = np.stack([np.linspace(0, 1e9, 12), np.linspace(0, 1, 12), np.linspace(0, 1, 12)], axis=1).astype(np.float32)
    fed = x.copy()
    fed[:, 1] += np.float32(1e-4)
    steps = (PreprocessStep("scale", "x", by=1.0),)
    assert held(steps, TABLE, {"x": x, "absent": x}, {"x": x}) == ()
    (finding,) = held(steps, TABLE, {"x": x, "absent": x}, {"x": fed})
    assert finding.evidence["position"] == "[1]"


# --- vocabularies -------------------------------------------------------------------------------------------------

COLOUR = of(TensorSpec("colour", DType.INT64, ("batch",)))
WORDS = ("red", "green", "blue")
VOCABULARY = (PreprocessStep("vocabulary", "colour", values=WORDS, unknown=3),)
COLOURS = column("red", "blue", "green", "pink", "red")


def coloured(*ids: int) -> tuple[Finding, ...]:
    return held(VOCABULARY, COLOUR, {"colour": COLOURS}, {"colour": np.array(ids)})


def test_the_vocabulary_of_training_passes() -> None:
    assert coloured(0, 2, 1, 3, 0) == ()


def test_a_shifted_vocabulary_is_told() -> None:
    name, message = cause(coloured(1, 3, 2, 0, 1))
    assert name == "vocabulary_shifted"
    assert "training's ids are shifted by +1" in message


def test_a_vocabulary_in_another_order_is_told_by_its_values() -> None:
    name, message = cause(coloured(2, 0, 1, 3, 2))
    assert name == "vocabulary"
    assert "'red' is 2 in training and 0 here, 'blue' is 0 in training and 2 here" in message


def test_other_ids_of_rows_that_all_differ_are_a_vocabulary_and_no_order_of_rows() -> None:
    findings = held(VOCABULARY, COLOUR, {"colour": column("red", "green", "blue")}, {"colour": np.array([1, 2, 0])})
    assert cause(findings)[0] == "vocabulary"


def test_another_id_for_the_unknown_is_told() -> None:
    name, message = cause(coloured(0, 2, 1, -1, 0))
    assert name == "unknown_id"
    assert "values that are not in the vocabulary ('pink') id -1" in message


# --- texts --------------------------------------------------------------------------------------------------------

LONG = "on the calm sea a ship sails and sails and on that day the sea at the ship"
TEXTS = ("the ship sails", "sea", "the calm sea and the ship", "a ship at sea on a calm day", LONG)
LENGTH = 10
TOKENS = of(TensorSpec("ids", DType.INT64, ("batch", LENGTH)), TensorSpec("mask", DType.INT64, ("batch", LENGTH)))
TOKENIZE = (PreprocessStep("tokenize", "ids", source="text", file="tokenizer.json", mask="mask", truncate=True),)


def tokenizer(shift: int = 0, special: bool = True) -> Tokenizer:
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: 10 + shift + index for index, word in enumerate(words)}
    made = Tokenizer(
        models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, **vocabulary}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    made.enable_truncation(LENGTH)
    made.enable_padding(length=LENGTH, pad_id=0)
    return made


def tokenized(made: Tokenizer, folder: Path, mask: bool = True) -> tuple[Finding, ...]:
    tokenizer().save(str(folder / "tokenizer.json"))
    encoded = made.encode_batch(list(TEXTS))
    fed = {"ids": np.array([row.ids for row in encoded])}
    if mask:
        fed["mask"] = np.array([row.attention_mask for row in encoded])
    return held(TOKENIZE, TOKENS, {"text": column(*TEXTS)}, fed, folder)


def test_the_tokenizer_of_training_passes(tmp_path: Path) -> None:
    assert tokenized(tokenizer(), tmp_path) == ()


def test_other_padding_is_told(tmp_path: Path) -> None:
    padded, left = tokenizer(), tokenizer()
    padded.enable_padding(length=LENGTH, pad_id=9)
    left.enable_padding(length=LENGTH, pad_id=0, direction="left")
    name, message = cause(tokenized(padded, tmp_path))
    assert name == "padding_id"
    assert "training padded with the id 9, the declared step 0" in message
    assert cause(tokenized(left, tmp_path, mask=False))[0] == "padding_side"


def test_another_mask_is_a_finding_of_its_own(tmp_path: Path) -> None:
    left = tokenizer()
    left.enable_padding(length=LENGTH, pad_id=0, direction="left")
    assert [finding.evidence["input"] for finding in tokenized(left, tmp_path)] == ["ids", "mask"]


def test_missing_special_tokens_are_told(tmp_path: Path) -> None:
    name, message = cause(tokenized(tokenizer(special=False), tmp_path, mask=False))
    assert name == "special_tokens"
    assert "lack the 1 special tokens in front" in message


def test_another_vocabulary_is_told_with_the_first_text(tmp_path: Path) -> None:
    name, message = cause(tokenized(tokenizer(shift=5), tmp_path))
    assert name == "tokenizer"
    assert "training cut 'the ship sails' into other tokens: at place 1" in message


def test_a_text_that_was_cut_otherwise_is_told(tmp_path: Path) -> None:
    made = tokenizer()
    made.enable_truncation(LENGTH, direction="left")
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    texts = list(TEXTS)
    fed = {"ids": np.array([row.ids for row in made.encode_batch(texts)])}
    findings = held(TOKENIZE, TOKENS, {"text": column(*texts)}, fed, tmp_path)
    assert cause(findings)[0] == "truncation"


def test_a_batch_of_another_length_is_told_by_its_shape(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    (finding,) = held(TOKENIZE, TOKENS, {"text": column(*TEXTS)}, {"ids": np.zeros((5, 7), np.int64)}, tmp_path)
    assert "training's has the shape [5, 7] for 5 rows, the declared steps give [5, 10]" in finding.message


@pytest.mark.parametrize(
    ("steps", "x", "said"),
    [
        ((PreprocessStep("impute", "x", fill=(0.0,)),), np.ones((2, 3)), "impute of 'x' (no value is missing)"),
        ((PreprocessStep("clip", "x", min=0, max=2),), np.ones((2, 3)), "clip of 'x' (no value lies beyond its ends)"),
        ((PreprocessStep("clip", "x", min=0, max=2),), np.full((2, 3), 2.5), None),
        ((PreprocessStep("impute", "x", fill=(2.0,)),), np.full((2, 3), np.nan), None),
    ],
)
def test_rows_that_show_nothing_of_a_step_are_remarked(
    steps: tuple[PreprocessStep, ...], x: np.ndarray, said: str | None
) -> None:
    x = x.astype(np.float32)
    ready = np.clip(np.where(np.isnan(x), np.float32(2), x), 0, 2)
    findings = held(steps, TABLE, {"x": x, "absent": ready}, {"x": ready})
    assert [finding.code for finding in findings] == ([] if said is None else ["PARITY_PREPROCESS_NOT_SHOWN"])
    for finding in findings:
        assert finding.verdict is Verdict.PASSED
        assert finding.message.endswith(f"do not show what training does in {said}")


def test_a_vocabulary_without_an_unknown_value_and_texts_that_are_not_cut_are_remarked(tmp_path: Path) -> None:
    (finding,) = held(VOCABULARY, COLOUR, {"colour": column("red")}, {"colour": np.array([0])})
    assert "vocabulary of 'colour' (no value is unknown)" in finding.message
    short = {"text": column(*TEXTS[:2])}
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    ids = np.array([row.ids for row in tokenizer().encode_batch(list(TEXTS[:2]))])
    (finding,) = held(TOKENIZE, TOKENS, short, {"ids": ids}, tmp_path)
    assert "tokenize of 'ids' (no text is cut)" in finding.message


def test_without_what_training_fed_there_is_nothing_to_say() -> None:
    assert held(VOCABULARY, COLOUR, {"colour": COLOURS}, {}) == ()
