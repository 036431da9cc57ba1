"""The loop: batches of a reader, checked, through `Served.predict`, to a writer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DimRange, ServingContract, Signature
from serving.package import Served
from serving.preprocess import BadRow
from serving.score.check import fitting
from serving.score.rows import Reader, Rows, Unscorable, Writer
from serving.tensors import BadRequest


def batch_rows(contract: ServingContract, raw: Signature, asked: int | None) -> int:
    """How many rows the model gets at once: as asked, else the contract's `max_batch`; within the signature's range.

    Raises:
        Unscorable: the model has no rows.
    """
    batch = raw.batch
    if batch is None:
        raise Unscorable("the model has no batch dimension, so a file has no rows for it: send it requests")
    allowed = raw.dynamic.get(batch, DimRange(1, contract.max_batch))
    return max(allowed.min, min(asked or contract.max_batch, allowed.max))


def score(served: Served, reader: Reader, writer: Writer, rows: int, progress: Progress) -> int:
    """Answer every row, in order, at most `rows` at a time; how many there were.

    Raises:
        Unscorable: a row does not fit, with its number and column.
        RunnerError, WrongAnswer: the model failed.
    """
    for batch in checked(reader, served.raw, rows, progress):
        writer.append(_predict(served, batch, progress.rows))
    if not progress.rows:
        writer.append(no_answers(served.contract.signature))
    return progress.rows


def checked(reader: Reader, raw: Signature, rows: int, progress: Progress) -> Iterator[Rows]:
    """A reader's batches that fit; `progress` counts each when the next one is asked for."""
    for batch in reader.batches(rows):
        fitted = fitting(batch, raw, progress.rows + 1)
        yield fitted
        progress.advance(_count(fitted))


def no_answers(signature: Signature) -> dict[str, NDArray[Any]]:
    """The answers to no rows, so that an empty file has an answer that looks like every other."""
    return {
        spec.name: np.empty([0, *(size if isinstance(size, int) else 0 for size in spec.shape[1:])], spec.dtype.numpy)
        for spec in signature.outputs
    }


def _predict(served: Served, batch: Rows, before: int) -> Mapping[str, NDArray[Any]]:
    """The answers; a batch below the model's least is filled up with its last row, whose answers are dropped."""
    try:
        return _answers(served, batch)
    except BadRow as error:
        raise Unscorable(f"row {before + 1 + error.row}, column {error.input}: {error.complaint}") from error
    except BadRequest as error:  # of preprocessing, which sees the batch as a whole: which row is it?
        for index in range(_count(batch)):
            try:
                _answers(served, {name: array[index : index + 1] for name, array in batch.items()})
            except BadRequest as alone:
                raise Unscorable(f"row {before + index + 1}: {alone}") from error
        raise Unscorable(f"row {before + 1} or later: {error}") from error


def _answers(served: Served, batch: Rows) -> Mapping[str, NDArray[Any]]:
    count, least = _count(batch), batch_rows(served.contract, served.raw, 1)
    if count >= least:
        return served.predict(batch)
    filling = {name: np.repeat(array[-1:], least - count, 0) for name, array in batch.items()}
    answers = served.predict({name: np.concatenate([array, filling[name]]) for name, array in batch.items()})
    return {name: array[:count] for name, array in answers.items()}


def _count(batch: Rows) -> int:
    return len(next(iter(batch.values())))


class Progress:
    """Says on standard error how far it is: on a terminal every second, elsewhere a line from time to time."""

    def __init__(self, total: int | None, stream: IO[str] | None = None) -> None:
        self.rows = 0
        self._total = total
        self._stream = stream or sys.stderr
        self._began = self._said = time.monotonic()
        self._each_s = 1.0 if self._stream.isatty() else 10.0

    def advance(self, rows: int) -> None:
        self.rows += rows
        if time.monotonic() - self._said >= self._each_s:
            self._said = time.monotonic()
            of = "" if self._total is None else f" of {self._total:,}"
            self._say(f"{self.rows:,}{of} rows, {self._rate():,.0f} a second")

    def done(self) -> None:
        self._say(f"{self.rows:,} rows in {time.monotonic() - self._began:.1f} s, {self._rate():,.0f} a second\n")

    def _rate(self) -> float:
        return self.rows / max(time.monotonic() - self._began, 1e-9)

    def _say(self, text: str) -> None:
        # On a terminal each takes the place of the one before.
        self._stream.write(f"\r{text}" if self._stream.isatty() else text if text.endswith("\n") else f"{text}\n")
        self._stream.flush()
