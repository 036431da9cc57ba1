from __future__ import annotations

import pytest

from tasks.overview import render_releases
from tasks.release.contracts import Phase, Release
from tasks.release.controller import Standing
from tasks.release.controller.serving import Serving
from tests import releasing, samples


def _standing(underway: Release | None = None, *last: Release, weight: float | None = 1.0) -> Standing:
    serving = Serving(
        model="digits",
        port=8500,
        split_by="x-request-id",
        p99_ms=50,
        current=releasing.deployed("1"),
        since=releasing.NOW,
        release="digits-0",
    )
    return Standing(model="digits", serving=serving, underway=underway, is_watched=True, weight=weight, last=last)


def test_what_serves_is_shown_with_its_port() -> None:
    page = render_releases([_standing()])
    assert releasing.deployed("1").package in page
    assert "serves on port 8500" in page


def test_the_share_that_the_router_really_gives_is_shown_and_the_evidence_beside_its_threshold() -> None:
    page = render_releases([_standing(releasing.release(judgement=releasing.judgement()), weight=0.98)])
    assert "0.98 %" in page
    assert "step 1 of 3" in page
    assert "errors" in page
    assert 'max="2.3"' in page
    assert "waits for 380 more requests" in page


def test_a_router_that_does_not_answer_is_not_taken_at_its_word() -> None:
    page = render_releases([_standing(releasing.release(), weight=None)])
    assert "asked for; the router does not say" in page


def test_the_page_loads_itself_again_only_while_something_goes_on() -> None:
    assert 'http-equiv="refresh"' in render_releases([_standing(releasing.release())])
    assert 'http-equiv="refresh"' not in render_releases([_standing()])


@pytest.mark.parametrize(
    ("phase", "colour"),
    [
        (Phase.PROMOTED, "passed"),
        (Phase.ROLLED_BACK, "failed"),
        (Phase.REFUSED, "failed"),
        (Phase.HELD, "inconclusive"),
    ],
)
def test_how_the_latest_ended_is_shown_in_its_colour(phase: Phase, colour: str) -> None:
    page = render_releases([_standing(None, releasing.release(phase))])
    assert f'<span class="verdict {colour}">{str(phase).replace("_", " ")}' in page


def test_why_a_release_is_held_is_shown_with_what_to_do() -> None:
    found = samples.finding("RELEASE_UNDECIDED", message="too few requests", advice="wait for the day")
    page = render_releases([_standing(releasing.release(Phase.HELD, findings=(found,)), weight=0.0)])
    for text in ("RELEASE_UNDECIDED", "too few requests", "wait for the day"):
        assert text in page


def test_whatever_somebody_is_called_stays_text() -> None:
    page = render_releases([_standing(releasing.release(started_by="<script>alert(1)</script>"))])
    assert "<script>alert" not in page


def test_a_link_that_would_run_code_is_no_link() -> None:
    assert "javascript:" not in render_releases([], release_url="javascript:alert(1)")


def test_what_cannot_be_read_is_said() -> None:
    assert "the journal is damaged" in render_releases([], problem="the journal is damaged")
