"""Airflow over its REST API: sign in, start a run, follow it, read what its tasks left. Imports no Airflow.

In: where the API server is, and who may sign in. Out: frozen values. Tokens end after a day; one is fetched again when
the server no longer takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from scripts.airflow_home import Credentials
from tasks.errors import PlatformError

FINISHED_RUN = frozenset({"success", "failed"})
FINISHED_TASK = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_UNMAPPED = -1

#: How long a task that asks a person is left alone after it began to wait, s: Airflow's scheduler looks at what its
#: executor reports about once a second, and a person takes longer.
SETTLES_S = 3.0


class AirflowUnavailable(PlatformError):
    """Airflow's API does not answer, or refused what was asked of it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task instance. `label` is the cell's name where it is mapped; times are seconds."""

    task_id: str
    map_index: int
    label: str
    state: str | None
    try_number: int
    duration_s: float | None
    started: datetime | None
    ended: datetime | None
    pid: int | None

    @property
    def name(self) -> str:
        return f"{self.task_id} {self.label}".strip()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a DAG."""

    dag_id: str
    run_id: str
    state: str

    @property
    def is_over(self) -> bool:
        return self.state in FINISHED_RUN


class AirflowApi:
    """A signed-in client. Not for several threads."""

    def __init__(self, url: str, user: Credentials) -> None:
        self.url = url
        self._user = user
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def __enter__(self) -> AirflowApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # --- DAGs -----------------------------------------------------------------------------------------------------

    def wait_for_dags(self, *dag_ids: str, timeout_s: float = 120) -> None:
        """Return when Airflow knows these DAGs and takes runs of them.

        Raises:
            AirflowUnavailable: a DAG file cannot be imported (the message says why), or it takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while missing := [dag_id for dag_id in dag_ids if not self._is_there(dag_id)]:
            errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
            if errors:
                raise AirflowUnavailable(
                    "\n".join(f"{error['filename']} cannot be imported:\n{error['stack_trace']}" for error in errors)
                )
            if time.monotonic() > deadline:
                raise AirflowUnavailable(
                    f"Airflow did not find {', '.join(missing)} within {timeout_s:.0f} s: "
                    "see airflow-dag-processor.log in the folder logs/ of SLIPWAY_HOME"
                )
            time.sleep(0.3)

    def unpause(self, dag_id: str) -> bool:
        """Let runs of a DAG start; whether they were held back before."""
        if not self._call("GET", f"/api/v2/dags/{dag_id}")["is_paused"]:
            return False
        self._call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": False})
        return True

    def plugins(self) -> list[dict[str, Any]]:
        """What Airflow knows about its plugins."""
        found: list[dict[str, Any]] = self._call("GET", "/api/v2/plugins")["plugins"]
        return found

    # --- runs -----------------------------------------------------------------------------------------------------

    def trigger(self, dag_id: str, conf: Mapping[str, Any], run_id: str | None = None) -> Run:
        """Start a run.

        Raises:
            AirflowUnavailable: the parameters do not hold, or there is a run of that id already.
        """
        body = {"logical_date": None, "conf": dict(conf), **({"dag_run_id": run_id} if run_id else {})}
        return _run(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body))

    def run(self, run: Run) -> Run:
        """The run as it stands now."""
        return _run(self._call("GET", _path(run)))

    def runs(self, dag_id: str) -> list[Run]:
        """The newest hundred runs of a DAG, newest first."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns", params={"order_by": "-run_after", "limit": 100})
        return [_run(item) for item in found["dag_runs"]]

    def stop(self, run: Run) -> None:
        """Mark a run as failed: its running tasks are told to end, and nothing further starts."""
        self._call("PATCH", _path(run), json={"state": "failed"})

    def wait(self, run: Run, timeout_s: float, watch: Callable[[Run], None] = lambda run: None) -> Run:
        """Return when a run is over; `watch` sees it about twice a second."""
        deadline = time.monotonic() + timeout_s
        while not (now := self.run(run)).is_over:
            if time.monotonic() > deadline:
                raise AirflowUnavailable(f"{run.run_id} of {run.dag_id} is still {now.state} after {timeout_s:.0f} s")
            watch(now)
            time.sleep(0.4)
        return now

    # --- tasks ----------------------------------------------------------------------------------------------------

    def tasks(self, run: Run) -> list[Task]:
        """Every task instance of a run."""
        found = self._call("GET", f"{_path(run)}/taskInstances", params={"limit": 1000})
        return [_task(item) for item in found["task_instances"]]

    def answer(self, run: Run, task_id: str, option: str, reason: str = "") -> str:
        """Answer the question of a task that waits for a person; the request, for people who want to do the same.

        Not within `SETTLES_S` after the task began to wait: the scheduler then still hears of its end, finds it on its
        way again, takes it for lost, and asks once more in a second try.

        Raises:
            AirflowUnavailable: it does not wait, somebody has answered already, or there is no such option.
        """
        path = f"{_path(run)}/taskInstances/{task_id}/{_UNMAPPED}/hitlDetails"
        self._call("PATCH", path, json={"chosen_options": [option], "params_input": {"reason": reason}})
        return f"PATCH {self.url}{path}"

    def question(self, run: Run, task_id: str) -> str | None:
        """What a task asks a person, in Markdown; `None` where it asks nothing (yet)."""
        path = f"{_path(run)}/taskInstances/{task_id}/{_UNMAPPED}/hitlDetails"
        found = self._call("GET", path, may_be_missing=True)
        return None if found is None else str(found["body"])

    def log(self, run: Run, task_id: str, map_index: int = _UNMAPPED, try_number: int = 1) -> str:
        """A task's log: its lines, each with the reason that Airflow gives beside it."""
        found = self._call(
            "GET",
            f"{_path(run)}/taskInstances/{task_id}/logs/{try_number}",
            params={"map_index": map_index, "full_content": True},
            headers={"Accept": "application/json"},
        )
        return "\n".join(" ".join(filter(None, [line.get("event"), line.get("reason")])) for line in found["content"])

    def left(self, run: Run, task_id: str, key: str, map_index: int = _UNMAPPED) -> Any | None:
        """What a task left for others under a key (an XCom), or `None`."""
        path = f"{_path(run)}/taskInstances/{task_id}/xcomEntries/{key}"
        found = self._call("GET", path, params={"map_index": map_index}, may_be_missing=True)
        return None if found is None else found["value"]

    def clear(self, run: Run, *task_ids: str, downstream: bool = True) -> None:
        """Clear tasks of a run (all cells of a mapped one), so that they run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run.run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        self._call("POST", f"/api/v2/dags/{run.dag_id}/clearTaskInstances", json=body)

    # --- requests -------------------------------------------------------------------------------------------------

    def _is_there(self, dag_id: str) -> bool:
        return self._call("GET", f"/api/v2/dags/{dag_id}", may_be_missing=True) is not None

    def _call(self, method: str, path: str, *, may_be_missing: bool = False, **request: Any) -> Any:
        try:
            if "Authorization" not in self._client.headers:
                self._sign_in()
            answer = self._client.request(method, path, **request)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._sign_in()
                answer = self._client.request(method, path, **request)
        except httpx.TransportError as error:
            raise AirflowUnavailable(
                f"Airflow at {self.url} does not answer ({error or type(error).__name__}): is it up? `make up`"
            ) from error
        if may_be_missing and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if not answer.is_success:
            raise AirflowUnavailable(f"Airflow refused {method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def _sign_in(self) -> None:
        who = {"username": self._user.name, "password": self._user.password}
        answer = self._client.post("/auth/token", json=who, headers={"Authorization": ""})
        if not answer.is_success:
            raise AirflowUnavailable(
                f"Airflow at {self.url} does not let {self._user.name} in with the password in {self._user.file}"
            )
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _path(run: Run) -> str:
    return f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}"


def _run(item: Mapping[str, Any]) -> Run:
    return Run(dag_id=item["dag_id"], run_id=item["dag_run_id"], state=item["state"])


def _task(item: Mapping[str, Any]) -> Task:
    return Task(
        task_id=item["task_id"],
        map_index=item["map_index"],
        label=item["rendered_map_index"] or "",
        state=item["state"],
        try_number=item["try_number"],
        duration_s=item["duration"],
        started=_moment(item["start_date"]),
        ended=_moment(item["end_date"]),
        pid=item["pid"],
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
