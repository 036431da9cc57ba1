"""The parity gate: one export against the source model → `ParityReport`.

    inputs        which rows, in which batches                        pure
    reference     what the source answers, and how noisy it is         asks the source
    exported      what the export answers, in a process of its own     asks the export
    compare, tolerance, edges, quality     figures                     pure
    judge         findings                                             pure
    golden, page  what is kept for the image, and for people           pure

This module fetches, asks, and puts the answers into the pure parts.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, PackagedFile, Signature, TensorSpec
from serving.preprocess import apply, raw_signature
from tasks.contracts import Artifact, Export, Finding, OutputComparison, Owner, ParityReport, Verdict
from tasks.errors import EvaluationError
from tasks.ingest import load_evaluation, load_source
from tasks.parity import exported, page
from tasks.parity.compare import Comparison, Mismatch, compare
from tasks.parity.edges import NEIGHBOURS, excused, may_be_edges
from tasks.parity.exported import AskedExport
from tasks.parity.golden import golden_bytes, golden_rows
from tasks.parity.inputs import Batch, Batching, Part, Pool, batching, plan, pools
from tasks.parity.judge import Outcome, output_findings, run_findings, structure_findings
from tasks.parity.quality import compare_metrics
from tasks.parity.reference import Reference, reference, source_findings
from tasks.parity.source import AskedSource, SourceFailed
from tasks.parity.terms import longest_sum
from tasks.parity.tolerance import unit_roundoff
from tasks.spec import ModelSpec
from tasks.store import Store, fetch_tree

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that both models are asked: pools with their model inputs, and the plan of batches."""

    signature: Signature
    sizes: Batching
    pools: tuple[Pool, ...]
    inputs: tuple[Arrays, ...]
    plan: tuple[Batch, ...]


def check(spec: ModelSpec, artifact: Artifact, export: Export, store: Store, work: Path) -> ParityReport:
    """Does the export answer as the source model does?

    Raises:
        BadInput: the source or the evaluation data cannot be used at all.
        PlatformError: the store does not answer, or its bytes were altered.
    """
    signature = spec.signature
    raw = raw_signature(signature, spec.preprocess)
    evaluation = _as_clients_send(load_evaluation(artifact, store, work), raw)
    sizes = batching(signature, spec.serving.max_batch)
    found = pools(raw, evaluation, artifact.evaluation.file.digest)
    asked = Asked(
        signature,
        sizes,
        found,
        tuple(apply(spec.preprocess, pool.raw, signature) for pool in found),
        plan(sizes, tuple(pool.rows for pool in found)),
    )
    source = AskedSource(load_source(artifact, store, work), artifact.loader, signature, sizes)
    generator = np.random.default_rng(list(hashlib.sha256(artifact.files.digest.encode()).digest()))
    references, findings = _references(source, asked, generator)
    evidence = page.Evidence(spec=spec, artifact=artifact, export=export, asked=asked.pools, references=references)
    if findings:
        return _report(export, sizes, findings, evidence, None, store)

    path = fetch_tree(store, export.files, work / "export") / export.root
    answered = exported.ask(export.runtime, path, signature, asked.inputs, asked.plan, work / "parity")
    outcomes, own = _outcomes(answered, asked, references)
    outcomes, on_edge = _excuse_edges(outcomes, answered, asked, references, source, generator)

    findings = structure_findings(answered.structure, signature)
    named = any(finding.verdict is Verdict.FAILED for finding in findings)
    if not (named and answered.load_error is not None):  # a missing name is why the runtime refused the file
        findings += run_findings(
            answered.load_error, answered.ended, _asked_last(answered, asked), outcomes, answered.structure, signature
        )
    findings += output_findings(outcomes, signature)
    metrics, metric_findings = compare_metrics(spec.evaluation.metrics, references[0].answers, own[0], evaluation)
    if own[0] is not None or not findings:
        findings += metric_findings
    findings += [_on_edge(pool, count, asked) for pool, count in sorted(on_edge.items())]
    findings += _unasked(answered, asked, findings)

    evidence = replace(evidence, outcomes=outcomes, metrics=metrics, outputs=_outputs(outcomes, references, signature))
    return _report(export, sizes, findings, evidence, _golden(asked, references, signature, store), store)


# --- the source ---------------------------------------------------------------------------------------------------


def _as_clients_send(evaluation: Arrays, raw: Signature) -> dict[str, NDArray[Any]]:
    """Input columns in the dtypes that clients send; labels as they are."""
    columns = dict(evaluation)
    for tensor in raw.inputs:
        column = columns[tensor.name]
        if tensor.dtype is DType.STRING:
            columns[tensor.name] = column.astype(object)
        elif column.dtype != tensor.dtype.numpy:
            if not np.can_cast(column.dtype, tensor.dtype.numpy, casting="same_kind"):
                raise EvaluationError(
                    f"column {tensor.name!r} of the evaluation data is {column.dtype}, "
                    f"clients send {tensor.dtype.value}"
                )
            columns[tensor.name] = column.astype(tensor.dtype.numpy)
    return columns


def _references(
    source: AskedSource, asked: Asked, generator: np.random.Generator
) -> tuple[tuple[Reference, ...], list[Finding]]:
    terms = longest_sum(source.model.native, source.loader, asked.signature)
    references: list[Reference] = []
    findings: list[Finding] = []
    for pool, inputs in zip(asked.pools, asked.inputs, strict=True):
        try:
            found = reference(source, inputs, terms, generator)
        except SourceFailed as failure:
            return tuple(references), [_source_failed(failure, pool)]
        references.append(found)
        findings += source_findings(pool.name, found)
    return tuple(references), findings


def _source_failed(failure: SourceFailed, pool: Pool) -> Finding:
    return Finding(
        code="PARITY_SOURCE_FAILED",
        owner=Owner.MODEL,
        message=f"on the {pool.name} rows, {failure}",
        advice="the source model must answer everything that model.yaml promises: correct the dtypes, shapes and "
        "ranges there, or the model",
        evidence={"pool": pool.name, **pool.lengths},
    )


# --- the export ---------------------------------------------------------------------------------------------------


def _outcomes(
    answered: AskedExport, asked: Asked, references: Sequence[Reference]
) -> tuple[tuple[Outcome, ...], tuple[Arrays | None, ...]]:
    """Every batch that was answered, compared; and the export's own answers to each whole pool, where complete."""
    outcomes = []
    own: list[dict[str, NDArray[Any]] | None] = [
        {name: np.empty_like(array, dtype=_dtype(name, asked.signature)) for name, array in found.answers.items()}
        for found in references
    ]
    for number, batch in enumerate(asked.plan):
        found = answered.answer(number)
        if found is None:
            if batch.part is Part.WHOLE:
                own[batch.pool] = None
            continue
        status, answers = found
        pool, rows = asked.pools[batch.pool], batch.rows(asked.pools[batch.pool].rows)
        mine = own[batch.pool]
        if status.error is not None:
            outcomes.append(Outcome(batch, pool, rows, error=status.error))
            if batch.part is Part.WHOLE:
                own[batch.pool] = None
            continue
        answers |= {name: np.empty(0, dtype=object) for name in status.unreadable}
        outcome = _compared(batch, pool, answers, rows, references[batch.pool], mine, asked.signature)
        outcomes.append(outcome)
        if batch.part is Part.WHOLE and mine is not None:
            shaped = (Mismatch.DTYPE, Mismatch.SHAPE)
            if any(comparison.mismatch in shaped for comparison in outcome.against_source.values()):
                own[batch.pool] = None
            else:
                for name, array in mine.items():
                    array[rows[: batch.kept]] = answers[name][: batch.kept]
    return tuple(outcomes), tuple(own)


def _compared(
    batch: Batch,
    pool: Pool,
    answers: Arrays,
    rows: NDArray[np.int64],
    source: Reference,
    own: Arrays | None,
    signature: Signature,
) -> Outcome:
    against_source = {
        tensor.name: _compare(source.answers[tensor.name][rows], answers[tensor.name], tensor, source)
        for tensor in signature.outputs
    }
    against_itself = {}
    if own is not None and batch.part is not Part.WHOLE:
        against_itself = {
            tensor.name: _compare(own[tensor.name][rows], answers[tensor.name], tensor, source)
            for tensor in signature.outputs
        }
    wrong = [tensor for tensor in signature.outputs if against_source[tensor.name].mismatch is not None]
    looks_like = {}
    for tensor in wrong:
        for other in signature.outputs:
            if other is not tensor and _is(source, other, rows, answers[tensor.name]):
                looks_like[tensor.name] = other.name
                break
    return Outcome(batch, pool, rows, None, against_source, against_itself, looks_like)


def _compare(expected: NDArray[Any], answer: NDArray[Any], tensor: TensorSpec, source: Reference) -> Comparison:
    return compare(expected, answer, tensor, source.noise[tensor.name].allowance)


def _is(source: Reference, other: TensorSpec, rows: NDArray[np.int64], answer: NDArray[Any]) -> bool:
    return _compare(source.answers[other.name][rows], answer, other, source).mismatch is None


def _dtype(name: str, signature: Signature) -> np.dtype[Any]:
    return next(tensor.dtype.numpy for tensor in signature.outputs if tensor.name == name)


def _excuse_edges(
    outcomes: tuple[Outcome, ...],
    answered: AskedExport,
    asked: Asked,
    references: Sequence[Reference],
    source: AskedSource,
    generator: np.random.Generator,
) -> tuple[tuple[Outcome, ...], dict[int, int]]:
    """Compare again without the rows on which the source itself jumps; how many of them there are in each pool."""
    judged, on_edge = list(outcomes), {}
    numbers = {batch: number for number, batch in enumerate(asked.plan)}
    units = max(unit_roundoff(asked.signature, tensor) for tensor in asked.signature.outputs)
    for pool in range(len(asked.pools)):
        wrong = _wrong_rows([outcome for outcome in outcomes if outcome.batch.pool == pool])
        if wrong is None or not may_be_edges(len(wrong), asked.pools[pool].rows):
            continue
        inputs = {name: array[wrong] for name, array in asked.inputs[pool].items()}
        neighbours = tuple(probe.answers for probe in source.moved(inputs, units, generator, NEIGHBOURS))
        excused_rows: set[int] = set()
        for place, outcome in enumerate(outcomes):
            if outcome.batch.pool != pool or not _is_value_only(outcome):
                continue
            found = answered.answer(numbers[outcome.batch])
            if found is None:
                raise ValueError(f"batch {numbers[outcome.batch]} was compared and is gone")
            rows = outcome.batch.rows(asked.pools[pool].rows)
            here = np.flatnonzero(np.isin(rows, wrong))
            beside = np.searchsorted(wrong, rows[here])
            expected = {name: array[rows[here]] for name, array in references[pool].answers.items()}
            fine = excused(
                {name: array[here] for name, array in found[1].items()},
                expected,
                tuple({name: array[beside] for name, array in answers.items()} for answers in neighbours),
                asked.signature.outputs,
                references[pool].noise,
            )
            excused_rows.update(int(row) for row in rows[here[fine]])
            kept = np.setdiff1d(np.arange(len(rows)), here[fine])
            judged[place] = _without(outcome, found[1], rows, kept, references[pool], asked.signature)
        if excused_rows:
            on_edge[pool] = len(excused_rows)
    return tuple(judged), on_edge


def _is_value_only(outcome: Outcome) -> bool:
    kinds = {found.mismatch for found in outcome.against_source.values()} - {None}
    return bool(kinds) and kinds <= {Mismatch.VALUE, Mismatch.NON_FINITE}


def _wrong_rows(outcomes: Sequence[Outcome]) -> NDArray[np.int64] | None:
    """Rows of the pool with a wrong value in any batch; None where none is, or something else than values is wrong."""
    wrong: set[int] = set()
    for outcome in outcomes:
        if outcome.error is not None or not any(found.mismatch for found in outcome.against_source.values()):
            continue
        if not _is_value_only(outcome):
            return None
        rows = outcome.batch.rows(outcome.pool.rows)
        for found in outcome.against_source.values():
            wrong.update(int(row) for row in rows[found.wrong_rows])
    return np.array(sorted(wrong), dtype=np.int64) if wrong else None


def _without(
    outcome: Outcome,
    answers: Arrays,
    rows: NDArray[np.int64],
    kept: NDArray[np.int64],
    source: Reference,
    signature: Signature,
) -> Outcome:
    return replace(
        outcome,
        rows=rows[kept],
        against_source={
            tensor.name: _compare(source.answers[tensor.name][rows[kept]], answers[tensor.name][kept], tensor, source)
            for tensor in signature.outputs
        },
        looks_like={},
    )


def _on_edge(pool: int, count: int, asked: Asked) -> Finding:
    return Finding(
        code="PARITY_ROWS_ON_EDGE",
        owner=Owner.MODEL,
        verdict=Verdict.PASSED,
        message=f"{count} of {asked.pools[pool].rows} {asked.pools[pool].name} rows stand so near a threshold of the "
        "model that rounding decides the answer; the export answers them as the source answers their neighbours",
        advice="nothing, unless such rows matter: then keep inputs away from thresholds, or compute in float64",
        evidence={"pool": asked.pools[pool].name, "rows": count},
    )


def _asked_last(answered: AskedExport, asked: Asked) -> str:
    if answered.ended is None or answered.ended.batch is None:
        return "while it loaded the file"
    batch = asked.plan[answered.ended.batch]
    return f"asked for {batch.size} {asked.pools[batch.pool].name} rows"


def _unasked(answered: AskedExport, asked: Asked, findings: Sequence[Finding]) -> list[Finding]:
    """No pass without every batch: whatever the reason is, if nothing else has said so."""
    missing = sum(answered.answer(number) is None for number in range(len(asked.plan)))
    if not missing or any(finding.verdict is not Verdict.PASSED for finding in findings):
        return []
    return [
        Finding(
            code="PARITY_INCOMPLETE",
            owner=Owner.PLATFORM,
            verdict=Verdict.INCONCLUSIVE,
            message=f"{missing} of {len(asked.plan)} batches were never answered",
            advice="run parity again with --fresh; if it stays so, run the export by hand",
            evidence={"batches": len(asked.plan), "missing": missing},
        )
    ]


# --- the report ---------------------------------------------------------------------------------------------------


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
            tolerance=references[0].noise[tensor.name].tolerance,
        )
        for tensor in signature.outputs
    )


def _golden(asked: Asked, references: Sequence[Reference], signature: Signature, store: Store) -> PackagedFile:
    raw, answers = asked.pools[0].raw, references[0].answers
    rows = golden_rows(raw, answers, references[0].edges())
    return _stored("golden.npz", golden_bytes(raw, answers, rows, signature), store)


def _report(
    export: Export,
    sizes: Batching,
    findings: Sequence[Finding],
    evidence: page.Evidence,
    golden: PackagedFile | None,
    store: Store,
) -> ParityReport:
    order = [Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED]
    ranked = tuple(sorted(findings, key=lambda finding: order.index(finding.verdict)))
    nothing = () if evidence.outputs else (Verdict.INCONCLUSIVE,)
    report = ParityReport(
        format=export.format,
        verdict=Verdict.worst((Verdict.PASSED, *nothing, *(finding.verdict for finding in ranked))),
        findings=ranked,
        export_digest=export.files.digest,
        batch_sizes=sizes.sizes,
        outputs=evidence.outputs,
        metrics=evidence.metrics,
        golden=golden,
    )
    document = page.render(report, evidence).encode()
    return report.model_copy(update={"html": _stored(f"parity-{export.format}.html", document, store)})


def _stored(name: str, content: bytes, store: Store) -> PackagedFile:
    digest, size = store.put_stream(io.BytesIO(content))
    return PackagedFile(path=name, digest=digest, size_bytes=size)
