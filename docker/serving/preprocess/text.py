"""Text to token ids: `tokenize`, with a tokenizer.json as Hugging Face's tokenizers write it.

    {op: tokenize, input: input_ids, source: text, file: tokenizer.json, max_length: 128, truncate: true,
     mask: attention_mask, type_ids: token_type_ids}

Ids are padded to `max_length` (`padding: max_length`, the default where the model's length is fixed) or to the longest
text of the request (`padding: longest`, the default where it is dynamic, never below its least size). A text of more
than `max_length` tokens, which is the model's own length unless given, is cut with `truncate: true` and else refused.
`mask` and `type_ids` name further inputs of the model: 1 for tokens and 0 for padding, and the tokens' segment. The id
of the padding is the tokenizer's own; `pad_id` says it where the file does not. The side of padding and of truncation
is the tokenizer's own; right where the file does not say it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Padding, PreprocessStep, Signature, TensorSpec
from serving.preprocess.operation import BadFile, BadRow, Found, Operation, Run, feeds, read_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: What padding tokens are called in the tokenizers that are around (BERT, RoBERTa, Llama), where none is declared.
_PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>")


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many tokens a row has at least and at most, and whether all rows have the most."""

    least: int
    most: int
    fixed: bool


def lengths_of(step: PreprocessStep, tensor: TensorSpec, signature: Signature) -> Lengths:
    """From the model's declared length and the step's arguments."""
    size = tensor.shape[1]
    span = signature.dynamic.get(size) if isinstance(size, str) else None
    least, most = (span.min, span.max) if span else (int(size), int(size))
    if span is None:
        return Lengths(least, step.max_length or most, fixed=True)
    most = step.max_length or most
    return Lengths(least, most, fixed=step.padding is Padding.MAX_LENGTH)


def _check(step: PreprocessStep, tensor: TensorSpec, signature: Signature) -> Found:
    if tensor.dtype.numpy.kind not in "iu":
        yield "input", f"token ids are whole numbers, {tensor.name!r} is declared {tensor.dtype.value}"
    if step.file is None:
        yield "file", "tokenize needs file: the path of a tokenizer.json beside the spec"
    if len(tensor.shape) != 2 or not isinstance(tensor.shape[0], str):
        yield "input", f"token ids have the shape [batch, length], {tensor.name!r} has {len(tensor.shape)} dimensions"
        return
    size = tensor.shape[1]
    span = signature.dynamic.get(size) if isinstance(size, str) else None
    low, high = (span.min, span.max) if span else (1, size)
    if step.max_length is not None and isinstance(high, int) and not low <= step.max_length <= high:
        yield "max_length", f"must lie between {low} and {high}, the length of {tensor.name!r}"
    if step.padding is Padding.LONGEST and isinstance(size, int):
        yield "padding", f"the length of {tensor.name!r} is fixed at {size}, so texts are padded to it; remove it"
    others = {other.name: other for other in signature.inputs}
    for key, name in feeds(step).items():
        other = others.get(name)
        if other is not None and other.shape != tensor.shape:
            yield key, f"{name!r} must have the shape of {tensor.name!r}"
        if other is not None and other.dtype.numpy.kind not in "biuf":
            yield key, f"{name!r} must be numbers, it is declared {other.dtype.value}"


def _tokenize(step: PreprocessStep, tensor: TensorSpec, signature: Signature, folder: Path | None) -> Run:
    tokenizer = _opened(step, folder)
    lengths = lengths_of(step, tensor, signature)
    padding, truncation = tokenizer.padding or {}, tokenizer.truncation or {}
    pad_id, left = _pad_id(step, tokenizer), padding.get("direction") == "left"
    width = int(tensor.shape[1]) if isinstance(tensor.shape[1], int) else lengths.most
    tokenizer.no_padding()
    if step.truncate:
        tokenizer.enable_truncation(
            lengths.most,
            stride=0,
            strategy=truncation.get("strategy", "longest_first"),
            direction=truncation.get("direction", "right"),
        )
    else:
        tokenizer.no_truncation()
    dtypes = {other.name: other.dtype.numpy for other in signature.inputs}
    largest = max(tokenizer.get_vocab_size(with_added_tokens=True) - 1, pad_id)
    if largest > np.iinfo(tensor.dtype.numpy).max:
        raise BadFile(f"{step.file} has ids up to {largest}, which do not fit into {tensor.dtype.value}")
    name = step.source or step.input

    def run(array: NDArray[Any], others: dict[str, Any]) -> NDArray[Any]:
        encoded = tokenizer.encode_batch_fast(array.tolist())
        longest = max((len(row.ids) for row in encoded), default=0)
        if longest > lengths.most:
            row = next(row for row, each in enumerate(encoded) if len(each.ids) > lengths.most)
            found = f"found {len(encoded[row].ids)}, and truncate is not declared"
            raise BadRow(name, row, f"a text has at most {lengths.most} tokens, {found}")
        size = width if lengths.fixed else max(longest, lengths.least)
        ids = np.full((len(encoded), size), pad_id, dtype=tensor.dtype.numpy)
        further = {key: np.zeros(ids.shape, dtype=dtypes[fed]) for key, fed in feeds(step).items()}
        for row, each in enumerate(encoded):
            count = len(each.ids)
            place = slice(size - count, size) if left else slice(0, count)
            ids[row, place] = each.ids
            if "mask" in further:
                further["mask"][row, place] = 1
            if "type_ids" in further:
                further["type_ids"][row, place] = each.type_ids
        others.update({fed: further[key] for key, fed in feeds(step).items()})
        return ids

    return run


def token_spans(step: PreprocessStep, folder: Path | None) -> dict[str, tuple[int, int]]:
    """The least and the greatest number that a text can give: of its `ids`, its `mask` and its `type_ids`.

    Segments come from the tokenizer's template, which is the same for every text.

    Raises:
        BadFile: the file holds no tokenizer.
    """
    tokenizer = _opened(step, folder)
    tokenizer.no_padding()
    known = [*tokenizer.get_vocab(with_added_tokens=True).values(), _pad_id(step, tokenizer), 0]
    segments = [*tokenizer.encode("a").type_ids, 0]
    return {"ids": (min(known), max(known)), "mask": (0, 1), "type_ids": (min(segments), max(segments))}


def _opened(step: PreprocessStep, folder: Path | None) -> Tokenizer:
    content = read_file(step, folder)
    # The library's own threads would follow the host's cores, and requests already run side by side.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        json.loads(content)
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises plain Exception for what it cannot read
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadFile(f"{step.file} is not a tokenizer.json that can be read: {reason}") from error


def _pad_id(step: PreprocessStep, tokenizer: Tokenizer) -> int:
    if step.pad_id is not None:
        return step.pad_id
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    for token in _PAD_TOKENS:
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    raise BadFile(f"{step.file} does not say what texts are padded with; give pad_id")


def _raw(_step: PreprocessStep, tensor: TensorSpec) -> TensorSpec:
    return TensorSpec(tensor.name, DType.STRING, tensor.shape[:1])


TOKENIZE = Operation(
    frozenset({"file", "source", "max_length", "truncate", "padding", "pad_id", "mask", "type_ids"}),
    _check,
    _tokenize,
    raw=_raw,
    first=True,
    extra="text",
)
