"""Structured log lines: one JSON object a line on standard error, and one for each request that should have one."""

from __future__ import annotations

import contextlib
import os
import reprlib
import sys
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import orjson

from serving.spool import Spool

if TYPE_CHECKING:
    from serving.observation import Outcome
    from serving.package import Served

#: Bytes of lines that may wait for whoever reads standard error: some thousand lines.
_MOST_BYTES = 1 << 20
#: Seconds that the last lines have when the process ends.
_LAST_S = 1.0


class _Way:
    """How lines reach standard error: through `spool`, or at once without one."""

    spool: Spool[bytes] | None = None


def log(event: str, **details: object) -> None:
    """One line of JSON on standard error; written by a thread while `in_background`."""
    now = time.time()
    clock = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
    line = orjson.dumps({"time": clock, "event": event, **details}) + b"\n"
    if _Way.spool is not None:
        _Way.spool.put(line, len(line))
        return
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()


@contextlib.contextmanager
def in_background() -> Iterator[Spool[bytes]]:
    """While this lasts, nobody waits for standard error; what it cannot take in time is lost and counted."""
    spool = _Way.spool = Spool(_write, _MOST_BYTES, "log")
    try:
        yield spool
    finally:
        _Way.spool = None
        spool.close(_LAST_S)


def settle() -> None:
    """Wait until what was logged is written, for who is about to end the process."""
    if _Way.spool is not None:
        _Way.spool.settle(_LAST_S)


def _write(lines: list[bytes]) -> None:
    # Past the interpreter's buffer, whose lock a thread that is stuck here would hold at the end of the process.
    rest = memoryview(b"".join(lines))
    with contextlib.suppress(OSError):  # nobody is there to be told
        while rest:
            rest = rest[os.write(2, rest) :]


class Requests(StrEnum):
    """Which requests get a line."""

    NONE = "none"
    ERRORS = "errors"
    ALL = "all"


def requests_to_log(environment: Mapping[str, str] = os.environ) -> Requests:
    """As SERVING_LOG says; those that failed where it says nothing.

    Raises:
        ValueError: it says something else.
    """
    said = environment.get("SERVING_LOG") or Requests.ERRORS
    try:
        return Requests(said)
    except ValueError as error:
        raise ValueError(f"SERVING_LOG: expected {', '.join(Requests)}, found {reprlib.repr(said)}") from error


class RequestLog:
    """The observer that writes a line for a request: who asked, what came of it, where the time went.

    Never what was in it: the sentence about a refused request quotes the request, and goes to the client alone.
    """

    def __init__(self, served: Served, which: Requests) -> None:
        self._rows = served.rows
        self._none, self._all = which is Requests.NONE, which is Requests.ALL

    def observe(self, outcome: Outcome) -> None:
        if self._none or not (outcome.error or self._all):
            return
        details: dict[str, object] = {
            "id": outcome.id,
            "protocol": outcome.protocol,
            "status": outcome.status,
            "total_ms": _milliseconds(outcome.total_s),
        }
        if outcome.inputs is not None:
            details["rows"] = self._rows(outcome.inputs)
        if outcome.answer is not None:
            timings = outcome.answer.timings
            details["queue_ms"] = _milliseconds(timings.queue_s)
            details["preprocess_ms"] = _milliseconds(timings.preprocess_s)
            details["inference_ms"] = _milliseconds(timings.inference_s)
            details["batch_rows"] = timings.batch_rows
        if outcome.error:
            details["error"] = outcome.error
            if outcome.error != "bad_request":
                details["message"] = outcome.message
        log("request", **details)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
