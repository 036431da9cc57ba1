"""A whole release under load, and back, through the real HAProxy: nobody loses a request."""

from __future__ import annotations

import pytest

from benchmarks.release.router import climb
from tasks.settings import Settings

pytestmark = pytest.mark.docker


def test_no_request_of_200_000_is_lost_over_ladder_rollbacks_reloads_and_promotion(settings: Settings) -> None:
    seen = climb(200_000, 5, settings)
    assert seen.users.lost == {}
    assert seen.users.answered == seen.users.sent >= 200_000
    assert seen.users.slow > 1000
    for step, (found, asked) in seen.split.items():
        chance = (step * (100 - step) / asked) ** 0.5
        assert found == pytest.approx(step, abs=4 * chance + 0.01), f"at {step} %"
