"""The smoke stage: one image on one instance type, from contracts to a report."""

from __future__ import annotations

import logging
from pathlib import Path

from serving.contract import CONTRACT_FILE, ServingContract
from serving.package import Refused, read_contract
from serving.preprocess import raw_signature
from tasks.contracts import Finding, Image, Owner, ParityReport, ProcessorProof, SmokeReport, Verdict
from tasks.errors import PlatformError
from tasks.image.engine import NEEDS_LABEL, Engine
from tasks.settings import Settings
from tasks.smoke.accelerators import load_accelerators
from tasks.smoke.capacity import capacity
from tasks.smoke.catalogue import InstanceType, instance_type
from tasks.smoke.claims import beyond_type
from tasks.smoke.earlier import Earlier
from tasks.smoke.findings import Budgets
from tasks.smoke.foreign import judge_foreign, try_answers
from tasks.smoke.golden import NoGolden, batch_sizes, read_golden
from tasks.smoke.gpu import check_gpu, gpu_unproven
from tasks.smoke.host import Host
from tasks.smoke.judge import figures, judge, processors, worst_first
from tasks.smoke.quiet import Turn
from tasks.smoke.run import COMPONENT, Effort, Subject, is_capacity_asked, observe
from tasks.smoke.served import Served
from tasks.store import Store, fetch

_log = logging.getLogger(__name__)


def prove(
    spec: Served,
    image: Image,
    parity: ParityReport,
    kind: InstanceType,
    store: Store,
    engine: Engine,
    work: Path,
    *,
    host: Host,
    effort: Effort,
    settings: Settings | None = None,
    earlier: Earlier | None = None,
) -> SmokeReport:
    """`tasks.smoke.smoke` with everything that it looks up given; the environment's settings, unless others are.
    Without `earlier`, everything is measured."""
    engine.sweep(COMPONENT)
    known = _about_gpus(image, kind, store, work)
    proofs: tuple[ProcessorProof, ...] = ()
    if kind.architecture != host.architecture:
        # (An image for a GPU would be another one than could answer here.)
        found = (
            judge_foreign((), kind, host)
            if known
            else try_answers(image, kind, host, effort, store, engine, settings or Settings.from_environment(), work)
        )
        known, proofs = (*known, *found.findings), found.processors
    if known:
        verdict = Verdict.worst(finding.verdict for finding in known)
        return _report(image, kind, verdict, worst_first(known)).model_copy(update={"processors": proofs})
    if beyond := beyond_type(image.labels.get(NEEDS_LABEL, "").split(), kind):
        return _report(image, kind, Verdict.FAILED, beyond)
    raw = raw_signature(spec.signature, spec.preprocess)
    try:
        golden = read_golden(parity, raw, store, work)
    except NoGolden as error:
        return _report(image, kind, Verdict.INCONCLUSIVE, (_no_golden(error),))
    if engine.find_image(image.digest) is None:
        raise PlatformError(
            f"the image {image.reference} ({image.digest}) is not in the engine: run the image stage again with --fresh"
        )
    subject = Subject(
        image=image,
        kind=kind,
        golden=golden,
        batches=batch_sizes(raw, spec.serving.max_batch),
        infer_path=f"/v2/models/{spec.name}/infer",
        p99_ms=spec.serving.p99_ms,
    )
    with Turn(lambda: _log.info("another smoke on this machine measures: waiting for %s's turn", kind.name)) as turn:
        seen = observe(subject, host, effort, engine, turn, earlier or Earlier())
    verdict, findings = judge(seen, Budgets(spec.serving.cold_start_s, spec.serving.p99_ms))
    report = _report(image, kind, verdict, findings)
    return report.model_copy(
        update={"figures": figures(seen), "processors": processors(seen), "capacity": capacity(seen)}
    )


def prove_here(
    spec: Served,
    image: Image,
    parity: ParityReport,
    name: str,
    store: Store,
    engine: Engine,
    work: Path,
    earlier: Earlier | None = None,
) -> SmokeReport:
    """`prove` on this host, with the catalogue's type of that name and the effort that the spec's budgets ask for."""
    kind = instance_type(name)
    effort = Effort.of(spec.serving, capacity=is_capacity_asked())
    return prove(spec, image, parity, kind, store, engine, work, host=Host.this(), effort=effort, earlier=earlier)


def _about_gpus(image: Image, kind: InstanceType, store: Store, work: Path) -> tuple[Finding, ...]:
    """What the package's contract and the type say about GPUs; nothing where neither has to do with one."""
    contract = _read_contract(image, store, work)
    if contract is None:
        return () if kind.gpu is None else (gpu_unproven(kind.name, kind.gpu),)
    return check_gpu(contract, kind, load_accelerators())


def _read_contract(image: Image, store: Store, work: Path) -> ServingContract | None:
    """The contract that lies in the image; none where the store holds none for it, or one that only the image's own
    server can read, which says what is wrong with it when it starts."""
    if image.contract is None:
        return None
    folder = work / "contract"
    fetch(store, image.contract, folder / CONTRACT_FILE)
    try:
        return read_contract(folder)
    except Refused:
        return None


def _no_golden(reason: NoGolden) -> Finding:
    return Finding(
        code="SMOKE_NO_GOLDEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"there is nothing to hold the image's answers against: {reason}",
        advice="run the parity stage again with --fresh: it stores the golden samples",
    )


def _report(image: Image, kind: InstanceType, verdict: Verdict, findings: tuple[Finding, ...]) -> SmokeReport:
    return SmokeReport(
        verdict=verdict,
        findings=findings,
        format=image.format,
        image_digest=image.digest,
        instance_type=kind.name,
        vcpus=kind.vcpus,
        memory_bytes=kind.memory_bytes,
    )
