"""What Airflow needs to run from this repository on one machine: environment, secrets, password, database.

Everything is in the environment, so that a component, a task and `airflow` on the command line see the same; what the
caller's environment says about Airflow (AIRFLOW__SECTION__KEY) wins over the defaults here. Under `<home>/airflow`:

    airflow.db       SQLite, created whole or not at all
    secrets.json     keys that the components share (mode 600)
    password.json    the password of the user `admin` (mode 600)
    airflow.cfg      empty but for a remark: Airflow would write 2,000 lines of defaults otherwise
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from scripts.processes import last_lines, launch
from serving.telemetry import NO_TELEMETRY
from tasks.errors import PlatformError
from tasks.settings import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
_BINARIES = Path(sys.executable).parent
_CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@dataclass(frozen=True)
class Credentials:
    """Who may sign in to Airflow. `file` holds the password, which stays out of logs and messages."""

    name: str
    file: Path
    password: str = field(repr=False)


def service_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` fit for a background service: this Python's programs first, no telemetry, no proxy to loopback."""
    direct = ",".join(filter(None, [environment.get("no_proxy") or environment.get("NO_PROXY"), "127.0.0.1,localhost"]))
    return {
        **environment,
        **NO_TELEMETRY,
        "PATH": f"{_BINARIES}{os.pathsep}{environment.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": direct,
        "no_proxy": direct,
        # Nothing here runs jobs (LLM evaluations), and their runner is a process more.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def airflow_environment(
    settings: Settings, port: int, mlflow: str, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of every Airflow component and of `airflow` on the command line, for `settings.home`.

    `port` is the API server's, on loopback; `mlflow` is what tasks track to. Creates the home's secrets, password and
    configuration file where they are missing.
    """
    env = os.environ if environment is None else environment
    home = settings.home / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    keys = _keys(home)
    user = credentials(settings)
    if not (home / "airflow.cfg").exists():
        _publish(home / "airflow.cfg", "# Settings are in the environment: scripts/airflow_home.py\n", mode=0o644)
    defaults = {
        _CONNECTION: f"sqlite:///{_database(settings)}?timeout=30",
        "AIRFLOW__API__EXPOSE_CONFIG": "non-sensitive-only",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Tasks import whole frameworks: as many at once as there are cores, not the 32 that Airflow would fork.
        "AIRFLOW__CORE__PARALLELISM": str(max(2, os.cpu_count() or 2)),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        # A run of short tasks on one machine: look for the next one more often, and miss a dead one for a minute only.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        # A task's supervisor that misses the end of its task by a hair sleeps this long (s) before it looks again, and
        # keeps a worker, and the news of a failure or a skip, as long. Five seconds otherwise.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }
    ours = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__SECRET_KEY": keys["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__CORE__ALLOWED_DESERIALIZATION_CLASSES": "airflow.* tasks.* serving.*",
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(user.file),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{user.name}:admin",
        "MLFLOW_TRACKING_URI": mlflow,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), env.get("PYTHONPATH")])),
        "SLIPWAY_HOME": str(settings.home),
    }
    return {**defaults, **service_environment(env), **ours}


def credentials(settings: Settings) -> Credentials:
    """The administrator's name and password; the password is generated on first use."""
    path = settings.home / "airflow" / "password.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _publish(path, json.dumps({"admin": secrets.token_urlsafe(12)}) + "\n")
    return Credentials(name="admin", file=path, password=json.loads(path.read_text())["admin"])


def migrate(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Bring Airflow's database to the installed version; false when it is there already.

    The embedded one is created aside and then named, so that a start killed in the middle leaves none. A database
    that the environment names instead is migrated in place, as is an older version's.
    """
    database = _database(settings)
    stamp = database.with_suffix(".version")
    embedded = environment[_CONNECTION].startswith(f"sqlite:///{database}")
    installed = version("apache-airflow")
    if embedded and database.exists() and stamp.exists() and stamp.read_text() == installed:
        return False
    if embedded and not database.exists():
        aside = database.with_suffix(".new")
        for leftover in (aside, database):
            for suffix in ("", "-wal", "-shm"):
                leftover.with_name(leftover.name + suffix).unlink(missing_ok=True)
        _migrate(settings, {**environment, _CONNECTION: f"sqlite:///{aside}"})
        with closing(sqlite3.connect(aside)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        aside.replace(database)
    else:
        _migrate(settings, environment)
    _publish(stamp, installed, mode=0o644)
    return True


def _migrate(settings: Settings, environment: Mapping[str, str]) -> None:
    log = settings.home / "logs" / "airflow-migrate.log"
    process = launch(
        "airflow-migrate",
        (str(_BINARIES / "airflow"), "db", "migrate"),
        home=settings.home,
        environment=environment,
        log=log,
        folder=settings.home,
    )
    if process.wait() != 0:
        raise PlatformError(f"Airflow's database could not be brought up to date. The end of {log}:\n{last_lines(log)}")


def _database(settings: Settings) -> Path:
    return settings.home / "airflow" / "airflow.db"


def _keys(home: Path) -> dict[str, str]:
    path = home / "secrets.json"
    if not path.exists():
        keys = {
            "api": secrets.token_urlsafe(32),
            "jwt": secrets.token_urlsafe(48),
            "fernet": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        _publish(path, json.dumps(keys))
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _publish(path: Path, text: str, mode: int = 0o600) -> None:
    """Write aside, then rename; never readable by others on the way."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    aside.replace(path)
