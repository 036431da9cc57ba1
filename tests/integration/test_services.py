"""`make up` and `make down` with the real programs, in homes and on ports of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from scripts import processes, services
from scripts.services import Ports
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})
    yield settings
    processes.stop(settings.home, patience_s=1)


def until(condition: Callable[[], object], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command(settings: Settings, ports: Ports, action: str) -> subprocess.Popen[str]:
    """`python -m scripts.services …`, as the Makefile runs it."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.services", action],
        cwd=ROOT,
        env={
            **environment,
            "SLIPWAY_HOME": str(settings.home),
            "SLIPWAY_AIRFLOW_PORT": str(ports.airflow),
            "SLIPWAY_MLFLOW_PORT": str(ports.mlflow),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Ports]]:
    """MLflow, up in a home of its own, for the tests that only look at it."""
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path_factory.mktemp("running"))})
    ports = Ports.free()
    services.up(settings, ports, say=lambda _: None, airflow=False)
    yield settings, ports
    processes.stop(settings.home)


def test_mlflow_answers_when_up_returns(running: tuple[Settings, Ports]) -> None:
    assert httpx.get(f"{services.endpoints(*running).mlflow}/health").text == "OK"


def test_up_with_everything_up_changes_nothing_and_says_so(running: tuple[Settings, Ports]) -> None:
    settings, ports = running
    before = processes.running(settings.home, services.MLFLOW)
    said: list[str] = []
    services.up(settings, ports, say=said.append, airflow=False)
    assert processes.running(settings.home, services.MLFLOW) == before
    assert said[-1] == "services: already up"


def test_up_on_other_ports_than_those_in_use_is_refused_with_the_way_out(running: tuple[Settings, Ports]) -> None:
    with pytest.raises(services.PortTaken, match=r"run already, on ports .* run `make down` first"):
        services.up(running[0], Ports.free(), say=lambda _: None, airflow=False)


def test_what_is_logged_without_the_server_is_seen_through_it(running: tuple[Settings, Ports]) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=running[0].tracking_uri)
    run = client.create_run(client.create_experiment("by file"))
    through = mlflow.MlflowClient(tracking_uri=services.endpoints(*running).mlflow)
    assert through.get_run(run.info.run_id).info.run_id == run.info.run_id


def test_artifacts_of_the_servers_experiments_lie_in_the_home(running: tuple[Settings, Ports]) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=services.endpoints(*running).mlflow)
    run = client.create_run(client.create_experiment("by server"))
    client.log_text(run.info.run_id, "evidence", "report.txt")
    reports = (running[0].home / "mlflow" / "artifacts").rglob("report.txt")
    assert [path.read_text() for path in reports] == ["evidence"]


def test_mlflow_is_gone_when_down_returns_and_comes_back_with_what_it_knew(settings: Settings) -> None:
    import mlflow

    ports = Ports.free()
    where = services.up(settings, ports, say=lambda _: None, airflow=False)
    mlflow.MlflowClient(tracking_uri=where.mlflow).create_experiment("kept")
    assert services.down(settings, say=lambda _: None) > 0
    assert processes.members(settings.home) == ()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{where.mlflow}/health")
    services.up(settings, ports, say=lambda _: None, airflow=False)
    assert mlflow.MlflowClient(tracking_uri=where.mlflow).get_experiment_by_name("kept") is not None


def test_a_taken_port_is_said_before_anything_starts(settings: Settings) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = Ports(airflow=Ports.free().airflow, mlflow=holder.getsockname()[1])
        asked = command(settings, ports, "up")
        said, _ = asked.communicate(timeout=60)
    assert asked.returncode == 3
    assert f"Port {ports.mlflow} is taken by" in said
    assert f"(process {os.getpid()})" in said
    assert "set SLIPWAY_MLFLOW_PORT to a free port" in said
    assert len(said.splitlines()) == 1
    assert processes.members(settings.home) == ()


def test_a_service_that_ends_while_starting_is_said_with_its_last_words_and_nothing_stays(settings: Settings) -> None:
    database = settings.home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_text("this is no database, and long enough for SQLite to look at it" * 100)
    with pytest.raises(services.ServiceFailed, match=r"(?s)mlflow ended while it was starting.*not a database"):
        services.up(settings, Ports.free(), say=lambda _: None, airflow=False)
    assert processes.members(settings.home) == ()


@pytest.mark.parametrize("started", ["airflow-migrate", services.API_SERVER])
def test_down_leaves_nothing_of_an_up_that_was_killed(settings: Settings, started: str) -> None:
    ports = Ports.free()
    up = command(settings, ports, "up")
    until(lambda: processes.running(settings.home, started) or up.poll() is not None)
    up.kill()
    up.communicate()
    assert processes.members(settings.home) != ()
    down = command(settings, ports, "down")
    said, _ = down.communicate(timeout=120)
    assert down.returncode == 0
    assert "services: stopped" in said
    assert processes.members(settings.home) == ()


def test_ctrl_c_while_starting_leaves_nothing(settings: Settings) -> None:
    up = command(settings, Ports.free(), "up")
    until(lambda: processes.running(settings.home, services.MLFLOW) or up.poll() is not None)
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=120)
    assert up.returncode == 130
    assert processes.members(settings.home) == ()


def test_an_airflow_database_whose_creation_was_killed_is_created_again(settings: Settings) -> None:
    """The first start was killed between creating the file and filling it; the next one does not trip over it."""
    left = settings.home / "airflow" / "airflow.new"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a database")
    from scripts.airflow_home import airflow_environment, migrate

    environment = airflow_environment(settings, Ports.free().airflow, "http://m")
    assert migrate(settings, environment)
    assert not left.exists()
    assert not migrate(settings, environment)
