"""What counts as kept, and that the highest rate is found."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.load.objective import Held, OutOfTime, held, highest, requests_needed


@pytest.mark.parametrize(
    ("asked", "late", "what"),
    [
        (0, 0, Held.UNCLEAR),
        (298, 0, Held.UNCLEAR),
        (299, 0, Held.KEPT),
        (299, 1, Held.UNCLEAR),
        (900, 3, Held.KEPT),
        (900, 8, Held.UNCLEAR),
        (900, 20, Held.BROKEN),
        (10, 10, Held.BROKEN),
    ],
)
def test_the_objective_is_kept_only_where_enough_requests_show_it(asked: int, late: int, what: Held) -> None:
    assert held(asked, late) is what


def test_as_many_requests_are_needed_as_the_exact_bound_says() -> None:
    assert held(requests_needed(), 0) is Held.KEPT
    assert held(requests_needed() - 1, 0) is Held.UNCLEAR


@given(st.floats(1.2, 50_000), st.floats(1, 5_000))
def test_the_highest_rate_is_found_from_any_start(capacity: float, start: float) -> None:
    found = highest(lambda rate: rate <= capacity, start)
    assert found is not None
    assert found <= capacity < found * 1.16


def test_where_no_rate_holds_there_is_none() -> None:
    assert highest(lambda rate: False, 100) is None


def test_when_time_runs_out_the_highest_so_far_counts() -> None:
    probes = itertools.count()

    def probe(rate: float) -> bool:
        if next(probes) == 2:
            raise OutOfTime
        return True

    assert highest(probe, 100) == 200


def test_when_time_runs_out_before_anything_held_there_is_nothing_to_say() -> None:
    def probe(rate: float) -> bool:
        raise OutOfTime

    with pytest.raises(OutOfTime):
        highest(probe, 100)
