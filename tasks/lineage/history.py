"""The packages that the store knows, and where each stands in MLflow. Works without MLflow.

`results/package/<digest>` holds the manifest, `results/lineage/<digest>` where it was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from tasks.contracts import LineageRecord, Package
from tasks.store import Store


@dataclass(frozen=True, slots=True)
class Recorded:
    """A package, and its record where MLflow has it."""

    package: Package
    record: LineageRecord | None


def packages(store: Store) -> Iterator[Recorded]:
    """Every package, newest first. Manifests that another version of Slipway wrote in another form are left out."""
    for text in store.results("package"):
        try:
            package = Package.model_validate_json(text)
        except ValidationError:
            continue
        yield Recorded(package, record_of(package, store))


def record_of(package: Package, store: Store) -> LineageRecord | None:
    """Where a package was recorded, as far as the store knows."""
    text = store.get_result("lineage", package.digest)
    try:
        return None if text is None else LineageRecord.model_validate_json(text)
    except ValidationError:
        return None
