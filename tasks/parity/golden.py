"""Golden samples: raw inputs as clients send them, and the source model's answers, for the image and for smoke.

In: the evaluation pool and the source's answers to it. Out: the bytes of an `.npz` with `input/<name>` and
`output/<name>`; the same content gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, Tolerance
from serving.golden import differences, read_golden
from serving.preprocess import Preprocessing
from tasks.contracts import Finding, Owner
from tasks.parity.arrays import npz_bytes
from tasks.parity.source import AskedSource, SourceFailed, as_declared

#: Enough for every batch size that smoke asks for to hold different rows, small enough to lie in every image.
GOLDEN_ROWS = 16


def golden_rows(
    raw: Mapping[str, NDArray[Any]],
    answers: Mapping[str, NDArray[Any]],
    edges: NDArray[np.int64],
    may_miss: Collection[str] = (),
) -> NDArray[np.int64]:
    """Which rows to take: spread over all that are finite and stand on no edge; any, where there is none such.

    In the raw inputs `may_miss` NaN is a value like others, and one row that has one is among the samples.
    """
    rows = len(next(iter(answers.values())))
    good, missing = np.ones(rows, dtype=bool), np.zeros(rows, dtype=bool)
    good[edges] = False
    for array in (array for array in answers.values() if array.dtype.kind == "f"):
        good &= np.isfinite(array).reshape(rows, -1).all(axis=1)
    for name, array in raw.items():
        if array.dtype.kind == "f":
            absent = np.isnan(array) if name in may_miss else np.zeros(array.shape, dtype=bool)
            good &= (np.isfinite(array) | absent).reshape(rows, -1).all(axis=1)
            missing |= absent.reshape(rows, -1).any(axis=1)
    chosen = np.flatnonzero(good) if good.any() else np.arange(rows)
    places = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), GOLDEN_ROWS)).astype(np.int64))
    taken = np.asarray(chosen[places], dtype=np.int64)
    if (good & missing).any() and not missing[taken].any():
        taken[-1] = np.flatnonzero(good & missing)[0]
    return np.sort(taken)


def golden_bytes(
    raw: Mapping[str, NDArray[Any]],
    answers: Mapping[str, NDArray[Any]],
    rows: NDArray[np.int64],
    signature: Signature,
) -> bytes:
    """The `.npz`; answers in the declared dtypes. A fixed leading dimension is filled up to a whole request."""
    fixed = signature.outputs[0].shape[0]
    if isinstance(fixed, int):
        rows = np.resize(rows, fixed)
    arrays = {f"input/{name}": array[rows] for name, array in raw.items()}
    for tensor in signature.outputs:
        arrays[f"output/{tensor.name}"] = answers[tensor.name][rows].astype(tensor.dtype.numpy)
    return npz_bytes(arrays)


def replay(
    path: Path, preprocessing: Preprocessing, source: AskedSource, tolerances: Mapping[str, Tolerance]
) -> tuple[Finding, ...]:
    """Ask the source for each golden sample alone, from its raw form on, as a client of the image will.

    What was asked for together with other rows must be answered alone alike: a text that is padded to the longest
    beside it has another length in every request.
    """
    golden, signature = read_golden(path), preprocessing.signature
    for number, sample in enumerate(golden.batches(preprocessing.raw, 1)):
        try:
            answers = as_declared(source.answer(preprocessing(sample.inputs)), signature.outputs)
        except SourceFailed as failure:
            return (_not_reproduced(number, str(failure)),)
        plain = {tensor.name: answers[tensor.name].astype(tensor.dtype.numpy) for tensor in signature.outputs}
        if found := differences(plain, sample.outputs, tolerances):
            return (_not_reproduced(number, "; ".join(found)),)
    return ()


def _not_reproduced(number: int, what: str) -> Finding:
    return Finding(
        code="PARITY_GOLDEN_NOT_REPRODUCED",
        owner=Owner.MODEL,
        message=f"the source model answers golden sample {number} otherwise when it is asked alone, from its raw form "
        f"on, than among the evaluation rows: {what}",
        advice="what stands beside a row in a request must not change its answer: give the model the attention mask "
        "(mask), or pad all texts to one length (padding: max_length)",
        evidence={"sample": number},
    )
