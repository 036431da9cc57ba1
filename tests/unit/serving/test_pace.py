"""What was measured lately: on the safe side, but not shaken by a single interrupt."""

from __future__ import annotations

import pytest

from serving.pace import Drain, Pace, Took


def quick() -> Pace:
    pace = Pace()
    for _ in range(500):
        pace.saw(64, Took(20e-6, 20e-6))
    return pace


def test_what_was_never_measured_is_not_known() -> None:
    assert Pace().seconds(64) is None
    assert not Pace().is_below(1.0, 64)
    assert not quick().is_below(1.0, 128)


def test_one_long_measurement_among_many_does_not_decide() -> None:
    pace = quick()
    pace.saw(64, Took(2e-3, 2e-3))
    assert pace.is_below(250e-6, 64)


def test_what_becomes_slow_is_noticed_soon_and_forgotten_late() -> None:
    pace = quick()
    for _ in range(3):
        pace.saw(64, Took(5e-3, 5e-3))
    assert not pace.is_below(250e-6, 64)
    for _ in range(100):
        pace.saw(64, Took(20e-6, 20e-6))
    assert not pace.is_below(250e-6, 64)
    for _ in range(500):
        pace.saw(64, Took(20e-6, 20e-6))
    assert pace.is_below(250e-6, 64)


def test_what_waits_is_not_quick_however_little_it_computes() -> None:
    pace = Pace()
    pace.saw(64, Took(wall_s=5e-3, cpu_s=20e-6))
    assert not pace.is_below(250e-6, 64)
    assert pace.seconds(64) == 5e-3


def test_rows_leave_as_fast_as_they_did() -> None:
    drain = Drain()
    assert drain.seconds(10) is None
    drain.began(0.0)
    for second in range(1, 50):
        drain.left(float(second), 4)
    assert drain.seconds(8) == pytest.approx(2.0)


def test_idle_time_does_not_count() -> None:
    drain = Drain()
    drain.began(0.0)
    drain.left(1.0, 4)
    drain.began(1000.0)
    drain.left(1001.0, 4)
    assert drain.seconds(4) == pytest.approx(1.0)
