"""Where state is kept, and how each place is replaced by one variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.settings import Settings


def test_everything_embedded_lies_below_slipway_home(tmp_path: Path) -> None:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path)})
    assert settings.home == tmp_path
    assert settings.store_uri == str(tmp_path / "store")
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert settings.work == tmp_path / "work"
    assert settings.registry is None


def test_without_a_home_it_is_a_folder_of_where_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({}).home == tmp_path / ".slipway"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({"SLIPWAY_HOME": "state"})
    assert settings.home == tmp_path / "state"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/state/mlflow/mlflow.db"


def test_each_place_is_replaced_by_its_variable() -> None:
    settings = Settings.from_environment(
        {
            "SLIPWAY_HOME": "/home",
            "SLIPWAY_STORE": "s3://bucket/prefix",
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
            "SLIPWAY_REGISTRY": "registry:5000",
        }
    )
    assert settings.store_uri == "s3://bucket/prefix"
    assert settings.tracking_uri == "http://mlflow:5000"
    assert settings.registry == "registry:5000"


@pytest.mark.parametrize("name", ["SLIPWAY_HOME", "SLIPWAY_STORE", "MLFLOW_TRACKING_URI", "SLIPWAY_REGISTRY"])
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    assert Settings.from_environment({name: ""}) == Settings.from_environment({})


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    assert Settings.from_environment().home == tmp_path
