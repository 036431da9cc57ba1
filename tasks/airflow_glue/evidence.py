"""Contracts through XCom: JSON in Airflow's database, typed on both sides.

Evidence is pushed under a key of its own, before a task fails for a verdict: what a task returns is lost when it
raises. Only contracts travel (kilobytes); the bytes that they name stay in the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from airflow.sdk import get_current_context

from tasks.contracts import Contract

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

C = TypeVar("C", bound=Contract)

#: What a task that is not mapped has for a map index.
UNMAPPED = -1

#: The key that a stage's result travels under, unless it is a second one.
RESULT = "result"


def task_instance() -> RuntimeTaskInstanceProtocol:
    """The running task's own instance."""
    return get_current_context()["ti"]


def push(contract: Contract, key: str = RESULT) -> None:
    """Leave a contract for the tasks that follow."""
    task_instance().xcom_push(key=key, value=contract.model_dump(mode="json"))


def pull(kind: type[C], task_id: str, *, map_index: int = UNMAPPED, key: str = RESULT) -> C | None:
    """What a task of this run left, or `None` where it left nothing: it failed, was skipped, or has not run."""
    value = task_instance().xcom_pull(task_ids=task_id, key=key, map_indexes=map_index)
    return None if value is None else kind.model_validate(value)


def require(kind: type[C], task_id: str, *, key: str = RESULT) -> C:
    """What a task that is not mapped must have left, because this one runs only after its success.

    Raises:
        LookupError: it left nothing.
    """
    if (found := pull(kind, task_id, key=key)) is None:
        raise LookupError(f"the task {task_id} left no {key!r}: clear it, and what follows from it")
    return found


def gather(kind: type[C], task_id: str, cells: int, *, key: str = RESULT) -> list[C]:
    """What all cells of a mapped task left, in order; cells that left nothing are absent.

    By index, because passing a mapped task's output on drops the failures and, of a single success, the list.
    """
    values = task_instance().xcom_pull(task_ids=task_id, key=key, map_indexes=range(cells))
    return [kind.model_validate(value) for value in values if value is not None]
