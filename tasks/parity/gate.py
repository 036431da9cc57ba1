"""The parity gate: one export against its source model → `ParityReport`, golden samples and a page for people.

Fetches both models and the evaluation data from the store, lets `tasks.parity.confrontation` judge, and stores what
came out. The verdict is the worst of the findings and of the table, and `inconclusive` where nothing was compared.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from serving.contract import NanPolicy, PackagedFile
from serving.preprocess import Preprocessing
from tasks.contracts import Artifact, Export, ParityReport, Verdict
from tasks.expectations.data_docs import build
from tasks.expectations.parity_table import disagreement, tables
from tasks.expectations.validation import Checked
from tasks.expectations.validation import check as hold
from tasks.ingest import load_evaluation, load_preprocessed, load_preprocessing, load_source
from tasks.ingest.metric_code import load_metrics
from tasks.parity import page
from tasks.parity.coarse import Reduced
from tasks.parity.confrontation import Judgement, confront
from tasks.parity.divergence.report import divergence_of, told
from tasks.parity.golden import golden_bytes, golden_rows, replay
from tasks.parity.reproduction import reproduction
from tasks.parity.source import AskedSource
from tasks.spec import ModelSpec
from tasks.store import Store, fetch, fetch_tree


def check(spec: ModelSpec, artifact: Artifact, export: Export, store: Store, work: Path) -> ParityReport:
    """Does the export answer as the source model does?

    Raises:
        BadInput: the source or the evaluation data cannot be used at all.
        PlatformError: the store does not answer, or its bytes were altered.
    """
    preprocessing = load_preprocessing(artifact, spec.preprocess, store, work)
    source, path = load_source(artifact, store, work), fetch_tree(store, export.files, work / "export") / export.root
    judgement = confront(
        spec,
        source,
        artifact.loader,
        load_evaluation(artifact, store, work, spec.preprocess),
        export.runtime,
        path,
        work,
        artifact.evaluation.file.digest,
        load_metrics(spec.evaluation, artifact.evaluation, store, work),
        reduced=_reduced(spec, export, store, work),
        preprocessing=preprocessing,
        fed=load_preprocessed(artifact, store, work),
    )
    divergence = divergence_of(spec, artifact, source, export, judgement, path, work, preprocessing)
    judgement = replace(judgement, findings=told(judgement.findings, divergence))
    checked = _checked(spec, judgement)
    golden = None
    if judgement.outputs:
        golden = _golden(judgement, preprocessing, store)
        asking = AskedSource(source, artifact.loader, spec.signature, judgement.sizes)
        tolerances = {output.name: output.tolerance for output in judgement.outputs}
        if spec.preprocess:
            found = replay(fetch(store, golden, work / "golden.npz"), preprocessing, asking, tolerances)
            judgement = replace(judgement, findings=(*judgement.findings, *found))
    report = _report(export, judgement, checked, golden)
    docs = None
    if checked is not None:
        docs = build(checked, f"{spec.name} as {export.format}, parity", store, work / "data_docs")
    reproduced = None
    if judgement.case is not None:
        reproduced = reproduction(judgement.case, report, export, spec.signature, store)
    report = report.model_copy(update={"divergence": divergence, "docs": docs, "reproduction": reproduced})
    document = page.render(report, page.Evidence(spec, artifact, export, judgement))
    return report.model_copy(update={"html": _stored(f"parity-{export.format}.html", document.encode(), store)})


def _reduced(spec: ModelSpec, export: Export, store: Store, work: Path) -> Reduced | None:
    """What an export of reduced precision is held against; None for full precision."""
    if export.base is None:
        return None
    base = fetch_tree(store, export.base.files, work / "base") / export.base.root
    return Reduced(export.precision, spec.export.int8, base)


def _checked(spec: ModelSpec, judgement: Judgement) -> Checked | None:
    """The parity table, held against what is expected of it; none where the export was never asked."""
    if not judgement.outputs:
        return None
    pools = [pool.name for pool in judgement.pools]
    asked = tables(spec.signature, pools, judgement.planned, judgement.outcomes, judgement.metrics)
    return hold(asked, "PARITY_TABLE")


def _report(export: Export, judgement: Judgement, checked: Checked | None, golden: PackagedFile | None) -> ParityReport:
    """The verdict is the worst of the findings and of the table; that they do not agree is a finding."""
    order = [Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED]
    found, table = list(judgement.findings), Verdict.INCONCLUSIVE
    if checked is not None:
        table = checked.verdict
        found += [finding for finding in checked.findings if finding.code == "PARITY_TABLE_NOT_CHECKED"]
        apart = disagreement(table, found)
        found += [] if apart is None else [apart]
    findings = tuple(sorted(found, key=lambda finding: order.index(finding.verdict)))
    return ParityReport(
        format=export.format,
        verdict=Verdict.worst((table, *(finding.verdict for finding in findings))),
        findings=findings,
        export_digest=export.files.digest,
        batch_sizes=judgement.sizes.sizes,
        outputs=judgement.outputs,
        metrics=judgement.metrics,
        classes=judgement.classes,
        calibration=judgement.calibration,
        golden=golden,
    )


def _golden(judgement: Judgement, preprocessing: Preprocessing, store: Store) -> PackagedFile:
    raw, source = judgement.pools[0].raw, judgement.references[0]
    may_miss = [tensor.name for tensor in preprocessing.raw.inputs if tensor.nan is NanPolicy.ACCEPT]
    rows = golden_rows(raw, source.answers, source.edges(), may_miss)
    return _stored("golden.npz", golden_bytes(raw, source.answers, rows, preprocessing.signature), store)


def _stored(name: str, content: bytes, store: Store) -> PackagedFile:
    digest, size = store.put_stream(io.BytesIO(content))
    return PackagedFile(path=name, digest=digest, size_bytes=size)
