"""The upper bound of a paired drop: what it is known to be, and what must hold whatever the rows are."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks.parity.noninferiority import Bound, Changes, bound, changes

Z = NormalDist().inv_cdf(0.95)

VALUES = arrays.arrays(
    np.float64, st.integers(2, 60), elements=st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))
)
WORST = st.floats(0, 200).map(lambda x: round(x, 3))


def bounded(values: np.ndarray, worst: float = 1.0, margin: float = 0.1, confidence: float = 0.95) -> Bound:
    found = bound(Changes(values, max(worst, float(np.abs(values).max())), len(values)), confidence, margin)
    assert found is not None
    return found


def proportions(rows: int, lost: int, gained: int) -> np.ndarray:
    return np.repeat([1.0, -1.0, 0.0], [lost, gained, rows - lost - gained])


def tango(rows: int, lost: float, gained: float, quantile: float) -> float:
    """The upper limit from the formulas of the paper, solved by halving: what the general bound must agree with."""
    low, high = (lost - gained) / rows, 1.0
    for _ in range(100):
        delta = (low + high) / 2
        # Maximum likelihood estimate of the share of gained rows, given that lost - gained is delta.
        a, b = 2 * rows, -lost - gained + (2 * rows - lost + gained) * delta
        c = -gained * delta * (1 - delta)
        share = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
        statistic = (lost - gained - rows * delta) / math.sqrt(rows * (2 * share + delta * (1 - delta)))
        low, high = (delta, high) if statistic > -quantile else (low, delta)
    return high


@pytest.mark.parametrize(
    ("rows", "lost", "gained"), [(21, 7, 1), (161, 16, 6), (160, 20, 40), (538, 0, 0), (1000, 3, 0), (1000, 0, 3)]
)
def test_right_and_wrong_rows_have_tangos_interval(rows: int, lost: int, gained: int) -> None:
    assert bounded(proportions(rows, lost, gained)).upper == pytest.approx(tango(rows, lost, gained, Z), abs=1e-9)


def test_the_interval_of_a_published_table_is_found() -> None:
    """Bentur et al. 2009 in Fagerland, Lydersen & Laake 2014, table 5: 1 and 7 discordant of 21, -0.517 to -0.026."""
    found = bounded(proportions(21, 1, 7), confidence=0.975)
    assert (round(found.lower, 3), round(found.upper, 3)) == (-0.517, -0.026)


def test_a_margin_of_half_a_point_takes_539_rows_that_all_agree() -> None:
    assert bounded(np.zeros(539), margin=0.005).upper <= 0.005
    short = bounded(np.zeros(538), margin=0.005)
    assert short.upper > 0.005
    assert short.rows_needed == 539


def test_light_tails_and_many_rows_have_the_normal_bound() -> None:
    values = np.random.default_rng(0).normal(0.2, 1, 5000)
    assert bounded(values).upper == pytest.approx(values.mean() + Z * values.std() / np.sqrt(5000), rel=0.02)


def test_a_few_large_losses_widen_the_bound_beyond_students() -> None:
    values = np.repeat([20.0, 0.0], [2, 98])
    student = values.mean() + 1.66 * values.std(ddof=1) / 10
    assert bounded(values).upper > 1.3 * student


def test_one_row_bounds_nothing() -> None:
    assert bound(Changes(np.zeros(1), 1.0, 1), 0.95, 0.1) is None


def test_a_change_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        bound(Changes(np.array([0.0, np.nan]), 1.0, 2), 0.95, 0.1)


def test_no_number_of_rows_shows_less_than_the_drop_itself() -> None:
    assert bounded(proportions(100, 5, 0), margin=0.05).rows_needed is None


@given(st.integers(0, 4), st.integers(0, 4), st.integers(20, 200))
def test_the_rows_that_are_asked_for_suffice_and_fewer_do_not(lost: int, gained: int, rows: int) -> None:
    margin = (lost - gained) / rows + 0.01
    found = bounded(proportions(rows, lost, gained), margin=margin)
    needed = found.rows_needed
    if needed is None:
        assert found.upper <= margin
        return
    shares = np.array([lost, gained, rows - lost - gained]) / rows

    def upper(of: int) -> float:
        """Tango's limit for shares, not counts: the statistic depends on the counts through shares alone."""
        return tango_of_shares(shares[0], shares[1], of)

    assert upper(needed) <= margin + 1e-9
    assert upper(needed - 1) > margin - 1e-9


def tango_of_shares(lost: float, gained: float, rows: int) -> float:
    return tango(rows, lost * rows, gained * rows, Z)


@given(VALUES, WORST)
def test_the_bound_is_never_below_the_observed_drop(values: np.ndarray, worst: float) -> None:
    found = bounded(values, worst)
    drop, rounding = float(values.mean()), 1e-9 * (1 + np.abs(values).max())
    assert found.lower <= drop + rounding
    assert found.upper >= drop - rounding


@given(st.integers(2, 5000), st.floats(0.001, 100), st.floats(0.51, 0.999))
def test_rows_that_all_agree_leave_room_for_an_unseen_change(rows: int, worst: float, confidence: float) -> None:
    square = NormalDist().inv_cdf(confidence) ** 2
    found = bounded(np.zeros(rows), worst, confidence=confidence)
    assert found.upper >= worst * square / (rows + square) * (1 - 1e-9)


@given(VALUES, WORST, st.integers(2, 4))
def test_more_rows_of_the_same_never_widen_the_bound(values: np.ndarray, worst: float, times: int) -> None:
    once, more = bounded(values, worst), bounded(np.tile(values, times), worst)
    assert more.upper <= once.upper + 1e-9 * (1 + np.abs(values).max())


@given(VALUES, WORST, st.randoms())
def test_the_order_of_the_rows_does_not_matter(values: np.ndarray, worst: float, random: object) -> None:
    shuffled = np.random.default_rng(0).permutation(values)
    assert bounded(shuffled, worst).upper == pytest.approx(bounded(values, worst).upper, rel=1e-9, abs=1e-9)


@given(VALUES, WORST, st.floats(0.51, 0.9))
def test_more_confidence_takes_more_room(values: np.ndarray, worst: float, confidence: float) -> None:
    sure, surer = bounded(values, worst, confidence=confidence), bounded(values, worst, confidence=confidence + 0.09)
    assert surer.upper >= sure.upper - 1e-9 * (1 + np.abs(values).max())


def test_pseudo_values_are_centred_on_the_drop_that_was_measured() -> None:
    found = changes(np.array([3.0, 5.0]), np.array([1.0, 2.0]), drop=0.5, worst=None, sign=1, rows=2)
    assert found.values.mean() == pytest.approx(0.5)
    assert np.ptp(found.values) == pytest.approx(1.0)
