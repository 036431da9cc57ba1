"""A `Package` → what is signed of it: an in-toto Statement (v1) about its images. Pure.

The images are the subjects, by digest. The predicate binds them to all that they follow from: source artifact →
export → parity's report and verdict → image and its layers → smoke, with the evaluation data and the pipeline that made
them. Everything in it is a digest, a name or a verdict; there is no time of day in it, so that the same package gives
the same bytes.
"""

from __future__ import annotations

from tasks.attestation.envelope import Kind, statement_of
from tasks.contracts import (
    Contract,
    Digest,
    Image,
    Package,
    PackageInputs,
    ParityReport,
    SmokeReport,
    Verdict,
    digest_of,
)
from tasks.reuse import artifact_digest

PACKAGE = Kind(
    predicate_type="urn:slipway:package:v1",
    subject="the package",
    redo="run the same `slipway package` again, which reuses every stage and signs the package anew",
    beware="do not release it: package or attestation were changed after they were signed; "
    "`slipway package` with --fresh makes both again",
)

#: Labels of an image that name what it was built from (`tasks.image.build`).
_EXPORT_LABEL, _PARITY_LABEL = "io.slipway.export", "io.slipway.parity"


class Source(Contract):
    """The trained model: the digest of its files, and of them with how they are opened."""

    uri: str
    run: str | None
    files: Digest
    artifact: Digest


class Evaluation(Contract):
    """What the model was measured on, and whether that data held."""

    data: Digest
    verdict: Verdict


class ParityEvidence(Contract):
    """Parity's whole report by its digest, and what it answered about which export."""

    report: Digest
    export: Digest
    verdict: Verdict


class ImageEvidence(Contract):
    """An image, its layers from the base upwards, and the export and parity report that it was built from."""

    digest: Digest
    layers: tuple[Digest, ...]
    contract: Digest
    sbom: Digest | None
    export: str
    parity: str


class SmokeEvidence(Contract):
    """Smoke's report on one instance type by its digest, and what it answered about which image."""

    instance_type: str
    report: Digest
    image: Digest
    verdict: Verdict


class FormatEvidence(Contract):
    """One format's way through the gates, as far as it got."""

    format: str
    export: Digest | None
    parity: ParityEvidence | None
    image: ImageEvidence | None
    smoke: tuple[SmokeEvidence, ...]


class Predicate(Contract):
    """What is said about the images."""

    package: Digest
    name: str
    owner: str
    verdict: Verdict
    serving_format: str | None
    inputs: PackageInputs
    source: Source
    evaluation: Evaluation
    formats: tuple[FormatEvidence, ...]


def predicate_of(package: Package) -> Predicate:
    """What a package's evidence says."""
    artifact = package.artifact
    quality = artifact.evaluation.quality
    return Predicate(
        package=package.digest,
        name=package.name,
        owner=package.owner,
        verdict=package.verdict,
        serving_format=package.serving_format,
        inputs=package.inputs,
        source=Source(
            uri=artifact.source_uri,
            run=artifact.source_run,
            files=artifact.files.digest,
            artifact=artifact_digest(artifact),
        ),
        evaluation=Evaluation(
            data=artifact.evaluation.digest,
            verdict=Verdict.INCONCLUSIVE if quality is None else quality.verdict,
        ),
        formats=tuple(_of_format(package, report.format) for report in package.exports),
    )


def statement(package: Package) -> bytes:
    """The in-toto Statement about a package's images, as canonical JSON.

    Raises:
        ValueError: the package has no image, so there is nothing to make a statement about.
    """
    return statement_of({image.reference: image.digest for image in package.images}, PACKAGE, predicate_of(package))


def _of_format(package: Package, name: str) -> FormatEvidence:
    exports = {report.format: report.export for report in package.exports}
    parity = {report.format: report for report in package.parity}
    images = {image.format: image for image in package.images}
    export = exports[name]
    return FormatEvidence(
        format=name,
        export=None if export is None else export.files.digest,
        parity=_of_parity(parity[name]) if name in parity else None,
        image=_of_image(images[name]) if name in images else None,
        smoke=tuple(_of_smoke(report) for report in package.smoke if report.format == name),
    )


def _of_parity(report: ParityReport) -> ParityEvidence:
    return ParityEvidence(report=digest_of(report), export=report.export_digest, verdict=report.verdict)


def _of_image(image: Image) -> ImageEvidence:
    return ImageEvidence(
        digest=image.digest,
        layers=image.layers,
        contract=image.contract_digest,
        sbom=None if image.sbom is None else image.sbom.digest,
        export=image.labels.get(_EXPORT_LABEL, ""),
        parity=image.labels.get(_PARITY_LABEL, ""),
    )


def _of_smoke(report: SmokeReport) -> SmokeEvidence:
    return SmokeEvidence(
        instance_type=report.instance_type,
        report=digest_of(report),
        image=report.image_digest,
        verdict=report.verdict,
    )
