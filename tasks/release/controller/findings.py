"""What a release's controller finds itself; the gates that it asks (attestation, shadow, judge) have their own."""

from __future__ import annotations

from tasks.contracts import Finding, Owner, Verdict
from tasks.errors import PlatformError
from tasks.release.contracts import Deployed, Phase, Release


def unwatched(by: str) -> Finding:
    """Whoever watched it stopped."""
    return Finding(
        code="RELEASE_UNWATCHED",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"{by} stopped watching before it was decided; no user meets a new version that nobody watches",
        advice="`slipway release --resume MODEL` goes on with the same evidence; `slipway rollback MODEL` ends it",
    )


def needs_a_person(release: Release) -> bool:
    """Whether a release is held by its evidence, and not just because whoever watched it went away."""
    return release.phase is Phase.HELD and {item.code for item in release.findings} != {"RELEASE_UNWATCHED"}


def asked_back(by: str, reason: str) -> Finding:
    """A person or a DAG said so."""
    return Finding(
        code="RELEASE_ROLLBACK_ASKED",
        owner=Owner.MODEL,
        message=f"{by} asked for the package before: {reason or 'no reason was given'}",
        advice="release again once that is settled",
    )


def not_approved(by: str) -> Finding:
    """A person was asked, and said no."""
    return Finding(
        code="RELEASE_NOT_APPROVED",
        owner=Owner.MODEL,
        message=f"{by} did not agree that users meet the new version",
        advice="ask them why; `slipway release` asks again",
    )


def not_ready(deployed: Deployed, error: PlatformError) -> Finding:
    """The new server did not come up where it will serve."""
    return Finding(
        code="RELEASE_NOT_READY",
        owner=Owner.PLATFORM,
        message=f"the server of {deployed.reference} did not become ready here: {error}",
        advice=f"`slipway smoke {deployed.reference}` tries the same image under limits, and says more",
        evidence={"image": deployed.image},
    )


def lost(deployed: Deployed, error: PlatformError) -> Finding:
    """The new server is gone in the middle of its release."""
    return Finding(
        code="RELEASE_ARM_LOST",
        owner=Owner.PLATFORM,
        message=f"the server of {deployed.reference} is gone and does not come back: {error}",
        advice="its last words are in the engine's logs, where it still has them; users are with the stable package",
        evidence={"image": deployed.image},
    )


def golden_differs(deployed: Deployed, complaint: str, asked: int) -> Finding:
    """A golden answer is not the source model's."""
    return Finding(
        code="RELEASE_GOLDEN_DIFFERS",
        owner=Owner.PLATFORM,
        message=f"{deployed.reference} passed smoke with its golden samples, and answers otherwise here: {complaint}",
        advice="compare this machine with the instance types that smoke proved; `slipway smoke` asks the same samples",
        evidence={"image": deployed.image, "asked": asked},
    )


def image_differs(deployed: Deployed, found: str | None) -> Finding:
    """What would run is not what was proven."""
    has = "has none of that name" if found is None else f"has {found} under that name"
    return Finding(
        code="RELEASE_IMAGE_DIFFERS",
        owner=Owner.PLATFORM,
        message=f"the package's image is {deployed.reference} {deployed.image}; the engine {has}",
        advice="somebody removed or rebuilt it: package the model again, which rebuilds what is missing, or pull it",
        evidence={"image": deployed.image},
    )


def no_package(deployed: Deployed) -> Finding:
    """The store does not know what is to be released."""
    return Finding(
        code="RELEASE_NO_PACKAGE",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the store has no package {deployed.package} with its spec, so nothing can be held against it",
        advice="package the model again, or point SLIPWAY_STORE to the store where it was packaged",
        evidence={"package": deployed.package},
    )
