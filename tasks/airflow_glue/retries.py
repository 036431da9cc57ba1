"""What is worth a second try: the ground that the work stands on, never the verdict of a gate.

A `PlatformError` (no Docker engine, MLflow or the store away) may heal. Bad input, a gate's answer and a programming
error would only fail again. A task whose process was killed has nobody left to ask, so Airflow itself tries it again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from tasks.errors import PlatformError

ONLY_WHAT_CAN_HEAL = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=PlatformError,
            action=RetryAction.RETRY,
            reason="the platform failed, not the model: this may heal",
        )
    ],
    default=RetryAction.FAIL,
)


def healing(*, timeout: timedelta) -> dict[str, Any]:
    """Operator arguments: two more tries for what can heal, each at most `timeout` long."""
    return {
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_policy": ONLY_WHAT_CAN_HEAL,
        "execution_timeout": timeout,
    }
