"""Texts become token ids: held against the tokenizers library's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from serving.contract import DimRange, DType, Padding, PreprocessStep, Signature, TensorSpec
from serving.preprocess import BadRow, Preprocessing, apply, extras, file_problems, problems
from tests.unit.serving.preprocess.conftest import column, signature

TEXTS = ["a good day", "the sea is calm and the ship sails", "bad", ""]


def tokenizer(**padding: Any) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=80, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]"], show_progress=False
    )
    made.train_from_iterator(TEXTS * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    if padding:
        made.enable_padding(**padding)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer(direction="left", pad_id=3).save(str(folder / "left.json"))
    return folder


def of(length: int | str) -> Signature:
    return signature(
        TensorSpec("input_ids", DType.INT64, ("batch", length)),
        TensorSpec("attention_mask", DType.INT64, ("batch", length)),
        **({"sequence": DimRange(4, 16)} if length == "sequence" else {}),
    )


def step(**arguments: Any) -> PreprocessStep:
    given: dict[str, Any] = {"file": "tokenizer.json", "source": "text", "mask": "attention_mask", **arguments}
    return PreprocessStep("tokenize", "input_ids", **given)


def test_clients_send_texts_and_neither_ids_nor_mask(folder: Path) -> None:
    raw = Preprocessing((step(),), of(16), folder).raw
    assert raw.inputs == (TensorSpec("text", DType.STRING, ("batch",)),)


def test_ids_and_mask_are_the_librarys_own(folder: Path) -> None:
    answer = apply((step(),), {"text": column(*TEXTS)}, of(16), folder)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.enable_padding(pad_id=3, length=16)
    encoded = library.encode_batch(TEXTS)
    assert answer["input_ids"].tolist() == [row.ids for row in encoded]
    assert answer["attention_mask"].tolist() == [row.attention_mask for row in encoded]
    assert "text" not in answer


def test_a_dynamic_length_is_that_of_the_longest_text_and_never_below_the_least(folder: Path) -> None:
    preprocessing = Preprocessing((step(),), of("sequence"), folder)
    assert preprocessing({"text": column("", "bad")})["input_ids"].shape == (2, 4)
    longest = max(len(tokenizer().encode(text).ids) for text in TEXTS)
    assert preprocessing({"text": column(*TEXTS)})["input_ids"].shape == (4, longest)


def test_all_texts_are_padded_to_the_same_length_where_that_is_declared(folder: Path) -> None:
    preprocessing = Preprocessing((step(padding=Padding.MAX_LENGTH, max_length=12),), of("sequence"), folder)
    assert preprocessing({"text": column("bad")})["input_ids"].shape == (1, 12)


def test_padding_goes_where_the_tokenizer_puts_it(folder: Path) -> None:
    answer = apply((step(file="left.json"),), {"text": column("bad")}, of(16), folder)
    assert answer["attention_mask"][0, 0] == 0
    assert answer["attention_mask"][0, -1] == 1
    assert answer["input_ids"][0, 0] == 3


def test_a_long_text_is_cut_with_its_special_tokens_kept(folder: Path) -> None:
    answer = apply((step(truncate=True, max_length=6),), {"text": column(TEXTS[1])}, of(16), folder)["input_ids"]
    assert answer.shape == (1, 16)
    assert (answer[0, 0], answer[0, 5], set(answer[0, 6:].tolist())) == (1, 2, {3})


def test_a_long_text_is_refused_with_its_row_where_cutting_is_not_declared(folder: Path) -> None:
    with pytest.raises(BadRow, match=r"input 'text': row 1: a text has at most 6 tokens, found \d+"):
        apply((step(max_length=6),), {"text": column("bad", TEXTS[1])}, of(16), folder)


def test_segments_are_given_where_the_model_takes_them(folder: Path) -> None:
    three = signature(*(TensorSpec(name, DType.INT32, ("batch", 8)) for name in ("input_ids", "mask", "segments")))
    answer = apply((step(mask="mask", type_ids="segments", truncate=True),), {"text": column("bad")}, three, folder)
    assert answer["segments"].tolist() == [[0] * 8]
    assert answer["input_ids"].dtype == np.int32


def test_a_batch_is_its_texts_one_by_one(folder: Path) -> None:
    preprocessing = Preprocessing((step(),), of(16), folder)
    alone = [preprocessing({"text": column(text)})["input_ids"] for text in TEXTS]
    assert np.array_equal(preprocessing({"text": column(*TEXTS)})["input_ids"], np.concatenate(alone))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "none.json cannot be read: No such file or directory"),
        ("{", "none.json is not a tokenizer.json that can be read"),
        ("{}", "none.json is not a tokenizer.json that can be read"),
    ],
)
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "none.json").write_text(content)
    (problem,) = file_problems(of(16), (step(file="none.json"),), tmp_path)
    assert problem.message.startswith(message)


def test_a_tokenizer_that_does_not_say_what_it_pads_with_needs_pad_id(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    (problem,) = file_problems(of(16), (step(),), tmp_path)
    assert problem.message == "tokenizer.json does not say what texts are padded with; give pad_id"
    answer = apply((step(pad_id=9),), {"text": column("a")}, of(4), tmp_path)
    assert answer["input_ids"].tolist() == [[0, 9, 9, 9]]


def test_ids_that_do_not_fit_the_models_dtype_are_named(tmp_path: Path) -> None:
    vocabulary = {f"w{index}": index for index in range(300)} | {"[PAD]": 300}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    small = signature(TensorSpec("input_ids", DType.UINT8, ("batch", 4)))
    (problem,) = file_problems(small, (step(mask=None),), tmp_path)
    assert problem.message == "tokenizer.json has ids up to 300, which do not fit into uint8"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((step(file=None),), "tokenize needs file"),
        ((step(max_length=17),), "must lie between 1 and 16, the length of 'input_ids'"),
        ((step(padding=Padding.LONGEST),), "the length of 'input_ids' is fixed at 16, so texts are padded to it"),
        ((step(mask="nowhere"),), "no input 'nowhere'"),
        ((step(), step()), "a tokenize must be the first step"),
    ],
)
def test_a_tokenize_that_makes_no_sense_is_named(steps: tuple[PreprocessStep, ...], message: str) -> None:
    assert any(message in problem.message for problem in problems(of(16), steps))


def test_texts_need_tokenizers_and_say_so() -> None:
    assert extras((step(),)) == ("text",)
