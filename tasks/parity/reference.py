"""What the source model says about a pool, and how far an export may lie from it.

In: the source, and a pool's model inputs. Out: a `Reference` per pool. The source is asked once for every row, and for
some rows again under every condition that changes only rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Tolerance
from tasks.contracts import Finding, Owner, Verdict
from tasks.parity.compare import Allowance
from tasks.parity.edges import MOST_ON_EDGE
from tasks.parity.inputs import Pool
from tasks.parity.source import AskedSource, as_declared
from tasks.parity.tolerance import AGAIN, ALONE, FLOAT64, REVERSED, Noise, Probe, measure, unit_roundoff

#: Rows of a pool that are asked for again under every condition: the largest noise of so many rows is, for normally
#: distributed noise, within a quarter of that of a hundred times as many (√(2·ln n) grows that slowly).
_PROBED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """The source's answers to every row of a pool, and the noise of each output; `probed` are the rows it is from.

    For exports of reduced precision `noise` is the format's, `steady` the source's own, to which the same question
    again must give the same answer, and `clipped` are rows beyond the calibrated range (`tasks.parity.coarse`).
    `whole` is how far each value of a whole-number output may lie from `answers`, where that is a rounded float.
    """

    answers: Mapping[str, NDArray[Any]]
    noise: Mapping[str, Noise]
    probed: NDArray[np.int64]
    steady: Mapping[str, Noise] | None = None
    clipped: NDArray[np.int64] | None = None
    whole: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def allowance(self, output: str, rows: NDArray[np.int64]) -> Allowance:
        """How far an export's answers to these rows may lie from `answers`."""
        whole = self.whole.get(output)
        return self.noise[output].allowance if whole is None else Allowance(whole[rows], 0.0)

    def tolerance(self, output: str) -> Tolerance:
        """That as one pair of numbers for the whole output, as loose as its loosest value."""
        whole = self.whole.get(output)
        return self.noise[output].tolerance if whole is None else Tolerance(float(whole.max(initial=0.0)), 0.0)

    def edges(self) -> NDArray[np.int64]:
        """Rows that stand on an edge in any output, as far as they were probed, or beyond the calibrated range."""
        marked = [self.probed[noise.edges] for noise in self.noise.values()]
        marked += [] if self.clipped is None else [self.clipped]
        return np.unique(np.concatenate(marked))


def reference(
    asked: AskedSource, inputs: Mapping[str, NDArray[Any]], terms: int, generator: np.random.Generator
) -> Reference:
    """Ask the source about a pool.

    Raises:
        SourceFailed: it cannot answer all rows, or not as the spec says.
    """
    outputs = asked.signature.outputs
    answers = as_declared(asked.answer(inputs), outputs)
    rows = len(next(iter(inputs.values())))
    probed = np.unique(np.linspace(0, rows - 1, min(rows, _PROBED_ROWS)).astype(np.int64))
    units = {tensor.name: unit_roundoff(asked.signature, tensor) for tensor in outputs}
    probes = asked.probes(
        {name: array[probed] for name, array in inputs.items()},
        {name: array[probed] for name, array in answers.items()},
        max(units.values()),
        generator,
    )
    noise = {}
    for tensor in outputs:
        own, values = answers[tensor.name][probed], answers[tensor.name].size
        found = measure(own, probes, tensor, units[tensor.name], terms, values)
        if found.unstable.get(FLOAT64, 0) > MOST_ON_EDGE * len(probed):
            # A twin that loses half of the digits computes something else (constants that stayed in float32, code
            # that asks for dtypes): it is no reference.
            found = measure(own, _without_twin(probes), tensor, units[tensor.name], terms, values)
        noise[tensor.name] = found
    return Reference(answers, noise, probed)


def usable_rows(asked: AskedSource, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Which made-up rows the source answers with finite numbers; others (a mask that hides everything) ask nothing.

    Raises:
        SourceFailed: it cannot answer all rows, or not as the spec says.
    """
    answers = as_declared(asked.answer(inputs), asked.signature.outputs)
    fine = np.ones(len(next(iter(inputs.values()))), dtype=bool)
    for array in answers.values():
        if array.dtype.kind == "f":
            fine &= np.isfinite(array).reshape(len(fine), -1).all(axis=1)
    return np.flatnonzero(fine)


def left_out(pool: Pool, rows: int, reason: str = "it answers them with NaN or infinity") -> Finding:
    """A remark: so many made-up rows were not compared."""
    return Finding(
        code="PARITY_ROWS_LEFT_OUT",
        owner=Owner.MODEL,
        verdict=Verdict.PASSED,
        message=f"{rows} of {pool.rows} {pool.name} rows are none that the source model can answer: {reason}",
        advice="nothing, if such inputs cannot occur; otherwise add rows like them to the evaluation data",
        evidence={"pool": pool.name, "rows": rows},
    )


def source_failed(pool: Pool, reason: str) -> Finding:
    """The source cannot answer what model.yaml promises."""
    return Finding(
        code="PARITY_SOURCE_FAILED",
        owner=Owner.MODEL,
        message=f"on the {pool.name} rows, {reason}",
        advice="the source model must answer everything that model.yaml promises: correct the dtypes, shapes and "
        "ranges there, or the model",
        evidence={"pool": pool.name, **pool.lengths},
    )


def _without_twin(probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
    return tuple(probe for probe in probes if probe.condition != FLOAT64)


def source_findings(pool: str, found: Reference) -> list[Finding]:
    """Why nothing can be compared with this source: it does not agree with itself."""
    findings = []
    for name, noise in found.noise.items():
        limit = MOST_ON_EDGE * len(found.probed)
        unsteady = {condition: count for condition, count in noise.unstable.items() if count > limit}
        if AGAIN in unsteady:
            findings.append(
                _unsteady_source(
                    "PARITY_SOURCE_NOT_DETERMINISTIC",
                    Verdict.FAILED,
                    f"the source model itself gives output {name!r} differently when the same batch is asked again",
                    "put the source into inference mode (dropout, sampling and noise off) and hand it over again",
                    pool,
                    unsteady,
                    len(found.probed),
                )
            )
        elif ALONE in unsteady or REVERSED in unsteady:
            findings.append(
                _unsteady_source(
                    "PARITY_SOURCE_BATCH_DEPENDENT",
                    Verdict.FAILED,
                    f"output {name!r} of the source model depends on the rows beside it in the batch",
                    "nothing may be computed over the batch dimension: the server batches requests of different "
                    "clients; use normalisation in inference mode, and check the axis of sums and softmaxes",
                    pool,
                    unsteady,
                    len(found.probed),
                )
            )
        elif int(noise.edges.sum()) > limit:
            findings.append(
                _unsteady_source(
                    "PARITY_SOURCE_UNSTABLE",
                    Verdict.INCONCLUSIVE,
                    f"for {int(noise.edges.sum())} of {len(found.probed)} {pool} rows, moving the inputs by a few "
                    f"units in the last place changes output {name!r} of the source model by more than half of its "
                    "digits",
                    "no export can be told from another on such rows: scale the inputs, avoid differences of large "
                    "numbers, or compute in float64",
                    pool,
                    {**unsteady, "edges": int(noise.edges.sum())},
                    len(found.probed),
                )
            )
    return findings


def _unsteady_source(
    code: str, verdict: Verdict, message: str, advice: str, pool: str, counts: Mapping[str, int], rows: int
) -> Finding:
    return Finding(
        code=code,
        owner=Owner.MODEL,
        verdict=verdict,
        message=message,
        advice=advice,
        evidence={
            "pool": pool,
            "probed_rows": rows,
            **{f"rows changed: {name}": count for name, count in counts.items()},
        },
    )
