"""Predictions of two arms: has a class' share (or a bin's) moved by more than is allowed?

In: rows of both arms between two looks, and how many of them were of each class. Out: for each class, direction and
size of bet, the logarithm of what the stake is multiplied by.

A row of the canary multiplies the stake by 1 + a(y - (s + δ)), a row of the stable arm by 1 - a(n/m)(y - s), where y
says whether it was of the class, n and m are the rows of both in this interval, δ is what is allowed, s is a guess at
the stable arm's share made before the interval, and a > 0 the size of the bet. If the shares are p and q with
p - q ≤ δ, the mean of the whole product is at most 1:

    n log(1 + a(p - s - δ)) + m log(1 - a(n/m)(q - s)) ≤ (n + m) log(1 + n a(p - q - δ)/(n + m)) ≤ 0

by Jensen's inequality, whatever p, q and s are, and if they are different from row to row, where they are their means.
This is the block e-variable of Turner, Ly & Grünwald 2024, "Generic E-variables for exact sequential k-sample tests",
J. Stat. Plan. Inference 230, §2, for the null of a bounded difference (Turner & Grünwald 2023, "Exact anytime-valid
confidence intervals for contingency tables and beyond", Stat. Probab. Lett. 198, §3), written as a bet: their nearest
point of the null is (s + δ, s). A share that fell is one whose complement rose.

**Rows of one request may be anything but independent** (a batch of the same picture). Take the first row of each
request, the second, … : m such layers, in each of which rows are independent. The product over all rows is that of
the layers' products, and the mean of its m-th root is at most 1 by Hölder's inequality, however the layers hang
together. So the logarithm is divided by m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: By how much more than is allowed a share may have moved: the guesses that are bet on.
BEYOND = (0.01, 0.02, 0.04, 0.08, 0.16, 0.4)

#: A factor is never below this: a single row never takes more than nine tenths of a stake, so that one surprise does
#: not end a bet that was right.
_LEAST = 0.1
#: Rows before the first look, as of a class seen half of the time in one of them: the guess at a share is never 0 or 1
#: (Krichevsky & Trofimov 1981).
_PRIOR = 0.5


def guess(rows: Floats | float, of_class: Floats) -> Floats:
    """The stable arm's share as far as known before a look."""
    return np.asarray((of_class + _PRIOR) / (rows + 2 * _PRIOR))


def log_ratios(
    canary: Floats, canary_class: Floats, stable: Floats, stable_class: Floats, before: Floats, allowed: float
) -> Floats:
    """By direction and size of bet: [..., 2, len(BEYOND)], the share that rose first, then the one that fell.

    All arrays have one shape. Intervals in which either arm had no row are no bet: 0 throughout.
    """
    both = (canary > 0) & (stable > 0)
    n, m = np.where(both, canary, 1.0), np.where(both, stable, 1.0)
    risen = _risen(n, canary_class, m, stable_class, before, allowed)
    fallen = _risen(n, canary - canary_class, m, stable - stable_class, 1 - before, allowed)
    return np.where(both[..., None, None], np.stack([risen, fallen], axis=-2), 0.0)


def _risen(n: Floats, x: Floats, m: Floats, y: Floats, before: Floats, allowed: float) -> Floats:
    n, x, m, y, s = (value[..., None] for value in (n, x, m, y, before))
    c = s + allowed
    beyond = np.array(BEYOND)
    # Growth is largest where a is about (what it moved beyond δ) / (variance of both means, in rows of the canary).
    size = beyond / (np.maximum(c * (1 - c), 0) + (n / m) * s * (1 - s))
    size = np.minimum(size, (1 - _LEAST) / np.maximum(c, (n / m) * (1 - s)))
    # Where the allowed share is above 1, a canary's row loses whatever it is, and nothing can be found: as it should.
    return np.asarray(
        x * np.log1p(size * (1 - c))
        + (n - x) * np.log1p(-size * c)
        + y * np.log1p(-size * (n / m) * (1 - s))
        + (m - y) * np.log1p(size * (n / m) * s)
    )
