"""How far a file of reduced precision may lie from its source, measured on the full-precision file behind it.

In: the full-precision ONNX file, what both models are asked, and the source's answers with their own noise. Out: the
same references with the noise of the format, and findings. The full-precision file is asked with rounding of the
format's size put in at random (`tasks.parity.perturbed`), `_DRAWS` times for each probed row; how its answers spread is
what a faithful file of that format may differ by. The file under test has no part in it.

A rounding error of many independent terms is subgaussian with their variance, so that an answer lies further than λ
standard deviations away with probability 2·exp(-λ²/2) (as in `tasks.parity.tolerance`; Higham and Mary 2019); λ makes
that less likely than `FALSE_ALARM` over all compared values. The standard deviation is taken over the draws, for each
row and position, and the largest of all rows counts: a position of an output is as noisy as on its noisiest row.

The same question again has to give the same answer to full precision. Rows asked alone and among others may differ by
the format's noise: dynamic ranges are those of the whole batch, and a last digit decides how a value is rounded.

**Clipping.** Static int8 has no values beyond the range of its calibration rows. Where that moves the full-precision
file's answer by more than the source's noise, the row is compared with the clipped answer and counted: made-up rows
often are such rows, and it is no fault of the exporter. Whether it matters is the metrics' business.

**Whole numbers** that the model makes by rounding a float may be those that it makes of any float within the noise of
the format; classes stay exact (`tasks.parity.whole_numbers`).

Edges of full precision (rows on which the last digit decides) stay what they are; a row that the coarse rounding pushes
over a threshold has to match an answer that the perturbed file gives (`tasks.parity.edges`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from tasks.contracts import Finding, Owner, Verdict
from tasks.export.calibration import MOST_ROWS, spread
from tasks.parity import exported, perturbed
from tasks.parity.compare import Allowance, compare
from tasks.parity.edges import may_be_edges
from tasks.parity.inputs import Batch, Batching, Part, Pool
from tasks.parity.outcomes import Outcome
from tasks.parity.perturbed import Span
from tasks.parity.reference import Reference
from tasks.parity.tolerance import Noise, confidence, evened, scale_of
from tasks.parity.whole_numbers import Rounded, is_continuous, with_unrounded
from tasks.spec import Int8

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, NDArray[Any]]

#: Each gives every probed row one more error. With eight the standard deviation of one row is known to a quarter
#: (1/√16), and the largest over the probed rows errs towards more.
_DRAWS = 8
#: Rows near a threshold are moved twice as far as the format moves them, as rows on edges are moved by more than one
#: unit in the last place, and often: one that the format moves across once in a hundred times (2.3 standard deviations)
#: crosses it in one of eight draws, so that 64 miss it once in 5,000 times; one that stands three standard deviations
#: off, once in 90. With 16 that was one time in seven, and in three.
_BESIDE = 2.0
_BESIDE_DRAWS = 64


@dataclass(frozen=True, slots=True)
class Reduced:
    """What the export under test is: its precision (`int8`, `float16`), how int8 ranges are found, and `base`, the
    full-precision file that it was made from, alone with its data in a folder.
    """

    precision: str
    int8: Int8
    base: Path

    @property
    def said(self) -> str:
        return f"{self.int8} int8" if self.precision == "int8" else self.precision


class BaseFailed(Exception):
    """The full-precision file could not be asked; one sentence."""


@dataclass(frozen=True, slots=True)
class Coarse:
    """What is judged by. `shown` are the source's answers with the format's noise, `judged` those that the export is
    compared with: the same but for rows that are clipped.
    """

    shown: tuple[Reference, ...]
    judged: tuple[Reference, ...]
    findings: tuple[Finding, ...]


class Coarseness:
    """Asks the full-precision file. `work` is a new folder for what is exchanged with its processes."""

    def __init__(
        self,
        reduced: Reduced,
        signature: Signature,
        sizes: Batching,
        work: Path,
        launch: exported.Launch | None = None,
    ) -> None:
        self._reduced, self._signature, self._sizes, self._work = reduced, signature, sizes, work
        self._launch = launch
        self._spans: dict[str, Span] = {}
        self._asked = 0

    def of(self, pools: Sequence[Pool], inputs: Sequence[Arrays], references: Sequence[Reference]) -> Coarse:
        """The noise of the format on every pool; `inputs` are the pools' model inputs, the evaluation rows first.

        Raises:
            BaseFailed: the full-precision file does not answer.
        """
        base, rounded = self._base
        clips = self._reduced.precision == "int8" and self._reduced.int8 is Int8.STATIC
        probed = [_only(given, found.probed) for given, found in zip(inputs, references, strict=True)]
        every_row = clips or bool(rounded)
        if clips:
            plain, self._spans = self._with_ranges(inputs)
        else:
            plain = [each[0] for each in self._ask(base, inputs if every_row else probed)]
        draws = self._ask(self._perturbed(1.0), probed, _DRAWS)
        clipped = [each[0] for each in self._ask(self._perturbed(0.0), inputs)] if clips else plain
        shown, judged, findings = [], [], []
        for number, (pool, found) in enumerate(zip(pools, references, strict=True)):
            rows = np.arange(pool.rows) if every_row else found.probed
            if number == 0 and (difference := self._base_difference(found, rows, plain[0])) is not None:
                return Coarse(tuple(references), tuple(references), (difference,))
            middle = _only(clipped[number], found.probed) if every_row else plain[number]
            noise = {
                tensor.name: _coarsened(
                    found.noise[tensor.name],
                    middle[tensor.name],
                    [draw[tensor.name] for draw in draws[number]],
                    tensor,
                    found.answers[tensor.name].size,
                    f"rounding to {self._reduced.said}",
                )
                for tensor in self._signature.outputs
            }
            beyond, expected = np.arange(0), found.answers
            if clips:
                beyond, expected = self._expected(found, plain[number], clipped[number])
            whole = {
                each.output: allowed
                for each in rounded
                if (allowed := _whole(each, expected, clipped[number], draws[number], found.probed)) is not None
            }
            coarse = replace(found, noise=noise, steady=found.noise, clipped=beyond, whole=whole)
            shown.append(coarse)
            judged.append(replace(coarse, answers=expected))
            if len(beyond):
                findings.append(_beyond(pool, len(beyond)))
        return Coarse(tuple(shown), tuple(judged), tuple(findings))

    def neighbours(self, inputs: Arrays) -> tuple[Arrays, ...]:
        """What files of this format may answer to these rows, where its rounding is twice as coarse.

        Raises:
            BaseFailed: the full-precision file does not answer.
        """
        return tuple(self._ask(self._perturbed(_BESIDE), [inputs], _BESIDE_DRAWS)[0])

    # --- asking -----------------------------------------------------------------------------------------------

    @cached_property
    def _base(self) -> tuple[onnx.ModelProto, tuple[Rounded, ...]]:
        """The full-precision file, which also gives the floats that become whole numbers."""
        import onnx

        return with_unrounded(onnx.load(self._reduced.base, load_external_data=False), self._signature.outputs)

    @property
    def _outputs(self) -> tuple[TensorSpec, ...]:
        floats = (TensorSpec(each.unrounded, DType.FLOAT32, ()) for each in self._base[1])
        return (*self._signature.outputs, *floats)

    def _perturbed(self, size: float) -> onnx.ModelProto:
        if self._reduced.precision == "float16":
            return perturbed.float16(self._base[0], size)
        if self._reduced.int8 is Int8.DYNAMIC:
            return perturbed.dynamic_int8(self._base[0], size)
        return perturbed.static_int8(self._base[0], self._spans, size)

    def _with_ranges(self, inputs: Sequence[Arrays]) -> tuple[list[dict[str, Any]], dict[str, Span]]:
        """The answers to all rows; the range of every value that static int8 rounds, on the rows of its calibration."""
        values = perturbed.rounded_values(self._base[0])
        model, names = perturbed.with_ranges(self._base[0], values)
        rows = next(iter(inputs[0].values())).shape[0]
        pools = [*inputs, _only(inputs[0], spread(rows, MOST_ROWS))]
        outputs = (*self._outputs, *(TensorSpec(name, DType.FLOAT32, ()) for name in names))
        plan = self._plan(pools, 1)
        answers = self._answers(model, replace(self._signature, outputs=outputs), pools, plan)
        calibration = [answer for batch, answer in zip(plan, answers, strict=True) if batch.pool == len(inputs)]
        ends = {name: [float(answer[name]) for answer in calibration] for name in names}
        spans = {
            value: Span.of([*ends[least], *ends[greatest]])
            for value, least, greatest in zip(values, names[::2], names[1::2], strict=True)
        }
        return [each[0] for each in self._joined(plan, answers, pools, 1)][: len(inputs)], spans

    def _ask(self, model: onnx.ModelProto, pools: Sequence[Arrays], times: int = 1) -> list[list[dict[str, Any]]]:
        """Pool by pool, time by time, the answers to all rows."""
        plan = self._plan(pools, times)
        signature = replace(self._signature, outputs=self._outputs)
        return self._joined(plan, self._answers(model, signature, pools, plan), pools, times)

    def _joined(
        self, plan: Sequence[Batch], answers: Sequence[Arrays], pools: Sequence[Arrays], times: int
    ) -> list[list[dict[str, Any]]]:
        asked: Iterator[tuple[Batch, Arrays]] = iter(zip(plan, answers, strict=True))
        found: list[list[dict[str, Any]]] = []
        per_time = [len(self._plan([pool], 1)) for pool in pools]
        for batches in per_time:
            found.append([])
            for _ in range(times):
                parts = [next(asked) for _ in range(batches)]
                found[-1].append(
                    {
                        tensor.name: np.concatenate([answer[tensor.name][: batch.kept] for batch, answer in parts])
                        for tensor in self._outputs
                    }
                )
        return found

    def _plan(self, pools: Sequence[Arrays], times: int) -> list[Batch]:
        least, chunk = self._sizes.sizes[0], self._sizes.chunk
        plan = []
        for number, pool in enumerate(pools):
            rows = len(next(iter(pool.values())))
            kept = [(start, min(chunk, rows - start)) for start in range(0, rows, chunk)]
            plan += [Batch(number, start, max(few, least), few, Part.WHOLE) for start, few in kept] * times
        return plan

    def _answers(
        self, model: onnx.ModelProto, signature: Signature, pools: Sequence[Arrays], plan: Sequence[Batch]
    ) -> list[dict[str, NDArray[Any]]]:
        self._asked += 1
        path = self._reduced.base.with_name(f"{self._reduced.base.name}.asked-{self._asked}")  # its data lie beside it
        path.write_bytes(model.SerializeToString())
        asked = exported.ask("onnx", path, signature, pools, plan, self._work / str(self._asked), launch=self._launch)
        if asked.load_error is not None or asked.ended is not None:
            raise BaseFailed(asked.load_error or f"the process that ran it {asked.ended.how if asked.ended else ''}")
        answers = []
        for number in range(len(plan)):
            status, values = asked.answer(number) or (None, {})
            if status is None or status.error is not None:
                raise BaseFailed("a batch was not answered" if status is None else str(status.error))
            answers.append(values)
        return answers

    # --- judging ----------------------------------------------------------------------------------------------

    def _base_difference(self, source: Reference, rows: NDArray[np.int64], answers: Arrays) -> Finding | None:
        """Where the full-precision file is another model, its noise says nothing about this one."""
        for tensor in self._signature.outputs:
            expected, allowance = source.answers[tensor.name][rows], source.noise[tensor.name].allowance
            found = compare(expected, answers[tensor.name], tensor, allowance)
            if found.mismatch is not None and not may_be_edges(int(found.wrong_rows.sum()), len(rows)):
                return Finding(
                    code="PARITY_BASE_DIFFERS",
                    owner=Owner.PLATFORM,
                    message=f"the full-precision file that {self._reduced.said} was made from does not answer as the "
                    f"source model does: output {tensor.name!r}: {found.reason}",
                    advice="see what the parity of the format onnx says: the fault is there already",
                    evidence={"output": tensor.name, "rows": int(found.wrong_rows.sum())},
                )
        return None

    def _expected(self, source: Reference, plain: Arrays, clipped: Arrays) -> tuple[NDArray[np.int64], Arrays]:
        """Rows whose answer clipping moves by more than the source's noise, and all answers with those clipped."""
        moved = np.zeros(len(next(iter(plain.values()))), dtype=bool)
        for tensor in self._signature.outputs:
            moved |= compare(
                plain[tensor.name], clipped[tensor.name], tensor, source.noise[tensor.name].allowance
            ).wrong_rows
        expected = dict(source.answers)
        for tensor in self._signature.outputs:
            answers = source.answers[tensor.name].copy()
            answers[moved] = clipped[tensor.name][moved]
            expected[tensor.name] = answers
        return np.flatnonzero(moved), expected


def failed(reduced: Reduced, reason: str) -> Finding:
    """Nothing is known about the format's noise, so nothing can be judged by it."""
    return Finding(
        code="PARITY_NOISE_UNKNOWN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"how far {reduced.said} may differ is measured on the full-precision file that it was made from, and "
        f"that could not be asked: {' '.join(reason.split())[:300]}",
        advice="see what the parity of the format onnx says; where that passes, hand the file to Slipway's maintainers",
        evidence={"precision": reduced.precision},
    )


def neighbour_findings(outcomes: Sequence[Outcome], references: Sequence[Reference], said: str) -> list[Finding]:
    """A remark where the rows beside a row move its answer: more than the source's noise, within the format's."""
    largest: dict[str, float] = {}
    for outcome in outcomes:
        steady = references[outcome.batch.pool].steady
        for name, found in outcome.against_itself.items():
            moved = found.max_abs_diff or 0.0
            if outcome.batch.part is Part.SIZE and steady is not None and moved > steady[name].tolerance.atol:
                largest[name] = max(largest.get(name, 0.0), moved)
    return [
        Finding(
            code="PARITY_ROUNDS_WITH_NEIGHBOURS",
            owner=Owner.MODEL,
            verdict=Verdict.PASSED,
            message=f"output {name!r} moves by up to {moved:.3g} with the rows that share a row's batch, which {said} "
            "rounds together; that is within the noise of the format",
            advice="nothing, unless the same request must always give the same answer: then write "
            "`export: {int8: static}`, or serve full precision",
            evidence={"output": name, "max_abs_diff": moved},
        )
        for name, moved in largest.items()
    ]


def _beyond(pool: Pool, rows: int) -> Finding:
    return Finding(
        code="PARITY_ROWS_BEYOND_CALIBRATION",
        owner=Owner.DATA,
        verdict=Verdict.PASSED,
        message=f"{rows} of {pool.rows} {pool.name} rows take values inside the model beyond the range of the rows "
        "that it was calibrated on, where static int8 clips them; they were compared with clipped answers",
        advice="nothing, if such inputs do not occur; otherwise add rows like them to the evaluation data, or write "
        "`export: {int8: dynamic}`",
        evidence={"pool": pool.name, "rows": rows},
    )


def _coarsened(
    noise: Noise, middle: NDArray[Any], draws: Sequence[NDArray[Any]], tensor: TensorSpec, values: int, condition: str
) -> Noise:
    """The noise with the format's own added; outputs that are no floats have none."""
    if not tensor.dtype.is_float:
        return noise
    allowed, largest = _reach(middle, draws, values)
    wider = Allowance(noise.allowance.atol + allowed, noise.allowance.rtol)
    return replace(noise, allowance=wider, beside=wider, largest={**noise.largest, condition: largest})


def _reach(middle: NDArray[Any], draws: Sequence[NDArray[Any]], values: int) -> tuple[NDArray[np.float64], float]:
    """How far the format may move each position in any of so many values, and the largest move that was seen."""
    expected = middle.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.stack([draw.astype(np.float64) - expected for draw in draws])
    change = np.where(np.isfinite(change), change, 0.0)
    deviation = np.sqrt(np.mean(change**2, axis=0)).max(axis=0, initial=0.0)
    return confidence(values) * evened(deviation, scale_of(expected)), float(np.abs(change).max())


def _whole(
    rounded: Rounded, expected: Arrays, middle: Arrays, draws: Sequence[Arrays], probed: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """How far each value of a whole-number output may lie from what is expected; None where it stays exact.

    `middle` are the full-precision file's answers to all rows, `draws` the perturbed one's to the probed rows.
    """
    floats, moved = middle[rounded.unrounded], [draw[rounded.unrounded] for draw in draws]
    whole = expected[rounded.output]
    if floats.shape != whole.shape or not is_continuous(moved):
        return None
    reach, _ = _reach(floats[probed], moved, whole.size)
    return rounded.allowed(whole, floats, reach)


def _only(arrays: Arrays, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in arrays.items()}
