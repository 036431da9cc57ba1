"""An image for another architecture is made only where there is everything for it; else the engine is not asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tasks.image.variant import NoVariant, variant
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples


@pytest.mark.parametrize(
    ("changes", "architecture", "why"),
    [
        ({"runtime": "torch"}, "arm64", "the runtime torch is not built for arm64"),
        ({}, "riscv64", "the runtime onnx is not built for riscv64"),
        ({}, "arm64", "its contract is not in the store"),
    ],
)
def test_there_is_no_variant_and_the_reason_is_said(
    tmp_path: Path, changes: dict[str, Any], architecture: str, why: str
) -> None:
    image = samples.image(**changes)
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path)})
    with pytest.raises(NoVariant, match=why):
        variant(image, architecture, LocalStore(tmp_path / "store"), cast(Any, None), settings)
