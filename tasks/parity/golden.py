"""Golden samples: raw inputs as clients send them, and the source model's answers, for the image and for smoke.

In: the evaluation pool and the source's answers to it. Out: the bytes of an `.npz` with `input/<name>` and
`output/<name>`; the same content gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.parity.arrays import npz_bytes

#: Enough for every batch size that smoke asks for to hold different rows, small enough to lie in every image.
GOLDEN_ROWS = 16


def golden_rows(
    raw: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]], edges: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which rows to take: spread over all that are finite and stand on no edge; any, where there is none such."""
    rows = len(next(iter(answers.values())))
    good = np.ones(rows, dtype=bool)
    good[edges] = False
    for array in (*raw.values(), *answers.values()):
        if array.dtype.kind == "f":
            good &= np.isfinite(array).reshape(rows, -1).all(axis=1)
    chosen = np.flatnonzero(good) if good.any() else np.arange(rows)
    places = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), GOLDEN_ROWS)).astype(np.int64))
    return np.asarray(chosen[places], dtype=np.int64)


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
