"""The parity gate: one export against its source model → `ParityReport`, golden samples and a page for people.

Fetches both models and the evaluation data from the store, lets `tasks.parity.confrontation` judge, and stores what
came out. The verdict is the worst of the findings, and `inconclusive` where nothing was compared.
"""

from __future__ import annotations

import io
from pathlib import Path

from serving.contract import PackagedFile
from tasks.contracts import Artifact, Export, ParityReport, Verdict
from tasks.ingest import load_evaluation, load_source
from tasks.parity import page
from tasks.parity.coarse import Reduced
from tasks.parity.confrontation import Judgement, confront
from tasks.parity.golden import golden_bytes, golden_rows
from tasks.spec import ModelSpec
from tasks.store import Store, fetch_tree


def check(spec: ModelSpec, artifact: Artifact, export: Export, store: Store, work: Path) -> ParityReport:
    """Does the export answer as the source model does?

    Raises:
        BadInput: the source or the evaluation data cannot be used at all.
        PlatformError: the store does not answer, or its bytes were altered.
    """
    judgement = confront(
        spec,
        load_source(artifact, store, work),
        artifact.loader,
        load_evaluation(artifact, store, work),
        export.runtime,
        fetch_tree(store, export.files, work / "export") / export.root,
        work,
        artifact.evaluation.file.digest,
        _reduced(spec, export, store, work),
    )
    report = _report(export, judgement, None if not judgement.outputs else _golden(spec, judgement, store))
    document = page.render(report, page.Evidence(spec, artifact, export, judgement))
    return report.model_copy(update={"html": _stored(f"parity-{export.format}.html", document.encode(), store)})


def _reduced(spec: ModelSpec, export: Export, store: Store, work: Path) -> Reduced | None:
    """What an export of reduced precision is held against; None for full precision."""
    if export.base is None:
        return None
    base = fetch_tree(store, export.base.files, work / "base") / export.base.root
    return Reduced(export.precision, spec.export.int8, base)


def _report(export: Export, judgement: Judgement, golden: PackagedFile | None) -> ParityReport:
    order = [Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED]
    findings = tuple(sorted(judgement.findings, key=lambda finding: order.index(finding.verdict)))
    compared = Verdict.PASSED if judgement.outputs else Verdict.INCONCLUSIVE
    return ParityReport(
        format=export.format,
        verdict=Verdict.worst((compared, *(finding.verdict for finding in findings))),
        findings=findings,
        export_digest=export.files.digest,
        batch_sizes=judgement.sizes.sizes,
        outputs=judgement.outputs,
        metrics=judgement.metrics,
        golden=golden,
    )


def _golden(spec: ModelSpec, judgement: Judgement, store: Store) -> PackagedFile:
    raw, source = judgement.pools[0].raw, judgement.references[0]
    rows = golden_rows(raw, source.answers, source.edges())
    return _stored("golden.npz", golden_bytes(raw, source.answers, rows, spec.signature), store)


def _stored(name: str, content: bytes, store: Store) -> PackagedFile:
    digest, size = store.put_stream(io.BytesIO(content))
    return PackagedFile(path=name, digest=digest, size_bytes=size)
