"""Source and export, asked the same: from two models and evaluation data to findings and figures.

    inputs        which rows, in which batches                        pure
    skew          what training fed the model, against the steps      pure
    reference     what the source answers, and how noisy it is         asks the source
    exported      what the export answers, in a process of its own     asks the export
    outcomes      both, batch by batch
    compare, tolerance, edges, quality     figures                     pure
    judge, judge_running                   findings                    pure

Nothing is fetched or stored here: `tasks.parity.gate` does that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature
from serving.preprocess import Preprocessing
from tasks.contracts import Calibration, ClassChange, Finding, MetricComparison, OutputComparison, Verdict
from tasks.errors import EvaluationError
from tasks.ingest.metric_code import MetricFunction
from tasks.ingest.sources import SourceModel
from tasks.parity import exported
from tasks.parity.coarse import BaseFailed, Coarseness, Reduced, failed, neighbour_findings
from tasks.parity.edges import NEIGHBOURS
from tasks.parity.exported import AskedExport
from tasks.parity.failing import Case, failing_case
from tasks.parity.inputs import Batch, Batching, Pool, batching, drawing, plan, pools
from tasks.parity.judge import edge_finding, output_findings
from tasks.parity.judge_running import run_findings, structure_findings, unasked_findings
from tasks.parity.outcomes import Arrays, Asked, Outcome, excuse_edges, outcomes_of
from tasks.parity.quality import compare_metrics
from tasks.parity.reference import Reference, left_out, reference, source_failed, source_findings, usable_rows
from tasks.parity.room import shortage
from tasks.parity.skew import skew_findings
from tasks.parity.source import AskedSource, SourceFailed, threads
from tasks.parity.terms import longest_sum
from tasks.parity.tolerance import unit_roundoff
from tasks.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found. `outputs` is empty where the gate stopped at the source; `references` may then be short.

    `planned` is how many batches of each pool the export was asked for; `case` shows what is wrong with it.
    """

    sizes: Batching
    pools: tuple[Pool, ...]
    references: tuple[Reference, ...]
    findings: tuple[Finding, ...]
    outcomes: tuple[Outcome, ...] = ()
    outputs: tuple[OutputComparison, ...] = ()
    metrics: tuple[MetricComparison, ...] = ()
    classes: tuple[ClassChange, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    planned: tuple[int, ...] = ()
    case: Case | None = None


def confront(
    spec: ModelSpec,
    source: SourceModel,
    loader: str,
    evaluation: Arrays,
    runtime: str,
    path: Path,
    work: Path,
    seed: str,
    own_metrics: Mapping[str, MetricFunction] | None = None,
    launch: exported.Launch | None = None,
    reduced: Reduced | None = None,
    free_bytes: int | None = None,
    preprocessing: Preprocessing | None = None,
    fed: Arrays | None = None,
) -> Judgement:
    """Ask both models, and judge.

    Args:
        spec: signature, preprocessing, metrics and batch size.
        source: the trained model, loaded by `loader` (an entry of `tasks.ingest.SOURCES`).
        evaluation: raw columns: inputs as clients send them, and labels.
        runtime, path: the export's runtime, and the file or folder that it loads.
        work: a folder for what is exchanged with the export's process; `work / "parity"` must not exist.
        seed: decides the random rows; the same seed gives the same questions.
        own_metrics: the user's functions, by the `callable` of their metrics.
        launch: starts the export's process; see `tasks.parity.exported.ask`.
        reduced: for exports of reduced precision, which, and the full-precision file that it was made from.
        free_bytes: the memory that may be taken; what the kernel says is free unless it is given.
        preprocessing: the spec's steps; made here unless given, for steps that need no file.
        fed: what training fed the model for the first rows, where that is known.

    Raises:
        BadInput: rows cannot be told apart, or the evaluation data has other dtypes than clients send.
    """
    signature = spec.signature
    prepare = preprocessing or Preprocessing(spec.preprocess, signature)
    raw = prepare.raw
    sizes = batching(signature, spec.serving.max_batch)
    columns = _as_clients_send(evaluation, raw)
    skewed = skew_findings(prepare, columns, fed, spec.evaluation.preprocessed)
    if any(finding.verdict is not Verdict.PASSED for finding in skewed):
        return Judgement(sizes, (), (), skewed)
    prepared = prepare(columns)
    found = pools(raw, columns, seed, drawing(raw, columns, signature, prepared))
    # One thread, as the export is asked: sums have one order, and other work on this machine does not slow it down.
    with threads(loader, 1):
        short = shortage(source, loader, free_bytes)
        asking = AskedSource.of(source, loader, signature, sizes, short is None)
        generator = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
        inputs = (prepared, *(pool.raw if pool.is_prepared else prepare(pool.raw) for pool in found[1:]))
        heard, findings = _references(asking, found, inputs, generator)
        findings += [*skewed, *([] if short is None else [short.remark])]
        asked_pools = tuple(each.pool for each in heard)
        references = tuple(each.reference for each in heard)
        if any(finding.verdict is not Verdict.PASSED for finding in findings):
            return Judgement(sizes, asked_pools, references, tuple(findings))
        asked = Asked(
            signature,
            sizes,
            asked_pools,
            tuple(each.inputs for each in heard),
            plan(sizes, tuple(pool.rows for pool in asked_pools)),
        )
        judged: Sequence[Reference] = references
        beside: Callable[[Arrays], tuple[Arrays, ...]] = partial(_beside, asking, generator)
        if reduced is not None:
            coarseness = Coarseness(reduced, signature, sizes, work / "coarse", launch)
            try:
                coarse = coarseness.of(asked.pools, asked.inputs, references)
            except BaseFailed as failure:
                findings.append(failed(reduced, str(failure)))
                return Judgement(sizes, asked_pools, references, tuple(findings))
            findings += coarse.findings
            if any(finding.verdict is not Verdict.PASSED for finding in coarse.findings):
                return Judgement(sizes, asked_pools, references, tuple(findings))
            references, judged, beside = coarse.shown, coarse.judged, coarseness.neighbours
        answered = exported.ask(runtime, path, signature, asked.inputs, asked.plan, work / "parity", launch=launch)
        outcomes, own = outcomes_of(answered, asked, judged)
        outcomes, on_edge = excuse_edges(outcomes, answered, asked, judged, beside)
    remarks = findings
    if reduced is not None:
        remarks += neighbour_findings(outcomes, references, reduced.said)

    def ask_again(inputs: Arrays, batch: Batch) -> AskedExport:
        return exported.ask(runtime, path, signature, [inputs], [batch], work / "parity-again", launch=launch)

    findings = structure_findings(answered.structure, signature)
    findings += run_findings(answered, asked.plan, outcomes, signature, findings)
    findings += output_findings(outcomes, signature)
    quality = compare_metrics(spec.evaluation, references[0].answers, own[0], evaluation, own_metrics)
    if own[0] is not None or not findings:
        findings += quality.findings
    findings += [edge_finding(asked.pools[pool], count) for pool, count in sorted(on_edge.items())]
    findings += unasked_findings(answered, asked.plan, findings)
    return Judgement(
        sizes,
        asked_pools,
        references,
        (*findings, *remarks),
        outcomes,
        _outputs(outcomes, references, signature),
        quality.metrics,
        quality.classes,
        quality.calibration,
        planned=tuple(sum(batch.pool == number for batch in asked.plan) for number in range(len(asked.pools))),
        case=failing_case(answered, asked, outcomes, references, findings, ask_again),
    )


def _beside(source: AskedSource, generator: np.random.Generator, inputs: Arrays) -> tuple[Arrays, ...]:
    """What the source answers to these rows moved by a few units in the last place."""
    unit = max(unit_roundoff(source.signature, tensor) for tensor in source.signature.outputs)
    return tuple(probe.answers for probe in source.moved(inputs, unit, generator, NEIGHBOURS))


def _as_clients_send(evaluation: Arrays, raw: Signature) -> dict[str, NDArray[Any]]:
    columns = {}
    for tensor in raw.inputs:
        column = evaluation[tensor.name]
        if column.dtype != tensor.dtype.numpy and not (tensor.dtype is DType.STRING and column.dtype.kind == "U"):
            raise EvaluationError(
                f"column {tensor.name!r} of the evaluation data is {column.dtype}, clients send {tensor.dtype.value}"
            )
        columns[tensor.name] = column.astype(tensor.dtype.numpy, copy=False)
    return columns


@dataclass(frozen=True, slots=True)
class _Heard:
    """A pool as it is compared: its model inputs, and what the source says of them."""

    pool: Pool
    inputs: Arrays
    reference: Reference


def _references(
    source: AskedSource, found: Sequence[Pool], inputs: Sequence[Arrays], generator: np.random.Generator
) -> tuple[tuple[_Heard, ...], list[Finding]]:
    """Ask the source about every pool. Random rows may be none that it was made for: those are left out."""
    terms = longest_sum(source.model.native, source.loader, source.signature)
    heard: list[_Heard] = []
    findings: list[Finding] = []
    for number, (pool, given) in enumerate(zip(found, inputs, strict=True)):
        made_up = number > 0
        try:
            kept = usable_rows(source, given) if made_up else np.arange(pool.rows)
            if len(kept) < pool.rows:
                findings.append(left_out(pool, pool.rows - len(kept)))
            if not len(kept):
                continue
            taken, mine = pool.only(kept), {name: array[kept] for name, array in given.items()}
            heard.append(_Heard(taken, mine, reference(source, mine, terms, generator)))
        except SourceFailed as failure:
            if made_up and dict(pool.lengths) == dict(found[0].lengths):
                findings.append(left_out(pool, pool.rows, str(failure)))
                continue
            return tuple(heard), [source_failed(pool, str(failure))]
        findings += source_findings(pool.name, heard[-1].reference)
    return tuple(heard), findings


def _outputs(
    outcomes: Sequence[Outcome], references: Sequence[Reference], signature: Signature
) -> tuple[OutputComparison, ...]:
    """One summary per output: figures over all batches, each held against its own pool's allowance; the tolerance and
    noise are those of the evaluation rows, which the golden samples are of.
    """
    answered = [outcome for outcome in outcomes if outcome.error is None]

    def largest(name: str, figure: str) -> float | None:
        found = [getattr(outcome.against_source[name], figure) for outcome in answered]
        return max((value for value in found if value is not None), default=None)

    return tuple(
        OutputComparison(
            name=tensor.name,
            compared_values=sum(outcome.against_source[tensor.name].compared for outcome in answered),
            max_abs_diff=largest(tensor.name, "max_abs_diff"),
            max_rel_diff=largest(tensor.name, "max_rel_diff"),
            worst_margin=largest(tensor.name, "worst_margin"),
            noise=references[0].noise[tensor.name].level if tensor.dtype.is_float else None,
            tolerance=references[0].tolerance(tensor.name),
        )
        for tensor in signature.outputs
    )
