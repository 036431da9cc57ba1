from __future__ import annotations

import pytest

from tasks.airflow_glue.release.news import Event, end_of, progress, wanted, why
from tasks.contracts import Verdict
from tasks.release.contracts import Phase
from tests import releasing, samples


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.PROMOTED, Event.PROMOTED),
        (Phase.ROLLED_BACK, Event.ROLLED_BACK),
        (Phase.HELD, Event.HELD),
        (Phase.REFUSED, Event.REFUSED),
    ],
)
def test_every_way_to_stop_is_told(phase: Phase, event: Event) -> None:
    news = end_of(releasing.release(phase), "http://airflow.test/run")
    assert news is not None
    assert news.event is event
    assert news.candidate == releasing.deployed("2").package
    assert news.stable == releasing.deployed("1").package
    assert news.url == "http://airflow.test/run"


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.SHADOW, Phase.CANARY, Phase.PROMOTING, Phase.ROLLING_BACK])
def test_what_goes_on_by_itself_is_no_news(phase: Phase) -> None:
    assert end_of(releasing.release(phase)) is None


def test_a_rollback_is_told_with_what_was_found_and_what_to_do() -> None:
    found = samples.finding("CANARY_PREDICTIONS_MOVED", message="class 3 moved", advice="compare the preprocessing")
    news = end_of(releasing.release(Phase.ROLLED_BACK, findings=(found,)))
    assert news is not None
    assert "digits 2" in news.title
    assert "rolled back" in news.title
    assert news.text == "CANARY_PREDICTIONS_MOVED: class 3 moved → compare the preprocessing"


def test_why_shadow_refused_it_is_told_without_its_remarks() -> None:
    remark = samples.finding("SHADOW_REMARK", verdict=Verdict.PASSED)
    report = releasing.shadowed(verdict=Verdict.FAILED, findings=(samples.finding("SHADOW_DIFFERS"), remark))
    said = why(releasing.release(Phase.REFUSED, shadow=report))
    assert "SHADOW_DIFFERS" in said
    assert "SHADOW_REMARK" not in said


def test_a_wish_for_approval_says_where_to_answer() -> None:
    news = wanted(releasing.release(Phase.SHADOW), "http://airflow.test/required_actions")
    assert news.event is Event.APPROVAL_WANTED
    assert news.url == "http://airflow.test/required_actions"


def test_progress_shows_the_evidence_against_its_threshold() -> None:
    line = progress(releasing.release(judgement=releasing.judgement()))
    assert "1 % of traffic" in line
    assert "waits for 380 more requests" in line
    assert "errors 0.5 of 2.3" in line
