"""The parity benchmark's file of figures: a partial run leaves the rest as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.parity.__main__ import main
from benchmarks.parity.figures import Faithful, keep

COSTS = [{"example": "digits-cnn", "format": "onnx", "parity_s": 8.0}]
CLEAN = [{"name": "cnn", "format": "onnx", "codes": []}, {"name": "gru", "format": "onnx", "codes": []}]


def test_a_part_that_was_not_run_keeps_its_figures(tmp_path: Path) -> None:
    keep(tmp_path / "parity.json", {"costs": COSTS, "clean": CLEAN})
    keep(tmp_path / "parity.json", {"clean": CLEAN[:1]})
    assert json.loads((tmp_path / "parity.json").read_text()) == {"costs": COSTS, "clean": CLEAN[:1]}


def test_what_a_pattern_left_out_of_a_part_keeps_its_figures(tmp_path: Path) -> None:
    keep(tmp_path / "parity.json", {"clean": CLEAN})
    again = {"name": "cnn", "format": "onnx", "codes": ["PARITY_NAN"]}
    keep(tmp_path / "parity.json", {"clean": [again]}, "cnn-*")
    assert json.loads((tmp_path / "parity.json").read_text()) == {"clean": [CLEAN[1], again]}


def test_the_command_itself_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    keep(_file(tmp_path), {"costs": COSTS})
    monkeypatch.setattr("sys.argv", ["parity.py", "clean", "--only", "no such model"])
    assert main() == 0
    assert json.loads(_file(tmp_path).read_text()) == {"costs": COSTS, "clean": []}


@pytest.mark.parametrize(
    ("codes", "refused_by", "right"),
    [
        ((), None, True),
        (("PARITY_NAN",), None, False),
        (("EXPORT_UNSUPPORTED_OPERATOR",), "EXPORT_UNSUPPORTED_OPERATOR", True),
        ((), "EXPORT_UNSUPPORTED_OPERATOR", False),
        (("EXPORT_CRASHED",), "EXPORT_UNSUPPORTED_OPERATOR", False),
    ],
)
def test_a_clean_model_has_to_pass_and_one_that_a_format_cannot_express_to_be_refused_for_that(
    codes: tuple[str, ...], refused_by: str | None, right: bool
) -> None:
    assert Faithful("gru", "torch-aoti", codes, None, 1.0, refused_by).right is right


def _file(home: Path) -> Path:
    (home / "bench").mkdir(exist_ok=True)
    return home / "bench" / "parity.json"
