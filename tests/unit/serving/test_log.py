"""Lines about requests, and a log that makes nobody wait."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.log import RequestLog, Requests, in_background, log, requests_to_log
from serving.observation import Outcome
from serving.spool import Spool
from tests.unit.serving.observed import outcome, served

ANSWERED = outcome({"x": np.full((3, 4), 41.5, np.float32)}, {"logits": np.zeros((3, 4), np.float32)}, id="r-1")
REFUSED = Outcome("r-2", "grpc", 400, 0.00012, "bad_request", "expected finite values, found 'secret'")
FAILED = outcome({"x": np.zeros((2, 4), np.float32)}, id="r-3", status=500, error="model", message="Gather failed")


def lines(capfd: pytest.CaptureFixture[str], which: Requests, *outcomes: Outcome) -> list[dict[str, Any]]:
    observer = RequestLog(served(), which)
    for each in outcomes:
        observer.observe(each)
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("which", "ids"), [(Requests.NONE, []), (Requests.ERRORS, ["r-2", "r-3"]), (Requests.ALL, ["r-1", "r-2", "r-3"])]
)
def test_which_requests_get_a_line_is_chosen(
    capfd: pytest.CaptureFixture[str], which: Requests, ids: list[str]
) -> None:
    assert [line["id"] for line in lines(capfd, which, ANSWERED, REFUSED, FAILED)] == ids


@pytest.mark.parametrize(
    ("said", "which"), [({}, "errors"), ({"SERVING_LOG": ""}, "errors"), ({"SERVING_LOG": "all"}, "all")]
)
def test_the_environment_chooses_them(said: dict[str, str], which: str) -> None:
    assert requests_to_log(said) == which


def test_a_choice_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"^SERVING_LOG: expected none, errors, all, found 'loud'$"):
        requests_to_log({"SERVING_LOG": "loud"})


def test_a_line_says_who_asked_what_came_of_it_and_where_the_time_went(capfd: pytest.CaptureFixture[str]) -> None:
    [line] = lines(capfd, Requests.ALL, ANSWERED)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "event": "request",
        "id": "r-1",
        "protocol": "http",
        "status": 200,
        "total_ms": 4.0,
        "rows": 3,
        "queue_ms": 0.1,
        "preprocess_ms": 0.2,
        "inference_ms": 3.0,
        "batch_rows": 3,
    }


def test_what_was_in_a_request_is_in_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    found = lines(capfd, Requests.ALL, ANSWERED, REFUSED, FAILED)
    assert "secret" not in str(found)
    assert "41.5" not in str(found)
    assert [line.get("error") for line in found] == [None, "bad_request", "model"]
    assert found[2]["message"] == "Gather failed"


@pytest.fixture
def stuck_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard error is a pipe that nobody reads and that is full; the end to read from."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"x" * 4096)
    os.set_blocking(reading, False)  # whoever reads may come when all was written
    write = os.write
    monkeypatch.setattr(os, "write", lambda number, data: write(writing if number == 2 else number, data))
    yield reading
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_is_lost_is_counted(stuck_pipe: int) -> None:
    with in_background() as spool:
        for _ in range(40):
            log("request", filling="x" * 50_000)  # two megabytes: twice what may wait
        assert 0 < spool.lost < 40
        while spool._bytes:
            with contextlib.suppress(BlockingIOError):
                os.read(stuck_pipe, 1 << 20)


def test_lines_of_the_background_come_in_order_and_none_is_lost_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with in_background() as spool:
        for number in range(500):
            log("request", number=number)
    assert [json.loads(line)["number"] for line in capfd.readouterr().err.splitlines()] == list(range(500))
    assert spool.lost == 0


def test_a_spool_writes_what_it_took_and_forgets_its_size() -> None:
    written: list[int] = []
    holding = threading.Event()

    def write(items: list[int]) -> None:
        holding.wait(10)
        written.extend(items)

    spool = Spool(write, 10, "test")
    assert [spool.put(number, 4) for number in range(4)] == [True, True, False, False]
    holding.set()
    assert spool.close(10)
    assert written == [0, 1]
    assert spool.lost == 2
    assert spool.put(9, 10), "what was written weighs nothing any more"
