"""MLflow and Airflow on this machine: `make up`, `make down`, `make status`.

In: `Settings` and `Ports`. Out: both services answering on loopback, their state under `<home>/mlflow` and
`<home>/airflow` (SQLite, LocalExecutor), their output under `<home>/logs`. Nothing here imports Airflow: its
components are programs, started with the environment that `scripts.airflow_home` builds.

SLIPWAY_AIRFLOW_PORT, SLIPWAY_MLFLOW_PORT     8080, 5000
MLFLOW_TRACKING_URI                           a server elsewhere: then none is started here
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from scripts import processes
from scripts.airflow_home import airflow_environment, credentials, migrate, service_environment
from tasks.errors import EngineUnavailable, PlatformError, SlipwayError
from tasks.settings import Settings

MLFLOW = "mlflow"
API_SERVER, SCHEDULER = "airflow-api-server", "airflow-scheduler"
START_TIMEOUT_S = 240
_BINARIES = Path(sys.executable).parent
_AIRFLOW = str(_BINARIES / "airflow")
# Logs are read from the disk, so that nothing needs to serve them, on every interface and a port of its own.
AIRFLOW_COMMANDS: dict[str, tuple[str, ...]] = {
    API_SERVER: (_AIRFLOW, "api-server"),
    "airflow-dag-processor": (_AIRFLOW, "dag-processor"),
    "airflow-triggerer": (_AIRFLOW, "triggerer", "--skip-serve-logs"),
    SCHEDULER: (_AIRFLOW, "scheduler", "--skip-serve-logs"),
}
AIRFLOW = tuple(AIRFLOW_COMMANDS)
Say = Callable[[str], None]


class ServiceFailed(PlatformError):
    """A service ended or did not become ready; the message carries the last lines of its log."""


class PortTaken(PlatformError):
    """Something else listens where a service should."""


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

    airflow: int = 8080
    mlflow: int = 5000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Ports:
        """Read SLIPWAY_AIRFLOW_PORT and SLIPWAY_MLFLOW_PORT; an empty variable counts as not set."""
        env = os.environ if environment is None else environment

        def port(name: str, default: int) -> int:
            text = env.get(name) or str(default)
            if not text.isdecimal() or not 0 < int(text) < 65536:
                raise PlatformError(f"{name}={text} is not a port: give a number from 1 to 65535.")
            return int(text)

        return cls(port("SLIPWAY_AIRFLOW_PORT", cls.airflow), port("SLIPWAY_MLFLOW_PORT", cls.mlflow))

    @classmethod
    def free(cls) -> Ports:
        """Two ports that nobody listens on now: for a throw-away home."""
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            return cls(airflow=first.getsockname()[1], mlflow=second.getsockname()[1])


@dataclass(frozen=True)
class Endpoints:
    """Where the services answer."""

    airflow: str
    mlflow: str


def endpoints(settings: Settings, ports: Ports) -> Endpoints:
    """The services' addresses; MLflow's is the one elsewhere where MLFLOW_TRACKING_URI names it."""
    mlflow = f"http://127.0.0.1:{ports.mlflow}" if serves_mlflow(settings, ports) else settings.tracking_uri
    return Endpoints(airflow=f"http://127.0.0.1:{ports.airflow}", mlflow=mlflow)


def serves_mlflow(settings: Settings, ports: Ports) -> bool:
    """Whether the MLflow server is ours to start: the tracking URI is the embedded one, or this server's address."""
    if settings.tracking_uri == f"sqlite:///{_mlflow_database(settings)}":
        return True
    uri = urlsplit(settings.tracking_uri)
    return uri.scheme == "http" and uri.hostname in {"127.0.0.1", "localhost"} and uri.port == ports.mlflow


def up(settings: Settings, ports: Ports, say: Say = print, *, airflow: bool = True) -> Endpoints:
    """Start what is not running and return when all of it answers; with everything running it changes nothing.

    `airflow=False` starts MLflow alone. Raises PortTaken before anything is started, ServiceFailed after everything
    that was started is stopped again.
    """
    with _one_at_a_time(settings.home, say):
        wanted = (*((MLFLOW,) if serves_mlflow(settings, ports) else ()), *(AIRFLOW if airflow else ()))
        there = [name for name in wanted if processes.running(settings.home, name)]
        if wanted and len(there) == len(wanted):
            running_on = _read_ports(settings.home) or ports
            if running_on != ports:
                raise PortTaken(
                    f"The services of {settings.home} run already, on ports {running_on.airflow} (Airflow) and "
                    f"{running_on.mlflow} (MLflow), not on {ports.airflow} and {ports.mlflow}: run `make down` first."
                )
            _wait_until_ready(settings, ports, wanted, say)
            say("services: already up")
            return endpoints(settings, ports)
        if left := processes.stop(settings.home):
            say(f"services: stopped {left} processes that an earlier start had left")
        _refuse_taken(settings, ports, wanted)
        try:
            _start(settings, ports, wanted, say)
        except BaseException:  # also Ctrl-C: nothing stays half-started
            processes.stop(settings.home, patience_s=2)
            raise
        return endpoints(settings, ports)


def down(settings: Settings, say: Say = print) -> int:
    """Stop the services and everything they started, also what a killed `up` left; answers how many processes."""
    with _one_at_a_time(settings.home, say):
        stopped = processes.stop(settings.home)
        _stop_serving(settings, say)
    say(f"services: stopped {stopped} processes" if stopped else "services: none was running")
    return stopped


def _stop_serving(settings: Settings, say: Say) -> None:
    """Routers and servers of released packages end with the services; what serves stays written down."""
    if not (settings.home / "releases").exists():
        return
    from tasks.image import connect
    from tasks.release.removal import remove_everything

    try:
        models = remove_everything(connect(), settings)
    except EngineUnavailable as error:
        say(f"services: what serves released models could not be asked for: {error}")
        return
    if models:
        say(f"services: took away the routers and servers of {', '.join(models)}")


def status(settings: Settings, say: Say = print) -> bool:
    """Say of each service whether it runs; true when all do."""
    ports = _read_ports(settings.home) or Ports.from_environment()
    where = endpoints(settings, ports)
    wanted = (*((MLFLOW,) if serves_mlflow(settings, ports) else ()), *AIRFLOW)
    found = {name: processes.running(settings.home, name) for name in wanted}
    for name, process in found.items():
        address = {MLFLOW: where.mlflow, API_SERVER: where.airflow}.get(name, "")
        say(
            f"{name:22} {f'running ({process.pid})' if process else 'stopped':20} {address if process else ''}".rstrip()
        )
    return all(found.values())


def _start(settings: Settings, ports: Ports, wanted: tuple[str, ...], say: Say) -> None:
    started = time.monotonic()
    _write_ports(settings.home, ports)
    where = endpoints(settings, ports)
    if MLFLOW in wanted:
        (settings.home / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
        _launch(settings, MLFLOW, _mlflow_command(settings, ports), service_environment(os.environ))
    if SCHEDULER in wanted:
        environment = airflow_environment(settings, ports.airflow, where.mlflow, os.environ)
        if migrate(settings, environment):
            say(f"services: Airflow's database is ready ({time.monotonic() - started:.0f} s)")
        # A task that finds no API server fails, and the scheduler starts tasks at once: it comes last.
        for name in AIRFLOW[:-1]:
            _launch(settings, name, AIRFLOW_COMMANDS[name], environment)
        before = tuple(name for name in wanted if name != SCHEDULER)
        _wait(settings, before, "Airflow's API server", lambda: _answers(f"{where.airflow}/api/v2/version"))
        _launch(settings, SCHEDULER, AIRFLOW_COMMANDS[SCHEDULER], environment)
    _wait_until_ready(settings, ports, wanted, say)
    if MLFLOW in wanted:
        with closing(sqlite3.connect(_mlflow_database(settings))) as database:
            database.execute("PRAGMA journal_mode=WAL")  # the command line writes while the server reads
    say(f"services: all ready ({time.monotonic() - started:.0f} s)")


def _mlflow_command(settings: Settings, ports: Ports) -> tuple[str, ...]:
    return (
        *(str(_BINARIES / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(ports.mlflow), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{_mlflow_database(settings)}"),
        # Clients write artifacts to the folder themselves: the command line does so without any server.
        *("--no-serve-artifacts", "--default-artifact-root", str(settings.home / "mlflow" / "artifacts")),
    )


def _mlflow_database(settings: Settings) -> Path:
    return settings.home / "mlflow" / "mlflow.db"


def _launch(settings: Settings, name: str, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
    processes.launch(
        name,
        command,
        home=settings.home,
        environment=environment,
        log=_log(settings.home, name),
        folder=settings.home,
    )


def _log(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"


def _wait_until_ready(settings: Settings, ports: Ports, wanted: tuple[str, ...], say: Say) -> None:
    where = endpoints(settings, ports)
    if MLFLOW in wanted:
        _wait(settings, wanted, "MLflow", lambda: _answers(f"{where.mlflow}/health"))
        say(f"services: MLflow answers on {where.mlflow}")
    if SCHEDULER in wanted:
        _wait(settings, wanted, "Airflow", lambda: _airflow_is_healthy(settings.home, where.airflow))
        say(f"services: Airflow answers on {where.airflow}, every component healthy")


def _wait(settings: Settings, names: tuple[str, ...], what: str, ready: Callable[[], bool]) -> None:
    """Return when `ready`; fail at once when one of the named services has ended."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        for name in names:
            log = _log(settings.home, name)
            if not processes.running(settings.home, name):
                raise ServiceFailed(
                    f"{name} ended while it was starting. The end of {log}:\n{processes.last_lines(log)}"
                )
        if time.monotonic() > deadline:
            logs = "\n".join(f"{(log := _log(settings.home, name))}:\n{processes.last_lines(log, 5)}" for name in names)
            raise ServiceFailed(f"{what} was not ready after {START_TIMEOUT_S} s. The ends of the logs:\n{logs}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success  # a proxy has no business with loopback
    except httpx.TransportError:
        return False


def _airflow_is_healthy(home: Path, url: str) -> bool:
    """Whether every component reports health, and heartbeats of the processes that run now.

    Airflow calls a component healthy for half a minute after its last heartbeat: also one that has been killed.
    """
    import httpx

    try:
        answer = httpx.get(f"{url}/api/v2/monitor/health", timeout=10, trust_env=False)
    except httpx.TransportError:
        return False
    if not answer.is_success:
        return False
    health = answer.json()
    if health["metadatabase"]["status"] != "healthy":
        return False
    for component in ("scheduler", "triggerer", "dag_processor"):
        beat = health[component].get(f"latest_{component}_heartbeat")
        since = processes.launched_at(home, f"airflow-{component.replace('_', '-')}")
        if health[component]["status"] != "healthy" or not beat or since is None:
            return False
        if datetime.fromisoformat(beat).timestamp() < since:
            return False
    return True


def _refuse_taken(settings: Settings, ports: Ports, wanted: tuple[str, ...]) -> None:
    taken = []
    for name, port, variable in (
        (MLFLOW, ports.mlflow, "SLIPWAY_MLFLOW_PORT"),
        (API_SERVER, ports.airflow, "SLIPWAY_AIRFLOW_PORT"),
    ):
        if name not in wanted:
            continue
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is no owner
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                holder = processes.listener(port)
                reason = f"is taken by {holder}" if holder else f"cannot be used ({error.strerror})"
                taken.append(f"Port {port} {reason}: stop it, or set {variable} to a free port.")
    if taken:
        raise PortTaken("\n".join(taken))


def _write_ports(home: Path, ports: Ports) -> None:
    path = home / "run" / "ports.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(ports)))


def _read_ports(home: Path) -> Ports | None:
    try:
        return Ports(**json.loads((home / "run" / "ports.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _one_at_a_time(home: Path, say: Say) -> Iterator[None]:
    """Hold the home's lock: the operating system lets it go when the holder dies."""
    (home / "run").mkdir(parents=True, exist_ok=True)
    with (home / "run" / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("services: waiting for another up or down of this home")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    """`python -m scripts.services up|down|status`; exit codes as everywhere: 0, 3 when the platform failed."""
    parser = argparse.ArgumentParser(prog="services", description="MLflow and Airflow on this machine.")
    parser.add_argument("action", choices=("up", "down", "status"))
    action = parser.parse_args(arguments).action
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up as on Ctrl-C
    settings = Settings.from_environment()
    try:
        if action == "down":
            down(settings)
        elif action == "status":
            return 0 if status(settings) else 3
        else:
            where = up(settings, Ports.from_environment())
            user = credentials(settings)
            password = user.password if sys.stdout.isatty() else f"in {user.file}"
            print(f"\n  Airflow  {where.airflow}   user {user.name}, password {password}\n  MLflow   {where.mlflow}")
    except SlipwayError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
