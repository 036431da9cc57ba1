"""docs/instance-types.md tells the truth: its example is a valid file, and it explains every finding that there is."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.smoke.catalogue import CATALOGUE_FILE, read_catalogue

PAGE = Path(__file__).parents[3] / "docs" / "instance-types.md"


def test_the_example_of_an_own_file_can_be_used(tmp_path: Path) -> None:
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S) if "rack-7" in block)
    own = tmp_path / "own.yaml"
    own.write_text(example)
    assert read_catalogue(CATALOGUE_FILE, own)["rack-7"].vcpus == 4


def test_every_finding_is_explained() -> None:
    code = "".join(path.read_text() for path in CATALOGUE_FILE.parent.glob("*.py"))
    explained = set(re.findall(r"SMOKE_[A-Z_]+", PAGE.read_text()))
    assert set(re.findall(r"\"(SMOKE_[A-Z_]+)\"", code)) == explained
