"""What both versions are held to: the same model gives the same answers; a retrained one is as good at its task.

In: both packages and their specs. Out: `Expectations`, and what can be said before anything is sent: whether requests
of today's clients can be understood by the new version at all. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serving.contract import DimRange, NanPolicy, PreprocessStep, Signature, TensorSpec, Tolerance
from serving.preprocess import raw_signature
from tasks.contracts import Digest, Finding, Owner, Package, ParityReport, Verdict
from tasks.ingest.metric_code import MetricFunction
from tasks.release.contracts import Deployed
from tasks.release.shadow.answers import together
from tasks.release.shadow.requests import Arrays
from tasks.spec import EvaluationSpec, ModelSpec

Kind = Literal["equivalent", "retrained", "first"]


@dataclass(frozen=True, slots=True)
class Version:
    """One of the two versions, as far as its answers go. `contract` is what its records in a prediction log name;
    `edges` is the share of evaluation rows that parity found so near a threshold that rounding decides their answer."""

    model: str
    raw: Signature
    preprocess: tuple[PreprocessStep, ...]
    artifact: Digest
    parity: ParityReport
    contract: Digest | None
    max_batch: int
    edges: float = 0.0

    @classmethod
    def of(cls, deployed: Deployed, package: Package, spec: ModelSpec) -> Version:
        """A package as it is deployed.

        Raises:
            ValueError: the package has no parity report of that format.
        """
        report = next((report for report in package.parity if report.format == deployed.format), None)
        if report is None:
            raise ValueError(f"the package {package.digest} has no parity report of {deployed.format}")
        image = next((image for image in package.images if image.digest == deployed.image), None)
        return cls(
            model=package.name,
            raw=raw_signature(spec.signature, spec.preprocess),
            preprocess=spec.preprocess,
            artifact=package.inputs.artifact,
            parity=report,
            contract=None if image is None else image.contract_digest,
            max_batch=spec.serving.max_batch,
            edges=_edges(report, package.artifact.evaluation.rows),
        )

    @property
    def tolerances(self) -> dict[str, Tolerance]:
        """How far its answers may lie from its source model's, by output."""
        return {output.name: output.tolerance for output in self.parity.outputs}


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the new version is held to. `labels` are columns of the evaluation data that metrics read, by all rows.

    `remarks` is what was found while requests were gathered, and must be said whatever the answers are.
    """

    kind: Kind
    asked: int
    new: Version
    old: Version | None
    p99_ms: float
    evaluation: EvaluationSpec | None = None
    labels: Arrays = field(default_factory=dict)
    own: Mapping[str, MetricFunction] = field(default_factory=dict)
    agreement: float | None = None
    remarks: tuple[Finding, ...] = ()

    @property
    def tolerances(self) -> dict[str, Tolerance]:
        """How far the two may lie apart; of a first version, how far it may lie from its own source model."""
        return self.new.tolerances if self.old is None else together(self.old.tolerances, self.new.tolerances)


def kind_of(old: Version | None, new: Version) -> Kind:
    """The same trained bytes, opened and prepared in the same way, are the same model in whatever format."""
    if old is None:
        return "first"
    same = (old.artifact, old.preprocess) == (new.artifact, new.preprocess)
    return "equivalent" if same else "retrained"


def _edges(report: ParityReport, rows: int) -> float:
    found = (finding.evidence for finding in report.findings if finding.code == "PARITY_ROWS_ON_EDGE")
    return sum(float(said["rows"]) for said in found if said.get("pool") == "evaluation") / rows


# --- whether clients are still understood -------------------------------------------------------------------------


def signature_findings(old: Signature, new: Signature) -> tuple[Finding, ...]:
    """What requests of today's clients would be refused for, or what they read that is no longer there; nothing where
    all that changed is wider than before. Ranges of sizes and values that became narrower are a remark: whether any
    client uses what is gone, the replay shows."""
    findings = [_changed(what, where) for what, where in (*_inputs(old, new), *_outputs(old, new))]
    return tuple(findings) + tuple(_narrowed(what, where) for what, where in _narrower(old, new))


def _inputs(old: Signature, new: Signature) -> Iterator[tuple[str, str]]:
    before = {tensor.name: tensor for tensor in old.inputs}
    after = {tensor.name: tensor for tensor in new.inputs}
    for name, tensor in before.items():
        if name not in after:
            yield f"input {name!r} is not taken any more", name
        elif (clause := _incompatible(tensor, after[name])) is not None:
            yield f"input {name!r} {clause}", name
    for name in after:
        if name not in before:
            yield f"input {name!r} is asked for, which today's clients do not send", name


def _outputs(old: Signature, new: Signature) -> Iterator[tuple[str, str]]:
    after = {tensor.name: tensor for tensor in new.outputs}
    for tensor in old.outputs:
        if tensor.name not in after:
            yield f"output {tensor.name!r}, which today's clients may read, is gone", tensor.name
        elif after[tensor.name].dtype is not tensor.dtype:
            yield f"output {tensor.name!r} is {after[tensor.name].dtype} and was {tensor.dtype}", tensor.name


def _incompatible(before: TensorSpec, after: TensorSpec) -> str | None:
    """Why a tensor that was right before is refused now, as one clause; None where it may be taken."""
    if before.dtype is not after.dtype:
        return f"is {after.dtype} and was {before.dtype}"
    sizes = [(was, now) for was, now in zip(before.shape, after.shape, strict=False) if isinstance(now, int)]
    if len(before.shape) != len(after.shape) or any(was != now for was, now in sizes):
        return f"has the shape {_shape(after)} and had {_shape(before)}"
    return None


def _narrower(old: Signature, new: Signature) -> Iterator[tuple[str, str]]:
    after = {tensor.name: tensor for tensor in new.inputs}
    for tensor in old.inputs:
        now = after.get(tensor.name)
        if now is None or len(now.shape) != len(tensor.shape):
            continue
        for was, is_now in zip(tensor.shape, now.shape, strict=True):
            if isinstance(is_now, str) and not _within(_span(was, old), new.dynamic[is_now]):
                yield f"sizes of {is_now!r} of input {tensor.name!r} run from fewer values than before", tensor.name
        if tensor.nan is NanPolicy.ACCEPT and now.nan is not NanPolicy.ACCEPT:
            yield f"input {tensor.name!r} does not take missing values any more", tensor.name
        if now.range is not None and now.range != tensor.range:
            yield f"input {tensor.name!r} takes values of {list(now.range)}", tensor.name


def _span(size: int | str, signature: Signature) -> DimRange:
    return DimRange(size, size) if isinstance(size, int) else signature.dynamic[size]


def _within(inner: DimRange, outer: DimRange) -> bool:
    return outer.min <= inner.min and inner.max <= outer.max


def _shape(tensor: TensorSpec) -> str:
    return "[" + ", ".join(map(str, tensor.shape)) + "]"


def _changed(what: str, where: str) -> Finding:
    return Finding(
        code="SHADOW_SIGNATURE_CHANGED",
        owner=Owner.MODEL,
        message=f"clients of the version in production would not be understood: {what}",
        advice="keep the signature as clients know it, or release the model under another name and move its clients",
        evidence={"tensor": where},
    )


def _narrowed(what: str, where: str) -> Finding:
    return Finding(
        code="SHADOW_SIGNATURE_NARROWED",
        owner=Owner.MODEL,
        verdict=Verdict.PASSED,
        message=f"the new version takes less than the one in production: {what}",
        advice="look whether any client sends what is not taken any more; recorded requests show it, where there is a "
        "prediction log",
        evidence={"tensor": where},
    )
