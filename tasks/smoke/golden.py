"""Golden samples: raw inputs with the source model's answers, and how an answer over the wire is held against them.

In: the `.npz` that parity stored (`serving.golden`), the signature, a tolerance per output. Out: requests of any batch
size, and for an answer either nothing to say or one clause about what is wrong.
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
from serving.golden import Margin, differences, margins
from serving.golden import read_golden as read_arrays
from tasks.contracts import ParityReport
from tasks.load.client import Reply
from tasks.smoke.protocol import Body, NotTheProtocol, decode_response, encode_request
from tasks.store import Store, fetch


class NoGolden(Exception):
    """There is nothing to hold the image's answers against; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, and what must come back."""

    batch: int
    body: Body
    expected: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is wrong with one answer, if anything is, and how near each output is to being wrong."""

    complaint: str | None
    margins: Mapping[str, Margin]


@dataclass(frozen=True, slots=True)
class GoldenSamples:
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
        inputs, outputs = self.inputs, self.outputs
        if self.raw.batch is not None:
            rows = np.arange(start, start + batch) % self.rows
            inputs = {name: array[rows] for name, array in inputs.items()}
            outputs = {name: array[rows] for name, array in outputs.items()}
        return Sample(batch, encode_request(inputs, outputs, self.raw), outputs)

    def complaint(self, reply: Reply, expected: Mapping[str, NDArray[Any]]) -> str | None:
        """What is wrong with an answer, as one clause; None when it is what the source model said."""
        return self.compare(reply, expected).complaint

    def compare(self, reply: Reply, expected: Mapping[str, NDArray[Any]]) -> Comparison:
        """An answer against the source model's."""
        try:
            answer = decode_response(reply.body, self.raw, reply.json_bytes)
        except NotTheProtocol as error:
            return Comparison(f"it does not follow the protocol: {error}", {})
        complaint = "; ".join(differences(answer, expected, self.tolerances)) or None
        return Comparison(complaint, margins(answer, expected, self.tolerances))


def read_golden(report: ParityReport, raw: Signature, store: Store, work: Path) -> GoldenSamples:
    """The golden samples of a parity report, fetched into the folder `work`.

    Raises:
        NoGolden: there are none, or they lack an input, an output or a tolerance of the signature.
        CorruptObject: the store's bytes no longer match their digest.
    """
    if report.golden is None:
        raise NoGolden("the parity report has no golden samples")
    try:
        found = read_arrays(fetch(store, report.golden, work / "golden.npz"))
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise NoGolden(f"{report.golden.path} is not an .npz of golden samples ({error})") from error
    for kind, have, tensors in (("input", found.inputs, raw.inputs), ("output", found.outputs, raw.outputs)):
        if sorted(have) != sorted(tensor.name for tensor in tensors):
            raise NoGolden(f"{report.golden.path} has the {kind}s {sorted(have)}, which are not the signature's")
    tolerances = {output.name: output.tolerance for output in report.outputs}
    for tensor in raw.outputs:
        if tensor.name not in tolerances:
            raise NoGolden(f"the parity report has no tolerance for output {tensor.name!r}")
    if raw.batch is not None:
        lengths = {array.shape[0] if array.ndim else 0 for array in (*found.inputs.values(), *found.outputs.values())}
        if len(lengths) != 1 or lengths == {0}:
            raise NoGolden(f"{report.golden.path} has arrays of {sorted(lengths)} rows")
    return GoldenSamples(found.inputs, found.outputs, tolerances, raw)


def batch_sizes(signature: Signature, max_batch: int) -> tuple[int, ...]:
    """The batch sizes to ask for: 1, 2, 3, 7 and the largest, as far as the signature and `max_batch` allow them."""
    if signature.batch is None:
        return (1,)
    allowed = signature.dynamic[signature.batch]
    largest = max(allowed.min, min(allowed.max, max_batch))
    return tuple(sorted({size for size in (1, 2, 3, 7, allowed.min, largest) if allowed.min <= size <= largest}))
