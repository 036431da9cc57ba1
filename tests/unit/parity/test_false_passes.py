"""The promise of the metric gate, in simulation: what loses exactly the margin passes at most one time in twenty.

`benchmarks/noninferiority.py` does this with more trials and sizes. The seeds are fixed: a run is like any other.
"""

from __future__ import annotations

import pytest

from benchmarks.noninferiority import Case, allowed, cases

TRIALS = 300
CASES = tuple(cases())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_export_that_loses_exactly_the_margin_rarely_passes(case: Case) -> None:
    assert case.share_passed(200, case.true_drop(200_000), TRIALS) <= allowed(TRIALS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_answers_to_enough_rows_pass(case: Case) -> None:
    assert case.share_passed(1000, case.true_drop(200_000), 20, harmless=True) >= 0.95
