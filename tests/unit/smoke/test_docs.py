"""docs/instance-types.md tells the truth: its example is a valid file, and it explains every finding that there is."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.smoke.catalogue import CATALOGUE_FILE, Price, read_catalogue

PAGE = Path(__file__).parents[3] / "docs" / "instance-types.md"


def test_the_example_of_an_own_file_can_be_used(tmp_path: Path) -> None:
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S) if "rack-7" in block)
    own = tmp_path / "own.yaml"
    own.write_text(example)
    known = read_catalogue(CATALOGUE_FILE, own)
    assert known["rack-7"].vcpus == 4
    assert known["rack-7"].price == Price(per_hour=0.21, currency="EUR")
    gpu = known["g5.xlarge"].gpu
    assert gpu is not None
    assert gpu.driver.min == "550.90.07"


def test_it_says_how_many_types_there_are() -> None:
    types = read_catalogue(CATALOGUE_FILE).values()
    said = re.search(r"\((\d+) of AWS.*?(\d+) of them with NVIDIA GPUs", PAGE.read_text(), re.S)
    assert said is not None
    assert said.groups() == (str(len(types)), str(sum(kind.gpu is not None for kind in types)))


def test_every_finding_is_explained() -> None:
    code = "".join(path.read_text() for path in CATALOGUE_FILE.parent.glob("*.py"))
    explained = set(re.findall(r"SMOKE_[A-Z_]+", PAGE.read_text()))
    assert set(re.findall(r"\"(SMOKE_[A-Z_]+)\"", code)) == explained
