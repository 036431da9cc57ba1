"""What the release report says and draws, from releases made by hand; what was not seen has no section."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tasks.contracts import Verdict
from tasks.release.contracts import Phase
from tasks.release.report import render
from tasks.release.report.page import duration
from tests.unit.release.report.releases import FOUND, SHADOW, Told, promoted, release, rolled_back, trace, written


class Page(HTMLParser):
    """The page as a reader sees it: headings, table rows, drawings, what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.drawings: list[str] = []
        self.paths: dict[str, int] = {}
        self.loaded: list[str] = []
        self.tags: dict[str, int] = {}
        self._open: list[str] = []
        self._text: dict[str, str] = {}
        self.feed(text)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self._text.get("all", ""))

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self._open.append(tag)
        self.loaded += [found[name] for name in ("src", "href") if name in found]
        if tag == "svg" and "aria-label" in found:
            self.drawings.append(found["aria-label"])
        if tag == "path":
            self.paths[found["class"]] = self.paths.get(found["class"], 0) + 1
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag in {"h1", "h2"}:
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self._text["all"] = self._text.get("all", "") + data + " "
        said = re.sub(r"\s+", " ", data)
        if self.rows and {"td", "th"} & set(self._open):
            self.rows[-1][-1] = (self.rows[-1][-1] + said).strip()
        if {"h1", "h2"} & set(self._open):
            self.headings[-1] = (self.headings[-1] + said).strip()


def page_of(told: Told) -> Page:
    return Page(render(told.release, told.trace, told.judgements, told.history))


@pytest.fixture(scope="module")
def good() -> Page:
    return page_of(promoted())


@pytest.fixture(scope="module")
def bad() -> Page:
    return page_of(rolled_back())


# --- the verdict --------------------------------------------------------------------------------------------------


def test_a_release_that_took_over_says_from_what(good: Page) -> None:
    assert good.headings[0].startswith("digits version 8 (")
    assert "took all traffic over from version 7 (" in good.headings[0]
    assert "Why, and what to do" not in good.headings


def test_one_that_was_rolled_back_says_at_which_step_and_why(bad: Page) -> None:
    assert "was rolled back at the 5 % step" in bad.headings[0]
    assert "3 % of the canary's requests failed" in bad.headings[0]
    assert "Why, and what to do" in bad.headings
    assert FOUND.advice in bad.words
    assert FOUND.code in bad.words


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (Phase.PREPARING, "is being started"),
        (Phase.SHADOW, "no user meets it yet"),
        (Phase.CANARY, "is at the 5 % step"),
        (Phase.PROMOTING, "is taking all traffic over"),
        (Phase.ROLLING_BACK, "is being rolled back from the 5 % step"),
        (Phase.HELD, "a person must decide"),
        (Phase.REFUSED, "refused before any user met it"),
    ],
)
def test_every_phase_has_its_sentence(phase: Phase, said: str) -> None:
    assert said in Page(render(release(phase, 1))).headings[0]


# --- steps and plots ----------------------------------------------------------------------------------------------


def test_each_step_has_its_target_and_its_real_share(good: Page) -> None:
    rows = [row for row in good.rows if len(row) == 8 and row[0].endswith(" %")]
    assert [row[0] for row in rows] == ["1 %", "5 %", "25 %", "50 %", "100 %"]
    assert [row[1] for row in rows] == ["1.00 %", "5.00 %", "25.00 %", "50.00 %", "100.00 %"]
    assert rows[1][3:5] == ["1,500", "28,500"]
    assert rows[-1][-1].startswith("advance")


def test_every_guard_is_drawn_against_its_threshold(bad: Page) -> None:
    guards = [said for said in bad.drawings if said.startswith("evidence")]
    assert [said.split(" over")[0] for said in guards] == [
        "evidence of the guard errors",
        "evidence of the guard predictions logits",
    ]
    assert bad.paths["line evidence"] == 2
    assert "reached its threshold: 3.00 of 2.50" in bad.words
    assert "below its threshold: -0.50 of 2.50" in bad.words


def test_errors_slow_requests_and_classes_are_drawn_for_both_arms(bad: Page) -> None:
    assert "share of errors of the stable and of the canary version" in bad.drawings
    assert "share of slow requests of the stable and of the canary version" in bad.drawings
    assert {"share of cat in logits", "share of dog in logits"} <= set(bad.drawings)
    assert bad.paths["line stable"] == bad.paths["line canary"] - 1 == 4  # the real share is the canary's alone


def test_arms_are_told_apart_without_colour(bad: Page) -> None:
    text = render(*_parts(rolled_back()))
    assert re.search(r"\.line\.canary \{[^}]*stroke-dasharray", text)
    assert bad.tags["circle"] > 10  # stable
    assert '<rect class="canary"' in text
    assert "canary: dashes and squares" in bad.words


def test_the_class_that_moved_is_first_with_its_figures() -> None:
    told = rolled_back()
    page = Page(render(told.release, trace(steps=2, moved=0.1), told.judgements, told.history))
    assert "cat 50.0 % → 60.0 % +10.0" in page.words


def test_a_look_that_failed_is_a_gap_and_no_zero() -> None:
    told = rolled_back()
    seen = [
        sample.model_copy(update={"canary": None}) if 10 <= number <= 20 else sample
        for number, sample in enumerate(told.trace)
    ]
    text = render(told.release, seen, told.judgements, told.history)
    [drawn] = re.findall(r'aria-label="share of errors.*?<path class="line canary" d="([^"]*)"', text, re.DOTALL)
    assert drawn.count("M") == 2


def test_counters_that_began_again_are_never_negative() -> None:
    told = rolled_back()
    seen = [
        sample.model_copy(update={"canary": sample.canary.model_copy(update={"incarnation": "b", "requests": 40})})
        if number > 30 and sample.canary is not None
        else sample
        for number, sample in enumerate(told.trace)
    ]
    page = Page(render(told.release, seen, told.judgements, told.history))
    assert "-" not in "".join(page.row("5 %")[:7])


def test_one_look_draws_nothing() -> None:
    told = rolled_back()
    assert page_of(Told(told.history, told.trace[:1], told.judgements[:1])).drawings == []


# --- the rest -----------------------------------------------------------------------------------------------------


def test_what_was_released_against_what_and_by_whom(good: Page) -> None:
    told = promoted()
    assert good.row("Package")[1:] == [told.release.candidate.package, told.release.stable.package]  # type: ignore[union-attr]
    assert good.row("Image")[1:] == ["slipway/digits:new", "slipway/digits:old"]
    assert "by maria@example.com" in good.words


def test_shadow_is_told(good: Page) -> None:
    assert good.row("Requests")[1] == "1,000 to each version, 812 of them different, 3,200 rows"
    assert good.row("Same answer")[1] == "97.80 % of rows"
    assert good.row("accuracy")[1] == "0.957 → 0.961"


def test_a_release_that_shadow_refused_shows_its_findings() -> None:
    shadow = SHADOW.model_copy(update={"verdict": Verdict.FAILED, "findings": (FOUND,)})
    page = Page(render(release(Phase.REFUSED, shadow=shadow, findings=(FOUND,))))
    assert page.words.count(FOUND.code) == 2  # the card, and the trail
    assert page.words.count(FOUND.advice) == 1


def test_the_trail_has_every_word_of_the_journal_in_order(good: Page, bad: Page) -> None:
    rows = [row for row in good.rows if len(row) == 4 and row[0].endswith("UTC")]
    assert rows[0][1] == "maria@example.com"
    assert rows[0][2].startswith("the release of version 8 (")
    assert {row[1] for row in rows[1:]} == {"controller@host"}
    assert [row[2] for row in rows[1:]] == [
        "requests are replayed to both versions",
        *(f"{share} % to the canary" for share in (1, 5, 25, 50, 100)),
        "all traffic to the new version",
        "the new version serves",
    ]
    last = [row for row in bad.rows if len(row) == 4 and row[0].endswith("UTC")][-1]
    assert last[0] == "2026-11-24 12:01:13 UTC"
    assert last[3].startswith("JUDGE_MORE_ERRORS")


def test_a_first_release_has_nothing_in_production() -> None:
    page = Page(render(release(Phase.PROMOTED, 4, stable=None)))
    assert page.row("Package")[2] == "–"
    assert page.headings[0].endswith("took all traffic over.")


def test_what_was_not_seen_has_no_section() -> None:
    page = Page(render(release(Phase.PREPARING)))
    assert set(page.headings[1:]) == {"What, against what", "What was agreed before the first look", "Trail"}


def test_names_are_text_and_the_page_needs_nothing_else() -> None:
    evil = "<script>alert(1)</script>"
    told = rolled_back()
    last = told.release.model_copy(
        update={
            "started_by": evil,
            "findings": (FOUND.model_copy(update={"message": evil, "evidence": {evil: evil}}),),
        }
    )
    page = page_of(Told([*told.history, *written(last, by=evil)], told.trace, told.judgements))
    assert "script" not in page.tags
    assert page.loaded == []
    assert evil in page.words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (7500, "2 h 5 min")],
)
def test_durations_are_written_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def _parts(told: Told) -> Any:
    return told.release, told.trace, told.judgements, told.history
