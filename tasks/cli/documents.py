"""Packages as the JSON documents of `package` and `status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.contracts import LineageRecord, Package
    from tasks.lineage import Recorded


def standing_document(item: Recorded) -> dict[str, Any]:
    """A package as `status` tells it."""
    tuned = [image.model_dump(mode="json") for image in item.tuned]
    return {**package_document(item.package, item.record), "tuned": tuned}


def package_document(made: Package, recorded: LineageRecord | None) -> dict[str, Any]:
    """What every command tells of a package."""
    return {
        "name": made.name,
        "package": made.digest,
        "verdict": made.verdict,
        "serving_format": made.serving_format,
        "manifest": made.model_dump(mode="json"),
        "mlflow": None if recorded is None else recorded.model_dump(mode="json"),
    }
