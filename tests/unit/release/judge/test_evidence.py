"""The evidence: what its pieces are known to be, and that they are fair bets whatever is true of what is allowed."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.release.judge import odds, shares
from tasks.release.judge.bounds import lower_rate, upper_rate
from tasks.release.judge.bursts import Bursts, RequestSizes
from tasks.release.judge.comparison import EventComparison, ShareComparison
from tasks.release.judge.wealth import Wealth

REQUESTS = st.integers(1, 12)


def chances(n: int, m: int, total: int, psi: float) -> dict[int, float]:
    """Fisher's noncentral hypergeometric distribution from its definition."""
    terms = {k: math.comb(n, k) * math.comb(m, total - k) * psi**k for k in range(max(0, total - m), min(n, total) + 1)}
    whole = sum(terms.values())
    return {k: term / whole for k, term in terms.items()}


# --- odds ---------------------------------------------------------------------------------------------------------


@given(REQUESTS, REQUESTS, st.data())
def test_the_ratio_of_odds_is_the_ratio_of_fishers_chances(n: int, m: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(1, n + m))
    k = data.draw(st.sampled_from(sorted(chances(n, m, total, 1.0))))
    found = np.exp(odds.log_ratios(n, k, m, total - k, 1.5))
    expected = [chances(n, m, total, psi)[k] / chances(n, m, total, 1.5)[k] for psi in odds.alternatives(1.5)]
    assert found == pytest.approx(expected, rel=1e-9)


@given(REQUESTS, REQUESTS, st.data(), st.floats(0.01, 1.5))
def test_no_version_within_what_is_allowed_gains_by_the_bet_on_average(
    n: int, m: int, data: st.DataObject, psi: float
) -> None:
    total = data.draw(st.integers(1, n + m))
    mean = sum(
        chance * np.exp(odds.log_ratios(n, k, m, total - k, 1.5)) for k, chance in chances(n, m, total, psi).items()
    )
    assert (mean <= 1 + 1e-9).all()


@pytest.mark.parametrize(("n", "m", "total"), [(900, 5000, 300), (40_000, 40_000, 9_000), (300, 200, 480)])
def test_many_events_are_summed_as_exactly_as_few(n: int, m: int, total: int) -> None:
    least, most = max(0, total - m), min(n, total)
    logs = {
        psi: np.array([_log_term(n, m, total, k) + k * math.log(psi) for k in range(least, most + 1)])
        for psi in (1.5, *odds.alternatives(1.5))
    }
    normal = {psi: terms - np.logaddexp.reduce(terms) for psi, terms in logs.items()}
    for k in (least, least + (most - least) // 3, most):
        expected = [normal[psi][k - least] - normal[1.5][k - least] for psi in odds.alternatives(1.5)]
        assert odds.log_ratios(n, k, m, total - k, 1.5) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def _log_term(n: int, m: int, total: int, k: int) -> float:
    return sum(
        math.lgamma(of + 1) - math.lgamma(part + 1) - math.lgamma(of - part + 1)
        for of, part in ((n, k), (m, total - k))
    )


def test_the_largest_odds_that_a_plan_may_allow_do_not_overflow() -> None:
    assert np.isfinite(odds.log_ratios(60, 60, 60, 0, 100.0)).all()


@given(st.integers(1, 50), st.data(), st.floats(1e-4, 0.9), st.floats(0, 1))
def test_alone_no_rate_up_to_the_limit_gains_on_average(n: int, data: st.DataObject, limit: float, part: float) -> None:
    rate = limit * part
    mean = sum(
        math.comb(n, k) * rate**k * (1 - rate) ** (n - k) * np.exp(odds.log_ratios_alone(n, k, limit))
        for k in range(n + 1)
    )
    assert (mean <= 1 + 1e-6).all()


# --- shares -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 1), st.floats(-0.02, 0.02), st.floats(0.001, 0.999))
def test_no_share_within_what_is_allowed_gains_on_average(
    n: int, m: int, stable: float, moved: float, guess: float
) -> None:
    canary = min(1.0, max(0.0, stable + moved))
    mean = np.zeros((2, len(shares.BEYOND)))
    for x, y in product(range(n + 1), range(m + 1)):
        chance = math.comb(n, x) * canary**x * (1 - canary) ** (n - x)
        chance *= math.comb(m, y) * stable**y * (1 - stable) ** (m - y)
        arrays = (np.array([float(value)]) for value in (n, x, m, y, guess))
        mean += chance * np.exp(shares.log_ratios(*arrays, allowed=0.02)[0])
    assert (mean <= 1 + 1e-9).all()


def test_an_interval_in_which_one_arm_answered_nothing_is_no_bet() -> None:
    nothing = shares.log_ratios(*(np.array([value]) for value in (5.0, 5.0, 0.0, 0.0, 0.3)), allowed=0.02)
    assert (nothing == 0).all()


# --- wealth -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_a_bet_on_nothing_keeps_its_stake(turns: list[tuple[bool, bool]]) -> None:
    wealth = Wealth((), 3)
    for played, anew in turns:
        wealth.play(np.zeros(3), played=played, anew=anew)
    assert wealth.value == pytest.approx(1.0)


def test_a_version_that_was_fine_for_long_is_still_found() -> None:
    wealth = Wealth((), 1)
    for _ in range(2000):
        wealth.play(np.array([-0.5]))
    assert wealth.value < 0.2
    for _ in range(20):
        wealth.play(np.array([1.0]))
    assert wealth.value > 400


def test_wealth_without_bounds_does_not_overflow() -> None:
    wealth = Wealth((), 1)
    for _ in range(10):
        wealth.play(np.array([400.0]))
    assert np.isfinite(wealth.value)


# --- what comes together ------------------------------------------------------------------------------------------


def test_events_that_come_alone_are_no_bursts() -> None:
    rng, bursts = np.random.default_rng(0), Bursts((200,))
    for _ in range(200):
        bursts.take(rng.binomial(500, 0.01, 200) * 1.0, np.full(200, 500.0), np.ones(200, dtype=bool))
    assert np.median(bursts.divisor(np.full(200, 500.0), np.full(200, 500.0))) < 2.5


def test_a_pause_divides_by_as_many_as_it_hits_in_the_canary() -> None:
    bursts, one = Bursts(()), np.ones((), dtype=bool)
    for events in (1, 0, 1, 100):
        bursts.take(np.float64(events), np.float64(500), one)
    assert float(bursts.divisor(np.float64(500), np.float64(500))) == pytest.approx(100, rel=0.1)
    assert float(bursts.divisor(np.float64(5), np.float64(500))) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(("sizes", "together"), [((1,), 1), ((8,), 8), ((1, 2, 30), 905 / 33)])
def test_rows_hang_together_as_requests_are_large(sizes: tuple[int, ...], together: float) -> None:
    rng, seen = np.random.default_rng(0), RequestSizes(())
    for _ in range(3000):
        requests = rng.multinomial(30, np.full(len(sizes), 1 / len(sizes)))
        seen.take(np.float64(requests @ np.array(sizes)), np.float64(30))
    assert float(seen.together) == pytest.approx(together, rel=0.1)


# --- bounds -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.data(), st.floats(0.001, 0.2))
def test_bounds_are_on_either_side_of_what_was_seen(trials: int, data: st.DataObject, alpha: float) -> None:
    events = data.draw(st.integers(0, trials))
    assert 0 <= lower_rate(events, trials, alpha) <= events / trials <= upper_rate(events, trials, alpha) <= 1


def test_nothing_is_known_without_trials() -> None:
    assert (lower_rate(0, 0, 0.01), upper_rate(0, 0, 0.01)) == (0, 1)


def test_a_thousand_good_requests_leave_less_than_one_per_cent() -> None:
    assert upper_rate(0, 1000, 0.005) < 0.0095


def test_the_bound_holds_at_every_look_together() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        events = np.cumsum(rng.random(1000) < 0.03)
        missed += any(upper_rate(events[n - 1], n, 0.1) < 0.03 for n in range(10, 1001, 30))
    assert missed <= 10


# --- together -----------------------------------------------------------------------------------------------------


def test_looks_with_too_few_requests_are_compared_together() -> None:
    apart, whole = EventComparison((), 1.5), EventComparison((), 1.5)
    for request in range(8):
        apart.take(0, 0, 1, 0) if request % 2 else apart.take(1, 1, 0, 0)
    whole.take(4, 4, 4, 0)
    assert float(apart.value) == pytest.approx(float(whole.value))
    assert float(whole.value) > 1


def test_equal_versions_are_rarely_condemned_and_worse_ones_mostly_soon() -> None:
    rng, releases = np.random.default_rng(0), 500
    equal, worse = EventComparison((releases,), 1.5), EventComparison((releases,), 1.5)
    ever = np.zeros(releases, dtype=bool)
    for _ in range(200):
        n, m = rng.poisson(3, releases), rng.poisson(297, releases)
        equal.take(n, rng.binomial(n, 0.01), m, rng.binomial(m, 0.01))
        worse.take(n, rng.binomial(n, 0.1), m, rng.binomial(m, 0.01))
        ever |= equal.value >= 200
    assert ever.mean() <= 0.005
    assert (worse.value >= 200).mean() > 0.95


def test_equal_answers_in_large_requests_are_rarely_condemned() -> None:
    rng, releases, rows = np.random.default_rng(0), 200, 10
    comparison, ever = ShareComparison((releases,), 3, 0.02), np.zeros(releases, dtype=bool)
    for _ in range(100):
        x, y = (rng.multinomial(asked, (0.5, 0.3, 0.2), releases) * float(rows) for asked in (20, 20))
        comparison.take(x.sum(axis=1), x, y.sum(axis=1), y, float(rows))
        ever |= comparison.value >= 400
    assert ever.mean() <= 0.01
