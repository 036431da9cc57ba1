"""What share of the CPUs others took: this process and the container are not others."""

from __future__ import annotations

import threading
import time

import pytest

from tasks.smoke.quiet import CpuTimes, taken_by_others, wait_until_quiet

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
