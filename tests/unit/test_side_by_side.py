"""Several types at once: every type has its outcome, and whatever ends the work early ends all of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.contracts import SmokeRun, digest_of
from tasks.errors import EngineUnavailable, PlatformError
from tasks.side_by_side import side_by_side
from tasks.terminal import Interruption, Stopped
from tests import samples

TYPES = ("c3.large", "c4.large", "c5.large")


def run_on(kind: str) -> SmokeRun:
    report = samples.smoke_report("onnx", kind)
    return SmokeRun(stage="smoke", label=kind, key=digest_of(kind), reused=False, duration_s=1, result=report)


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_type_has_what_came_of_it() -> None:
    def work(kind: str) -> SmokeRun:
        if kind == "c4.large":
            raise EngineUnavailable("no engine answers")
        return run_on(kind)

    found = dict(side_by_side(TYPES, work, at_once=2))
    assert found["c3.large"] == run_on("c3.large")
    assert found["c5.large"] == run_on("c5.large")
    assert isinstance(found["c4.large"], EngineUnavailable)
    assert str(found["c4.large"]) == "no engine answers"


def test_they_work_at_the_same_time_and_no_more_than_asked_for(tmp_path: Path) -> None:
    def work(kind: str) -> SmokeRun:
        (tmp_path / kind).touch()
        if kind != "c5.large":
            until(lambda: len(list(tmp_path.iterdir())) >= 2)
            (tmp_path / f"{kind} saw").write_text(str((tmp_path / "c5.large").exists()))
        return run_on(kind)

    assert {kind for kind, _ in side_by_side(TYPES, work, at_once=2)} == set(TYPES)
    assert (tmp_path / "c3.large saw").read_text() == "False"


def test_a_process_that_is_killed_is_an_error_of_its_type_alone() -> None:
    def work(kind: str) -> SmokeRun:
        if kind == "c4.large":
            os.kill(os.getpid(), signal.SIGKILL)
        return run_on(kind)

    found = dict(side_by_side(TYPES, work, at_once=3))
    assert "smoke on c4.large ended without a word" in str(found["c4.large"])
    assert not isinstance(found["c3.large"], PlatformError)


def test_who_is_stopped_lets_every_process_clean_up_first(tmp_path: Path) -> None:
    def work(kind: str) -> SmokeRun:
        try:
            (tmp_path / f"{kind} began").touch()
            if kind == TYPES[-1]:
                until(lambda: len(list(tmp_path.iterdir())) == len(TYPES))
                os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            (tmp_path / f"{kind} cleaned").touch()
        return run_on(kind)

    with Interruption().handled(), pytest.raises(Stopped):
        list(side_by_side(TYPES, work, at_once=3))
    assert sorted(path.name for path in tmp_path.glob("* cleaned")) == [f"{kind} cleaned" for kind in TYPES]
