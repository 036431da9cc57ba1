"""Failed (or slow) requests of two arms: is the canary's odds ratio above what is allowed?

In: requests and events of both arms between two looks. Out: the logarithm of each alternative's likelihood ratio.

Given how many of all requests failed, which arm they fell on says everything about the ratio, and nothing depends on
how often requests fail at all: an incident that hits both arms, or traffic that grows, changes nothing. The canary's
number follows Fisher's noncentral hypergeometric distribution (Fisher 1935, "The logic of inductive inference",
J. R. Stat. Soc. 98, p. 48; McCullagh & Nelder 1989, "Generalized Linear Models", §7.3.2):

    P(k) = C(n, k) · C(m, t - k) · ψ^k / Z(ψ)      n, m requests of canary and stable, t events in all

The likelihood ratio of ψ to the allowed ψ₀ has mean 1 under ψ₀, and at most 1 under any smaller ratio, as it grows
with k and the distribution with ψ (monotone likelihood ratio: Lehmann & Romano 2005, "Testing Statistical Hypotheses",
§3.4). So it is a fair bet against *every* version that is no worse than allowed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: How many times beyond what is allowed an alternative is. Close together where faults are subtle, and far beyond for
#: arms that fail always: at 1 % of traffic an odds ratio of 1,000 still gains on one of 100.
BEYOND = (2.0, 3.0, 5.0, 8.0, 13.0, 25.0, 100.0, 1000.0)

#: So many events at most are summed in one matrix product: the largest ψ, 100 · 1,000, to this power fits in float64.
_FEW = 60
#: Half-width of the window over which many events are summed, in standard deviations: the terms beyond it are below
#: e^-70 of the largest (they fall at least as fast as a normal density's), far below float64's rounding.
_SDS = 12.0


def alternatives(allowed: float) -> Floats:
    """The odds ratios that are bet on, where `allowed` is ψ₀."""
    return allowed * np.array(BEYOND)


def log_ratios(
    canary: ArrayLike, canary_events: ArrayLike, stable: ArrayLike, stable_events: ArrayLike, allowed: float
) -> Floats:
    """log P(k; ψ) / P(k; ψ₀) for each alternative ψ, in the last axis. The four arrays are integers of one shape."""
    n, k, m, s = (np.asarray(value, dtype=np.float64) for value in (canary, canary_events, stable, stable_events))
    shape = np.broadcast_shapes(n.shape, k.shape, m.shape, s.shape)
    n, k, m, s = (np.broadcast_to(value, shape).ravel() for value in (n, k, m, s))
    bets = np.concatenate([[allowed], alternatives(allowed)])
    totals = np.zeros((n.size, bets.size))
    width = np.minimum(n, k + s) - np.maximum(0.0, k + s - m)  # how many values k could have taken, less one
    few = (width > 0) & (width <= _FEW)
    if few.any():
        totals[few] = _few(n[few], m[few], (k + s)[few], bets)
    for index in np.flatnonzero(width > _FEW):
        totals[index] = _many(n[index], m[index], k[index] + s[index], bets)
    # `totals` are of ψ^(k - least), so the power is, too. Where k could take one value alone, all ratios are 1.
    above = np.where(width > 0, k - np.maximum(0.0, k + s - m), 0.0)
    logs = above[:, None] * np.log(bets) - totals
    return np.asarray((logs[:, 1:] - logs[:, :1]).reshape(*shape, bets.size - 1))


def times(rate: float, ratio: float) -> float:
    """The rate whose odds are `ratio` times those of `rate`."""
    return ratio * rate / (1 - rate + ratio * rate)


def log_ratios_alone(canary: ArrayLike, canary_events: ArrayLike, limit: ArrayLike) -> Floats:
    """The same where there is nothing to compare with: the canary's rate against a fixed `limit` (binomial, likewise
    monotone, so fair against every rate up to it)."""
    n, k, p = (np.asarray(value, dtype=np.float64)[..., None] for value in (canary, canary_events, limit))
    q = alternatives(1.0) * p / (1 - p + alternatives(1.0) * p)
    return np.asarray(k * np.log(q / p) + (n - k) * (np.log1p(-q) - np.log1p(-p)))


def _log_terms(n: Floats, m: Floats, t: Floats, k: Floats) -> Floats:
    """log C(n, k) C(m, t - k), less what does not depend on k; -inf outside the range of k."""
    from scipy.special import gammaln

    inside = (k >= 0) & (k <= n) & (t - k >= 0) & (t - k <= m)
    k = np.where(inside, k, np.maximum(0.0, t - m))
    terms = -gammaln(k + 1) - gammaln(n - k + 1) - gammaln(t - k + 1) - gammaln(m - t + k + 1)
    return np.where(inside, terms, -np.inf)


def _few(n: Floats, m: Floats, t: Floats, bets: Floats) -> Floats:
    """log Σ C(n, k) C(m, t - k) ψ^(k - least), exactly, of many intervals with few events each."""
    least = np.maximum(0.0, t - m)
    steps = np.arange(int((np.minimum(n, t) - least).max()) + 1)
    terms = _log_terms(n[:, None], m[:, None], t[:, None], least[:, None] + steps)
    largest = terms.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(terms - largest) @ bets ** steps[:, None]))


def _many(n: float, m: float, t: float, bets: Floats) -> Floats:
    """The same for one interval with many events, in logarithms, over a window about each distribution's mode."""
    least, most = max(0.0, t - m), min(n, t)
    # The variance of k is at most that of a binomial with as many draws as the smallest of the four margins.
    half = _SDS * np.sqrt(min(n, m, t, n + m - t) / 4) + _FEW
    sums = []
    reference = 0.0
    for number, psi in enumerate(bets):
        centre = _mode(n, m, t, float(psi))
        steps = np.arange(max(least, np.floor(centre - half)), min(most, np.ceil(centre + half)) + 1)
        terms = _log_terms(np.float64(n), np.float64(m), np.float64(t), steps)  # type: ignore[arg-type]
        if number == 0:
            reference = float(terms.max())
        logs = terms - reference + (steps - least) * np.log(psi)
        largest = logs.max()
        sums.append(largest + np.log(np.exp(logs - largest).sum()))
    return np.array(sums)


def _mode(n: float, m: float, t: float, psi: float) -> float:
    """Where (n - k)(t - k) ψ = k (m - t + k): the peak of the terms, within 1 (Liao & Rosen 2001, Am. Stat. 55, §2)."""
    b, c = (n + t) * psi + m - t, psi * n * t
    return float(2 * c / (b + np.sqrt(b * b - 4 * (psi - 1) * c)))
