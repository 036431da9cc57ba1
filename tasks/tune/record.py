"""A tuning in MLflow: beside the evidence of the package whose image was measured.

In: both images' digests and the measurements. Out: the id of the package's run, where the store knows the package and
MLflow has its run; the measurements are its artifact `tuning/<format>.json`, the tuned image a tag.
"""

from __future__ import annotations

from tasks.contracts import Digest
from tasks.lineage.history import packages
from tasks.lineage.tracking import tracking
from tasks.settings import Settings
from tasks.store import open_store
from tasks.tune.run import Tuning


def record(
    measured: Digest, tuned: Digest, format: str, tuning: Tuning, content: bytes, settings: Settings
) -> str | None:
    """Write a tuning into its package's run; the run's id, or None where there is none.

    Raises:
        TrackingUnavailable: MLflow does not answer.
    """
    known = packages(open_store(settings.store_uri))
    found = next((item for item in known if measured in {image.digest for image in item.package.images}), None)
    if found is None or found.record is None or tuning.choice is None:
        return None
    run = found.record.run_id
    with tracking(settings, only_existing=True) as client:
        client.log_text(run, content.decode(), f"tuning/{format}.json")
        client.log_metric(run, f"tuned_{format}_requests_per_s", tuning.choice.rate)
        client.set_tag(run, f"slipway.tuned.{format}", tuned)
    return run
