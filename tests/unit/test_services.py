"""What the services are started with."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from scripts import services
from scripts.airflow_home import airflow_environment, credentials, service_environment
from scripts.services import Ports
from tasks.errors import PlatformError
from tasks.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path)})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ports_have_defaults_and_can_be_set() -> None:
    assert Ports.from_environment({}) == Ports(airflow=8080, mlflow=5000)
    assert Ports.from_environment({"SLIPWAY_AIRFLOW_PORT": "8090", "SLIPWAY_MLFLOW_PORT": ""}) == Ports(8090, 5000)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "80 80", "8080.0"])
def test_what_is_no_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(PlatformError, match=f"SLIPWAY_MLFLOW_PORT={text} is not a port"):
        Ports.from_environment({"SLIPWAY_MLFLOW_PORT": text})


def test_airflow_tracks_to_the_server_that_is_started_with_it(settings: Settings) -> None:
    assert services.endpoints(settings, Ports(1, 2)).mlflow == "http://127.0.0.1:2"


def test_a_tracking_server_elsewhere_is_used_and_none_is_started(tmp_path: Path) -> None:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "https://mlflow.test"})
    assert not services.serves_mlflow(settings, Ports())
    assert services.endpoints(settings, Ports()).mlflow == "https://mlflow.test"


def test_a_tracking_uri_that_names_the_server_to_start_is_no_server_elsewhere(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {"SLIPWAY_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "http://localhost:5000"}
    )
    assert services.serves_mlflow(settings, Ports())
    assert not services.serves_mlflow(settings, Ports(mlflow=5001))


def test_airflows_own_settings_win_over_the_defaults(settings: Settings) -> None:
    given = {"AIRFLOW__CORE__PARALLELISM": "7", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://db/airflow"}
    environment = airflow_environment(settings, 8080, "http://m", given)
    assert given.items() <= environment.items()


def test_the_home_and_the_port_are_ours_whatever_the_shell_says(settings: Settings) -> None:
    given = {"AIRFLOW_HOME": "elsewhere", "AIRFLOW__API__PORT": "1", "SLIPWAY_HOME": "elsewhere"}
    environment = airflow_environment(settings, 8080, "http://m", given)
    assert environment["AIRFLOW_HOME"] == str(settings.home / "airflow")
    assert environment["AIRFLOW__API__PORT"] == "8080"
    assert environment["SLIPWAY_HOME"] == str(settings.home)


def test_airflow_listens_on_loopback_alone(settings: Settings) -> None:
    assert airflow_environment(settings, 8080, "http://m", {})["AIRFLOW__API__HOST"] == "127.0.0.1"


def test_every_environment_of_a_home_shares_its_keys_and_homes_share_none(tmp_path: Path) -> None:
    first, second = (Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / name)}) for name in "ab")
    secrets = ("AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY")
    once, again, other = (airflow_environment(home, 8080, "http://m", {}) for home in (first, first, second))
    assert [once[key] for key in secrets] == [again[key] for key in secrets]
    assert all(once[key] != other[key] for key in secrets)


def test_keys_and_password_are_readable_by_their_owner_alone(settings: Settings) -> None:
    airflow_environment(settings, 8080, "http://m", {})
    assert mode(settings.home / "airflow" / "secrets.json") == 0o600
    assert mode(credentials(settings).file) == 0o600


def test_the_password_stays_out_of_messages(settings: Settings) -> None:
    user = credentials(settings)
    assert len(user.password) >= 16
    assert user.password not in repr(user)
    assert user.password == credentials(settings).password


def test_loopback_is_reached_without_the_proxy() -> None:
    assert service_environment({"NO_PROXY": "intern"})["no_proxy"] == "intern,127.0.0.1,localhost"
