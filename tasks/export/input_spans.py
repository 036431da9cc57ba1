"""Which whole numbers an input of the model can hold, once the server has checked a request and preprocessed it.

In: the signature, and the preprocessing made ready. Out: a span for each input; for the formats whose files end their
process with an index that is not there, rather than say so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from serving.contract import DType, PreprocessStep, TensorSpec
from serving.preprocess import Preprocessing, feeds
from serving.preprocess.categories import ids
from serving.preprocess.text import token_spans


class Span(NamedTuple):
    """The least and the greatest value, both included; infinite where nothing bounds them."""

    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.least:.0f} to {self.greatest:.0f}"


ANYTHING = Span(-np.inf, np.inf)
YES_OR_NO = Span(0, 1)


def declared_span(tensor: TensorSpec) -> Span:
    """What `range` and the dtype leave of all numbers. Floats have none: NaN, cast to an integer, is any number."""
    if tensor.dtype is DType.BOOL:
        return YES_OR_NO
    if tensor.dtype is DType.STRING or tensor.dtype.is_float:
        return ANYTHING
    limits = np.iinfo(tensor.dtype.numpy)
    least, greatest = tensor.range or (None, None)
    return Span(
        limits.min if least is None else max(least, limits.min),
        limits.max if greatest is None else min(greatest, limits.max),
    )


def spans_after(preprocessing: Preprocessing) -> dict[str, Span]:
    """The spans of the inputs that steps make of something else than their numbers.

    What the spec declares of those is about what clients send; a `cast` leaves the numbers as they are.
    """
    tensors = {tensor.name: tensor for tensor in preprocessing.signature.inputs}
    spans: dict[str, Span] = {}
    for step in preprocessing.steps:
        if step.op != "cast":
            spans |= _made(step, tensors[step.input], preprocessing)
    return spans


def _made(step: PreprocessStep, tensor: TensorSpec, preprocessing: Preprocessing) -> dict[str, Span]:
    """Of the step's own input, and of those that it fills beside it."""
    if step.op == "tokenize":
        given = {"ids": step.input, **feeds(step)}
        ends = token_spans(step, preprocessing.folder)
        return {name: Span(*ends[key]) for key, name in given.items()}
    beside = dict.fromkeys(feeds(step).values(), YES_OR_NO)  # whether a value was missing
    if step.op == "vocabulary":
        known = [*ids(step, tensor, preprocessing.folder).values()]
        known += [] if step.unknown is None else [step.unknown]
        return {step.input: Span(min(known), max(known)), **beside}
    return {step.input: declared_span(replace(tensor, range=None)), **beside}
