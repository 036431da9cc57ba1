"""A release in the terminal, and what MLflow keeps of it."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from tasks.contracts import Verdict
from tasks.release.contracts import Phase, Release
from tasks.release.report import evidence_of, lines, render
from tests.unit.release.report.releases import FOUND, guard, promoted, release, rolled_back


def shown(of: object) -> str:
    console = Console(file=io.StringIO(), width=110, color_system=None)
    for each in lines(of):  # type: ignore[arg-type]
        console.print(each)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


# --- terminal -----------------------------------------------------------------------------------------------------


def test_a_canary_shows_arms_weights_evidence_and_what_it_waits_for() -> None:
    told = promoted()
    text = shown(release(Phase.CANARY, 1, 40, judgement=told.judgements[40], shadow=told.release.shadow))
    rows = [line.split() for line in text.splitlines()]
    assert next(row for row in rows if row[:1] == ["stable"])[:3] == ["stable", "version", "7"]
    assert next(row for row in rows if row[:1] == ["stable"])[-2:] == ["95", "%"]
    assert next(row for row in rows if row[:1] == ["canary"] and "version" in row and "onnx" in row)[-2:] == ["5", "%"]
    assert "-0.40 of 2.50" in text
    assert "watched 48 s of 1 min, 400 of 500 requests of the canary; about 20 s until it can decide" in text
    assert "it waits for 100 more requests" in text
    assert "accuracy 0.957 → 0.961" in text


def test_a_guard_that_fired_fills_its_bar() -> None:
    told = rolled_back()
    bar = next(line for line in shown(told.release).splitlines() if line.startswith("errors"))
    assert "█" * 20 in bar
    assert "·" not in bar


@pytest.mark.parametrize("evidence", [-math.inf, math.inf])
def test_evidence_without_end_is_shown(evidence: float) -> None:
    judged = rolled_back().judgements[-1].model_copy(update={"guards": (guard("errors", evidence),)})
    assert "inf of 2.50" in shown(release(Phase.CANARY, judgement=judged))


def test_a_release_that_ended_says_why_and_what_to_do() -> None:
    text = shown(rolled_back().release)
    assert text.startswith("rolled back")
    assert FOUND.code in text
    assert FOUND.advice in text


def test_text_is_never_taken_as_markup() -> None:
    found = FOUND.model_copy(update={"message": "shape [batch, 3] and [/red]"})
    assert "shape [batch, 3] and [/red]" in shown(release(Phase.REFUSED, findings=(found,)))


# --- MLflow -------------------------------------------------------------------------------------------------------


def test_mlflow_gets_the_page_the_trace_and_who_was_released_against_whom() -> None:
    told = rolled_back()
    page = render(told.release, told.trace, told.judgements, told.history)
    kept = evidence_of(told.release, page, told.trace, {"trace.jsonl": "{}\n"})
    assert (kept.stage, kept.label, kept.verdict) == ("release", told.release.id, Verdict.FAILED)
    assert (kept.texts["release.html"], kept.texts["trace.jsonl"]) == (page, "{}\n")
    assert Release.model_validate_json(kept.texts["release.json"]) == told.release
    assert kept.tags["slipway.package"] == told.release.candidate.package
    assert told.release.stable is not None
    assert kept.tags["slipway.previous"] == told.release.stable.package
    assert kept.tags["slipway.phase"] == "rolled_back"


def test_figures_are_those_of_the_whole_release() -> None:
    told = rolled_back()
    kept = evidence_of(told.release, "page", told.trace).metrics
    assert (kept["canary.requests"], kept["stable.requests"]) == (1800, 58_200)
    assert (kept["canary.errors"], kept["duration_s"]) == (54, 73)
    assert kept["shadow.accuracy.new"] == 0.961
    assert all(math.isfinite(value) for value in kept.values())


def test_the_same_release_is_the_same_evidence_and_another_is_not() -> None:
    told = promoted()
    one, again, other = (evidence_of(told.release, page, told.trace) for page in ("page", "page", "another"))
    assert one.digest == again.digest != other.digest


def test_only_a_release_that_took_over_has_passed() -> None:
    verdicts = {phase: evidence_of(release(phase), "").verdict for phase in Phase}
    assert [phase for phase, verdict in verdicts.items() if verdict is Verdict.PASSED] == [Phase.PROMOTED]
