"""What share of the CPUs others took: this process and the container are not others."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tasks.smoke.quiet import CpuTimes, Turn, taken_by_others, wait_until_quiet

BEFORE = CpuTimes(at=100.0, busy_s=1000.0, own_s=10.0)


@pytest.mark.parametrize(
    ("busy", "own", "container", "share"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (20.0, 0.0, 0.0, 1.0),
        (10.0, 0.0, 0.0, 0.5),
        (10.0, 4.0, 0.0, 0.3),
        (10.0, 4.0, 6.0, 0.0),
        (10.0, 8.0, 6.0, 0.0),  # clocks that tick apart
        (50.0, 0.0, 0.0, 1.0),
    ],
)
def test_only_what_others_used_counts(busy: float, own: float, container: float, share: float) -> None:
    after = CpuTimes(at=110.0, busy_s=1000.0 + busy, own_s=10.0 + own)
    assert taken_by_others(BEFORE, after, container, cpus=2) == pytest.approx(share)


def test_no_time_at_all_disturbs_nobody() -> None:
    assert taken_by_others(BEFORE, BEFORE, 0.0, cpus=2) == 0.0


def test_the_machines_times_go_forward() -> None:
    before = CpuTimes.now()
    while time.process_time() < before.own_s + 0.02:
        pass
    after = CpuTimes.now()
    assert after.busy_s >= before.busy_s > 0
    assert after.own_s > before.own_s


def test_waiting_for_quiet_has_an_end() -> None:
    waiter = threading.Thread(target=wait_until_quiet, args=(1, 0.3, 0.1))
    waiter.start()
    waiter.join(10)
    assert not waiter.is_alive()


@pytest.fixture
def _own_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("_own_turns")
def test_only_one_measures_at_a_time() -> None:
    inside, most = 0, 0

    def measure() -> None:
        nonlocal inside, most
        with Turn():
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.usefixtures("_own_turns")
def test_who_does_not_measure_any_more_lets_those_go_first_who_do_and_then_they_go_together() -> None:
    waits, together = threading.Event(), threading.Barrier(2)

    def emulate() -> None:
        with Turn(waits.set) as turn:
            turn.share()
            together.wait(timeout=10)

    with Turn() as turn:
        thread = threading.Thread(target=emulate)
        thread.start()
        assert waits.wait(timeout=10)
        turn.share()
        together.wait(timeout=10)
    thread.join()


@pytest.mark.usefixtures("_own_turns")
def test_nobody_measures_while_others_emulate() -> None:
    waits, said = threading.Event(), list[str]()

    def measure() -> None:
        with Turn(waits.set):
            said.append("measured")

    thread = threading.Thread(target=measure)
    with Turn() as turn:
        turn.share()
        thread.start()
        assert waits.wait(timeout=10)
        said.append("emulated")
    thread.join()
    assert said == ["emulated", "measured"]
