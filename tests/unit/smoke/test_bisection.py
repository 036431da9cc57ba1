"""The smallest limit that is enough is found from both sides, within what was promised and in few probes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tasks.smoke.bisection import LEAST_BYTES, WITHIN, Bracket, smallest

MIB = 2**20
GIB = 2**30


@given(need=st.integers(40 * MIB, 3 * GIB), factor=st.floats(0.6, 1.9))
def test_the_need_is_enclosed_within_five_per_cent(need: int, factor: float) -> None:
    found = smallest(lambda limit: limit >= need, known=4 * GIB, guess=int(need * factor), most_probes=8)
    assert found.too_little is not None
    assert found.too_little < need <= found.enough
    assert found.enough <= 1.05 * need
    assert found.probes <= 8


@given(need=st.integers(1, 4 * GIB), guess=st.integers(1, 4 * GIB), most=st.integers(0, 12))
def test_what_is_said_to_be_enough_was_and_what_is_said_to_be_too_little_was_not(
    need: int, guess: int, most: int
) -> None:
    tried: dict[int, bool] = {}

    def probe(limit: int) -> bool:
        assert limit not in tried
        assert LEAST_BYTES <= limit < 4 * GIB
        tried[limit] = limit >= need
        return tried[limit]

    found = smallest(probe, known=4 * GIB, guess=guess, most_probes=most)
    assert found.probes == len(tried) <= most
    assert found.enough == min([4 * GIB, *(limit for limit, lived in tried.items() if lived)])
    assert found.too_little == max([limit for limit, lived in tried.items() if not lived], default=None)


def test_when_time_is_over_the_smallest_so_far_counts() -> None:
    times = itertools.count()
    found = smallest(lambda limit: True, known=4 * GIB, guess=GIB, most_probes=8, is_over=lambda: next(times) == 2)
    assert found == Bracket(enough=GIB // 2, too_little=None, probes=2)
    assert not found.is_exact


def test_no_limit_is_tried_at_which_no_process_starts() -> None:
    found = smallest(lambda limit: True, known=64 * MIB, guess=40 * MIB, most_probes=8)
    assert (found.enough, found.too_little) == (20 * MIB, None)


def test_ends_as_near_as_promised_are_exact() -> None:
    assert Bracket(1025 * MIB, 1000 * MIB, 8).is_exact
    assert not Bracket(int(1000 * MIB * (1 + WITHIN)) + 2 * MIB, 1000 * MIB, 8).is_exact
