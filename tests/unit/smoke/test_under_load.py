"""Load on a real server on loopback: how much it bears, and whether it is still right meanwhile."""

from __future__ import annotations

import threading

import pytest

from tasks.load.client import Address
from tasks.smoke.observation import Crowd
from tasks.smoke.under_load import Meter, Target, bear, fullest, press
from tests.unit.smoke.servers import GOLDEN, PATH, Doubler, Hanging, Refusing, serving

QUIET = Meter(cpu_seconds=lambda: 1.5, others=lambda: lambda: 0.0)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few requests as can show anything, as quickly as they come."""
    monkeypatch.setattr("tasks.smoke.under_load._PROBE_S", 0.1)
    monkeypatch.setattr("tasks.smoke.under_load._PROBE_REQUESTS", 330)
    monkeypatch.setattr("tasks.smoke.under_load._WARM_UP_S", 0.05)


def target(address: Address, within_s: float = 10) -> Target:
    return Target(address, PATH, GOLDEN, within_s)


class Turning(Doubler):
    """Right at first, and wrong after so many answers."""

    def __init__(self, right: int) -> None:
        self._left = right
        self._one = threading.Lock()

    def answer(self, values: list[float]) -> list[float]:
        with self._one:
            self._left -= 1
        return [2 * value + (self._left < 0) for value in values]


def test_a_rate_that_keeps_the_objective_is_found_with_what_was_seen_at_it() -> None:
    with serving(Doubler()) as address:
        borne, answers = bear(target(address), 1, p50_ms=1.0, p99_ms=30_000, budget_s=1.2, meter=QUIET)
    assert answers.asked == answers.right > 300
    assert borne is not None
    assert borne.rate >= 250
    assert borne.asked > 299
    assert borne.p99_ms is not None
    assert borne.p99_ms >= borne.mean_ms / 2 > 0
    assert borne.cpus == 0.0
    assert borne.spent is None  # this server has no page of metrics


def test_where_no_rate_keeps_the_objective_there_is_none() -> None:
    with serving(Doubler()) as address:
        borne, answers = bear(target(address), 1, p50_ms=1.0, p99_ms=0.001, budget_s=2, meter=QUIET)
    assert borne is None
    assert answers.asked == answers.right > 0


def test_an_answer_that_turns_wrong_under_load_ends_the_search() -> None:
    with serving(Turning(200)) as address:
        borne, answers = bear(target(address), 1, p50_ms=2.0, p99_ms=30_000, budget_s=60, meter=QUIET)
    assert borne is None
    assert answers.wrong > 0
    assert answers.first_wrong is not None


def test_a_server_that_is_gone_shows_in_what_comes_after() -> None:
    with serving(Doubler()) as address:
        pass
    borne, answers = bear(target(address), 1, p50_ms=2.0, p99_ms=50, budget_s=5, meter=QUIET)
    assert borne is None
    assert answers.broken == answers.asked == 1
    assert press(target(address), Crowd(4, 2)).broken == 1
    assert fullest(target(address), 2) is None


def test_a_crowd_is_as_large_as_the_server_answers_in_time() -> None:
    with serving(Doubler()) as address:
        few = fullest(target(address), 4)
        assert few is not None
        assert 4 <= few.clients <= 256
        answers = press(target(address), few)
    assert answers.asked == answers.right == 3 * few.clients + 1
    assert (answers.clients, answers.batches) == (few.clients, (4,))


def test_a_server_that_hangs_on_a_crowd_is_asked_once_more_and_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.smoke.under_load._CROWD_S", 0.05)
    hanging = Hanging()
    with serving(hanging) as address:
        answers = press(target(address, 0.2), Crowd(4, 1))
        hanging.over.set()
    assert (answers.asked, answers.unanswered) == (1, 1)


def test_an_error_under_load_is_a_refusal_and_not_slowness() -> None:
    with serving(Refusing()) as address:
        borne, answers = bear(target(address), 1, p50_ms=2.0, p99_ms=30_000, budget_s=5, meter=QUIET)
    assert borne is None
    assert answers.refused == answers.asked > 0
