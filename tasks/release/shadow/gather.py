"""Both packages → which requests to replay and what is expected of the answers: from the store and a prediction log.

In: what is deployed and what is to be, by digest. Out: `Gathered`. What is missing in the store or the log becomes a
finding that blocks; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from serving.preprocess import raw_signature
from tasks.contracts import Finding, Package, Verdict
from tasks.errors import BadInput, CorruptObject, EvaluationError
from tasks.ingest.evaluation import load_evaluation
from tasks.ingest.metric_code import load_metrics
from tasks.lineage import spec_of
from tasks.parity.inputs import batching
from tasks.release.contracts import Deployed
from tasks.release.shadow import findings as say
from tasks.release.shadow.expectations import Expectations, Version, kind_of, signature_findings
from tasks.release.shadow.requests import Arrays, Logged, Origin, Request, Sizes, Table, logged, plan
from tasks.smoke.golden import NoGolden, read_golden
from tasks.spec import ModelSpec, ShadowSpec
from tasks.store import Store


@dataclass(frozen=True, slots=True)
class Gathered:
    """Requests in order, what is expected, and where the requests are from, for people."""

    requests: tuple[Request, ...]
    expectations: Expectations
    source: str


@dataclass(frozen=True, slots=True)
class Known:
    """A deployed package with its manifest and its spec."""

    deployed: Deployed
    package: Package
    spec: ModelSpec

    @property
    def version(self) -> Version:
        """What its answers are held by.

        Raises:
            BadInput: the package was not compared in that format.
        """
        try:
            return Version.of(self.deployed, self.package, self.spec)
        except ValueError as error:
            raise BadInput(f"{error}: package the model again") from error


def known(deployed: Deployed, store: Store) -> Known:
    """A deployed package as the store has it.

    Raises:
        BadInput: the store has no such package, or not the spec that it was packaged with.
    """
    text = store.get_result("package", deployed.package)
    try:
        package = None if text is None else Package.model_validate_json(text)
    except ValidationError:
        package = None
    spec = None if package is None else spec_of(package, store)
    if package is None or spec is None:
        missing = "package" if package is None else "spec of the package"
        raise BadInput(
            f"the store {store.uri} has no {missing} {deployed.package}, as this version of Slipway writes it: package "
            "the model again"
        )
    return Known(deployed, package, spec)


def gather(
    old: Known | None, new: Known, wanted: ShadowSpec, store: Store, work: Path, log: Path | None = None
) -> Gathered:
    """What is replayed and expected. `work` is a folder for what is fetched; `log` the old version's prediction log.

    Raises:
        BadInput: what the store holds is not what the packages say.
    """
    before, after = None if old is None else old.version, new.version
    changed = () if before is None else signature_findings(before.raw, after.raw)
    remarks: list[Finding] = list(changed)
    tables: list[Table] = []
    labels: Arrays = {}
    evaluation: Table | None = None
    recorded = Logged()
    if not _blocks(changed):
        tables += _golden(after, Origin.GOLDEN, store, work / "new", remarks)
        if before is not None and before.parity.golden != after.parity.golden:
            tables += _golden(before, Origin.OLD_GOLDEN, store, work / "old", remarks)
        evaluation, labels = _evaluation(new, store, work, remarks)
        if log is not None:
            recorded = _logged(log, before or after, wanted.requests, remarks)
    requests = plan(wanted.requests, _sizes(before, after), tables, recorded.requests, evaluation)
    if not requests and not _blocks(remarks):
        remarks.append(say.no_requests("neither golden samples nor evaluation rows nor a prediction log were found"))
    expectations = Expectations(
        kind=kind_of(before, after),
        asked=wanted.requests,
        new=after,
        old=before,
        p99_ms=new.spec.serving.p99_ms,
        evaluation=new.spec.evaluation,
        labels=labels,
        own=load_metrics(new.spec.evaluation, new.package.artifact.evaluation, store, work) if labels else {},
        agreement=wanted.agreement,
        remarks=tuple(remarks),
    )
    return Gathered(requests, expectations, _source(requests))


def _blocks(findings: list[Finding] | tuple[Finding, ...]) -> bool:
    return any(finding.verdict is not Verdict.PASSED for finding in findings)


def _sizes(before: Version | None, after: Version) -> Sizes:
    """Rows of a request that both versions take, by their signatures and by what serving batches to."""
    now = batching(after.raw, after.max_batch)
    if before is None:
        return Sizes(now.sizes, now.chunk)
    then = batching(before.raw, before.max_batch)
    both = tuple(sorted(set(now.sizes) & set(then.sizes))) or now.sizes
    return Sizes(both, max((size for size in both if size <= min(now.chunk, then.chunk)), default=both[0]))


def _golden(version: Version, origin: Origin, store: Store, work: Path, remarks: list[Finding]) -> list[Table]:
    """A package's golden samples; only the new one's say what the answers must be."""
    try:
        found = read_golden(version.parity, version.raw, store, work)
    except (NoGolden, CorruptObject) as error:
        if origin is Origin.GOLDEN:
            remarks.append(say.no_golden(str(error)))
        return []
    rows = len(next(iter(found.inputs.values())))
    return [Table(origin, found.inputs, rows, found.outputs if origin is Origin.GOLDEN else None)]


def _evaluation(new: Known, store: Store, work: Path, remarks: list[Finding]) -> tuple[Table | None, Arrays]:
    """The new package's evaluation rows and their labels; without labels there is no metric to hold it to."""
    raw, artifact = raw_signature(new.spec.signature, new.spec.preprocess), new.package.artifact
    try:
        columns = load_evaluation(artifact, store, work, new.spec.preprocess)
        inputs = {tensor.name: columns[tensor.name] for tensor in raw.inputs}
        labels = {name: columns[name] for name in new.spec.evaluation.columns}
    except (CorruptObject, EvaluationError, KeyError) as error:
        remarks.append(say.no_evaluation(str(error)))
        return None, {}
    return Table(Origin.EVALUATION, inputs, len(next(iter(inputs.values())))), labels


def _logged(folder: Path, version: Version, most: int, remarks: list[Finding]) -> Logged:
    """What clients really asked, as far as it was kept whole."""
    try:
        found = logged(folder, version.model, version.raw, version.contract or "", most)
    except (OSError, ValueError) as error:
        remarks.append(say.unreadable_log(str(folder), str(error)))
        return Logged()
    if found.redacted:
        remarks.append(say.redacted(found))
    if found.others:
        remarks.append(say.outdated(found))
    return found


def _source(requests: tuple[Request, ...]) -> str:
    """`16 golden samples, 1,000 recorded requests, 180 evaluation rows`."""
    rows: dict[Origin, set[tuple[int, int]]] = {}
    for request in requests:
        kind = request.table.origin
        places = (0,) if kind is Origin.LOG else request.places
        rows.setdefault(kind, set()).update((id(request.table), place) for place in places)
    return ", ".join(f"{len(found):,} {kind}{'' if len(found) == 1 else 's'}" for kind, found in rows.items()).replace(
        "sample of the old versions", "samples of the old version"
    )
