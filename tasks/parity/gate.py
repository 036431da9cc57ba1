"""The parity gate: one export against the source model → `ParityReport`.

    inputs        which rows, in which batches                        pure
    reference     what the source answers, and how noisy it is         asks the source
    exported      what the export answers, in a process of its own     asks the export
    outcomes      both, batch by batch
    compare, tolerance, edges, quality     figures                     pure
    judge         findings                                             pure
    golden, page  what is kept for the image, and for people           pure

This module fetches, asks, and puts the answers into the pure parts.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, PackagedFile, Signature
from serving.preprocess import apply, raw_signature
from tasks.contracts import Artifact, Export, Finding, OutputComparison, Owner, ParityReport, Verdict
from tasks.errors import EvaluationError
from tasks.ingest import load_evaluation, load_source
from tasks.parity import exported, page
from tasks.parity.golden import golden_bytes, golden_rows
from tasks.parity.inputs import Batching, Pool, batching, plan, pools
from tasks.parity.judge import edge_finding, output_findings
from tasks.parity.judge_running import run_findings, structure_findings, unasked_findings
from tasks.parity.outcomes import Arrays, Asked, Outcome, excuse_edges, outcomes_of
from tasks.parity.quality import compare_metrics
from tasks.parity.reference import Reference, reference, source_findings
from tasks.parity.source import AskedSource, SourceFailed, threads
from tasks.parity.terms import longest_sum
from tasks.spec import ModelSpec
from tasks.store import Store, fetch_tree


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
    # One thread, as the export is asked: sums have one order, and other work on this machine does not slow it down.
    with threads(artifact.loader, 1):
        source = AskedSource(load_source(artifact, store, work), artifact.loader, signature, sizes)
        generator = np.random.default_rng(list(hashlib.sha256(artifact.files.digest.encode()).digest()))
        references, findings = _references(source, asked, generator)
        evidence = page.Evidence(spec=spec, artifact=artifact, export=export, asked=asked.pools, references=references)
        if findings:
            return _report(export, sizes, findings, evidence, None, store)
        path = fetch_tree(store, export.files, work / "export") / export.root
        answered = exported.ask(export.runtime, path, signature, asked.inputs, asked.plan, work / "parity")
        outcomes, own = outcomes_of(answered, asked, references)
        outcomes, on_edge = excuse_edges(outcomes, answered, asked, references, source, generator)

    findings = structure_findings(answered.structure, signature)
    if not findings or answered.load_error is None:  # a missing name is why the runtime refused the file
        findings += run_findings(answered, asked.plan, outcomes, signature)
    findings += output_findings(outcomes, signature)
    metrics, metric_findings = compare_metrics(spec.evaluation.metrics, references[0].answers, own[0], evaluation)
    if own[0] is not None or not findings:
        findings += metric_findings
    findings += [edge_finding(asked.pools[pool], count) for pool, count in sorted(on_edge.items())]
    findings += unasked_findings(answered, asked.plan, findings)

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
