"""The MLflow client, connected or refused within seconds, and MLflow's errors as ours.

MLflow retries an unreachable server for minutes by default, which is right for a training loop and wrong at the end of
a pipeline whose evidence is already safe. Its environment variables still decide where they are set.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tasks.errors import TrackingUnavailable
from tasks.settings import Settings
from tasks.workspace import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The experiment that holds every package's run.
EXPERIMENT = "slipway"

#: One retry, ten seconds a request. Telemetry off: what is packaged here is nobody else's business.
_ENVIRONMENT: Mapping[str, str] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


_CREDENTIALS = re.compile(r"://[^/@\s]+@")


#: Enough for any sentence; what is longer is a dump.
_LONGEST_REASON = 300


@contextlib.contextmanager
def tracking(settings: Settings, *, only_existing: bool = False) -> Iterator[MlflowClient]:
    """A client of the tracking server and registry.

    An embedded database is made where there is none, unless `only_existing`: asking a question leaves no trace.

    Raises:
        TrackingUnavailable: it does not answer, or refused what was asked of it inside the block.
    """
    with _environment():
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield _connect(settings, only_existing)
        except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
            raise TrackingUnavailable(
                f"MLflow at {public_uri(settings.tracking_uri)} did not do its part ({_reason(error)}): "
                "check MLFLOW_TRACKING_URI, and that the server runs"
            ) from error


def experiment_id(client: MlflowClient, settings: Settings) -> str:
    """The experiment `slipway`, made where it is not there yet. Embedded, its artifacts lie below SLIPWAY_HOME."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        folder = settings.home / "mlflow" / "artifacts" / EXPERIMENT
        location = folder.as_uri() if _is_database(settings.tracking_uri) else None
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=location))
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return str(found.experiment_id)


def run_url(tracking_uri: str, experiment: str, run_id: str) -> str | None:
    """Where a person looks at a run; `None` where MLflow is only a database."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    return f"{public_uri(tracking_uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def public_uri(uri: str) -> str:
    """`uri` without its user and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _connect(settings: Settings, only_existing: bool) -> MlflowClient:
    from mlflow import MlflowClient

    if not settings.tracking_uri.startswith("sqlite:"):
        return MlflowClient(tracking_uri=settings.tracking_uri)
    database = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    if only_existing and not database.exists():
        raise FileNotFoundError(f"{database} does not exist")
    database.parent.mkdir(parents=True, exist_ok=True)
    # The first client makes the tables; two at once would get in each other's way.
    with locked(settings.home / "locks" / "mlflow.lock"):
        client = MlflowClient(tracking_uri=settings.tracking_uri)
        client.search_experiments(max_results=1)
        return client


def _is_database(tracking_uri: str) -> bool:
    return not tracking_uri.startswith(("http://", "https://", "databricks"))


def _reason(error: Exception) -> str:
    """What lies at the bottom of the error, in a line, without the user and password that URLs in it may carry."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    text = _CREDENTIALS.sub("://", str(cause).strip() or str(error).strip())
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 1]}…"


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
