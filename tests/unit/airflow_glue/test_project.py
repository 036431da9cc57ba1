from __future__ import annotations

from pathlib import Path

import pytest

from tasks.airflow_glue.project import ROOT, absolute, default_patterns, shown, spec_files


def _spec(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "model.yaml"
    path.write_text("name: x")
    return path


def test_a_folder_stands_for_every_spec_below_it(tmp_path: Path) -> None:
    specs = [_spec(tmp_path / "a"), _spec(tmp_path / "b" / "c")]
    (tmp_path / "b" / "other.yaml").write_text("")
    assert spec_files([str(tmp_path)]) == specs


def test_a_spec_that_is_named_twice_is_found_once(tmp_path: Path) -> None:
    spec = _spec(tmp_path / "a")
    assert spec_files([str(tmp_path), str(tmp_path / "*" / "model.yaml"), str(spec)]) == [spec]


def test_what_does_not_exist_is_no_spec(tmp_path: Path) -> None:
    assert spec_files([str(tmp_path / "nowhere"), str(tmp_path / "no*" / "model.yaml")]) == []


def test_patterns_are_relative_to_the_repository_whatever_folder_a_worker_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ROOT / "examples" / "digits-cnn" / "model.yaml" in spec_files(["examples/*/model.yaml"])
    assert absolute("examples/digits-cnn/model.yaml") == ROOT / "examples" / "digits-cnn" / "model.yaml"


def test_the_environment_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_SPECS", "/models:/more/*/model.yaml")
    assert default_patterns() == ["/models", "/more/*/model.yaml"]
    monkeypatch.setenv("SLIPWAY_SPECS", "")
    assert default_patterns() == ["examples/*/model.yaml"]


def test_a_path_is_shown_as_people_know_it(tmp_path: Path) -> None:
    assert shown(ROOT / "examples" / "model.yaml") == "examples/model.yaml"
    assert shown(tmp_path / "model.yaml") == str(tmp_path / "model.yaml")
