"""The packages that the store knows, and where each stands in MLflow. Works without MLflow.

`results/package/<digest>` holds the manifest, `results/lineage/<digest>` where it was recorded;
`results/tuned/<digest>` an image that was tuned from one of its images, by its own digest; `results/spec/<digest>` the
spec that a package was asked for with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tasks.contracts import Digest, LineageRecord, Package, TunedImage
from tasks.spec import ModelSpec
from tasks.store import Store

_TUNED = "tuned"
_SPEC = "spec"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A package, its record where MLflow has it, and the images that were tuned from its own, newest first."""

    package: Package
    record: LineageRecord | None
    tuned: tuple[TunedImage, ...] = ()


def packages(store: Store) -> Iterator[Recorded]:
    """Every package, newest first. Manifests that another version of Slipway wrote in another form are left out."""
    tuned = _tuned(store)
    for text in store.results("package"):
        try:
            package = Package.model_validate_json(text)
        except ValidationError:
            continue
        yield Recorded(package, record_of(package, store), tuple(tuned.get(package.digest, ())))


def record_of(package: Package, store: Store) -> LineageRecord | None:
    """Where a package was recorded, as far as the store knows."""
    text = store.get_result("lineage", package.digest)
    try:
        return None if text is None else LineageRecord.model_validate_json(text)
    except ValidationError:
        return None


def remember_spec(spec: ModelSpec, store: Store) -> None:
    """Let the spec be known with the packages that were asked for with it: a release goes by it, long after."""
    store.put_result(_SPEC, spec.digest, spec.model_dump_json(exclude={"folder"}))


def spec_of(package: Package, store: Store) -> ModelSpec | None:
    """The spec of a package; `None` where the store has none that is exactly it. Its folder is not known any more."""
    text = store.get_result(_SPEC, package.inputs.spec)
    if text is None:
        return None
    try:
        spec = ModelSpec.model_validate({**json.loads(text), "folder": Path()})
    except ValueError:  # not JSON, or not a spec of this version
        return None
    return spec if spec.digest == package.inputs.spec else None


def remember_tuned(tuned: TunedImage, store: Store) -> None:
    """Let a tuned image be known with its package."""
    store.put_result(_TUNED, tuned.digest, tuned.model_dump_json())


def _tuned(store: Store) -> dict[Digest, list[TunedImage]]:
    """The tuned images by package, newest first."""
    found: dict[Digest, list[TunedImage]] = {}
    for text in store.results(_TUNED):
        try:
            tuned = TunedImage.model_validate_json(text)
        except ValidationError:  # another version of Slipway wrote it in another form
            continue
        found.setdefault(tuned.package, []).append(tuned)
    return found
