"""Errors in a task's log as sentences first: Airflow itself shows a stack trace with the message at its end."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tasks.errors import SlipwayError

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)


def plainly(body: Callable[P, R]) -> Callable[P, R]:
    """Log what Slipway raises on purpose line by line, and raise it on."""

    @functools.wraps(body)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return body(*args, **kwargs)
        except SlipwayError as error:
            for line in str(error).splitlines():
                _log.error(line)
            raise

    return told
