"""A tuning in MLflow: beside the evidence of the package whose image was tuned.

In: a signed tuned image. Out: the id of the package's run, where MLflow has one. The measurements and the envelope are
its artifacts `tuning/<format>.json` and `tuning/<format>.attestation.json`; the tuned image, the image it was tuned
from and the digest of the curve are tags, on the run and on the package's model version.
"""

from __future__ import annotations

from tasks.attestation import attestation_of
from tasks.contracts import LineageRecord, TunedImage
from tasks.lineage.tracking import tracking
from tasks.settings import Settings
from tasks.store import Store, read_bytes


def record(tuned: TunedImage, package: LineageRecord | None, store: Store, settings: Settings) -> str | None:
    """Write a tuning into its package's run; the run's id, or None where there is none.

    Raises:
        TrackingUnavailable: MLflow does not answer.
    """
    if package is None:
        return None
    run, name = package.run_id, tuned.format
    envelope = attestation_of(tuned.digest, store)
    with tracking(settings, only_existing=True) as client:
        client.log_text(run, read_bytes(store, tuned.curve).decode(), f"tuning/{name}.json")
        if envelope is not None:
            client.log_text(run, envelope, f"tuning/{name}.attestation.json")
        client.log_metric(run, f"tuned_{name}_requests_per_s", tuned.requests_per_s)
        for key, value in _tags(tuned).items():
            client.set_tag(run, key, value)
            if package.model_name is not None and package.model_version is not None:
                client.set_model_version_tag(package.model_name, package.model_version, key, value)
    return run


def _tags(tuned: TunedImage) -> dict[str, str]:
    """What a tuned image is found by, and what it leads to."""
    found = f"slipway.tuned.{tuned.format}"
    return {found: tuned.digest, f"{found}.from": tuned.base, f"{found}.curve": tuned.curve.digest}
