"""Golden samples: raw inputs with the source model's answers, and how an answer over the wire is held against them.

In: the `.npz` that parity stored (`input/<name>`, `output/<name>`), the signature, a tolerance per output.
Out: requests of any batch size, and for an answer either nothing to say or one sentence about what is wrong.

Comparison is strict: names, dtypes and shapes as they are, no broadcasting, NaN equals only NaN, infinity only the
same infinity, and `|answer - expected| <= atol + rtol * |expected|` in float64 otherwise.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, Tolerance
from tasks.contracts import ParityReport
from tasks.smoke.protocol import NotTheProtocol, decode_response, encode_request
from tasks.store import Store, fetch


class NoGolden(Exception):
    """There is nothing to hold the image's answers against; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, and what must come back."""

    batch: int
    payload: bytes
    expected: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Golden:
    """Raw inputs and the source model's answers, by name. `raw` is the signature as clients see it."""

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    tolerances: Mapping[str, Tolerance]
    raw: Signature

    @property
    def rows(self) -> int:
        """Samples that can be asked for one by one; 1 where the model has no batch dimension."""
        if self.raw.batch is None:
            return 1
        return int(next(iter(self.inputs.values())).shape[0])

    def sample(self, start: int, batch: int) -> Sample:
        """`batch` rows from `start` on, taken round the end; the whole where there is no batch dimension."""
        if self.raw.batch is None:
            return Sample(1, encode_request(self.inputs, self.raw), self.outputs)
        rows = np.arange(start, start + batch) % self.rows
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return Sample(
            batch, encode_request(inputs, self.raw), {name: array[rows] for name, array in self.outputs.items()}
        )

    def complaint(self, body: bytes, expected: Mapping[str, NDArray[Any]]) -> str | None:
        """What is wrong with an answer, as one clause; None when it is what the source model said."""
        try:
            answer = decode_response(body, self.raw)
        except NotTheProtocol as error:
            return f"it does not follow the protocol: {error}"
        for name, wanted in expected.items():
            if found := difference(answer[name], wanted, self.tolerances[name]):
                return f"output {name!r} {found}"
        return None


def read_golden(report: ParityReport, raw: Signature, store: Store, work: Path) -> Golden:
    """The golden samples of a parity report, fetched into the folder `work`.

    Raises:
        NoGolden: there are none, or they lack an input, an output or a tolerance of the signature.
        CorruptObject: the store's bytes no longer match their digest.
    """
    if report.golden is None:
        raise NoGolden("the parity report has no golden samples")
    try:
        with np.load(fetch(store, report.golden, work / "golden.npz"), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise NoGolden(f"{report.golden.path} is not an .npz of plain arrays ({error})") from error
    inputs = {tensor.name: arrays.get(f"input/{tensor.name}") for tensor in raw.inputs}
    outputs = {tensor.name: arrays.get(f"output/{tensor.name}") for tensor in raw.outputs}
    tolerances = {output.name: output.tolerance for output in report.outputs}
    for name in (*inputs, *outputs):
        if (inputs | outputs)[name] is None:
            raise NoGolden(f"{report.golden.path} has no array for {name!r}")
    for name in outputs:
        if name not in tolerances:
            raise NoGolden(f"the parity report has no tolerance for output {name!r}")
    golden = Golden(
        {name: array for name, array in inputs.items() if array is not None},
        {name: array for name, array in outputs.items() if array is not None},
        tolerances,
        raw,
    )
    if raw.batch is not None:
        lengths = {array.shape[0] if array.ndim else 0 for array in (*golden.inputs.values(), *golden.outputs.values())}
        if len(lengths) != 1 or lengths == {0}:
            raise NoGolden(f"{report.golden.path} has arrays of {sorted(lengths)} rows")
    return golden


def difference(answer: NDArray[Any], expected: NDArray[Any], tolerance: Tolerance) -> str | None:
    """How two arrays differ beyond `tolerance`, as one clause that starts with a verb; None when they agree."""
    if answer.shape != expected.shape:
        return f"has the shape {list(answer.shape)}, the source model's answer {list(expected.shape)}"
    textual = expected.dtype.kind in "OUS"
    if textual or expected.dtype.kind == "b":
        wrong = np.asarray(answer.astype(object) != expected.astype(object), dtype=bool)
        return _first(wrong, answer, expected) if wrong.any() else None
    ours, theirs = answer.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(ours - theirs) <= tolerance.atol + tolerance.rtol * np.abs(theirs)
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    if expected.dtype.kind in "iu":
        same = answer == expected  # float64 cannot tell large integers apart
        close &= np.asarray((tolerance.atol > 0) or (tolerance.rtol > 0))
    wrong = ~(same | (finite & close))
    return _first(wrong, answer, expected) if wrong.any() else None


def _first(wrong: NDArray[np.bool_], answer: NDArray[Any], expected: NDArray[Any]) -> str:
    index = tuple(int(place) for place in np.argwhere(wrong)[0]) if wrong.ndim else ()
    return (
        f"differs in {int(wrong.sum())} of {wrong.size} values, "
        f"first at {list(index)}: {answer[index]} instead of {expected[index]}"
    )


def batch_sizes(signature: Signature, max_batch: int) -> tuple[int, ...]:
    """The batch sizes to ask for: 1, 2, 3, 7 and the largest, as far as the signature and `max_batch` allow them."""
    if signature.batch is None:
        return (1,)
    allowed = signature.dynamic[signature.batch]
    largest = min(allowed.max, max_batch)
    return tuple(sorted({size for size in (1, 2, 3, 7, allowed.min, largest) if allowed.min <= size <= largest}))


__all__ = ["Golden", "NoGolden", "Sample", "batch_sizes", "difference", "read_golden"]
