"""The journal: what is torn never happened, what is damaged stops everything but the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import CorruptObject
from tasks.release.contracts import Phase, Release
from tasks.release.controller.controller import Controller
from tasks.release.controller.events import Left, Prepared
from tasks.release.controller.ledger import Ledger, models
from tasks.release.controller.machine import IllegalEvent
from tasks.release.controller.opening import Asked
from tasks.store import Store, open_store
from tests import samples
from tests.rehearsal import MODEL, START, World, candidate, controller, deployed, released


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def moving(tmp_path: Path) -> Controller:
    return controller(tmp_path, World(tmp_path))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home", MODEL)


@pytest.fixture
def release(moving: Controller, store: Store) -> Release:
    """One that was begun."""
    return moving.open(candidate(1, store), Asked(by="anna"), again=True)


@pytest.fixture
def journal(ledger: Ledger, release: Release) -> Path:
    return ledger.place(release.id) / "journal.jsonl"


def test_the_state_is_the_fold_of_all_that_happened(moving: Controller, ledger: Ledger, release: Release) -> None:
    moving.advance(release.id)
    assert ledger.state(release.id).release.phase is Phase.SHADOW
    assert [entry.event.kind for entry in ledger.entries(release.id)] == ["opened", "prepared"]
    assert [entry.by for entry in ledger.entries(release.id)] == ["anna", "anna"]


@pytest.mark.parametrize("cut", [1, 2, 40, -2])
def test_a_torn_last_line_never_happened(
    moving: Controller, ledger: Ledger, release: Release, journal: Path, cut: int
) -> None:
    whole = journal.read_bytes()
    moving.advance(release.id)
    line = journal.read_bytes()[len(whole) :]
    journal.write_bytes(whole + line[:cut])
    assert ledger.state(release.id).release.phase is Phase.PREPARING


def test_a_line_without_its_end_never_happened_though_it_can_be_read(
    moving: Controller, ledger: Ledger, release: Release, journal: Path
) -> None:
    moving.advance(release.id)
    journal.write_bytes(journal.read_bytes()[:-1])
    assert ledger.state(release.id).release.phase is Phase.PREPARING


def test_what_is_written_after_a_torn_line_replaces_it(
    moving: Controller, ledger: Ledger, release: Release, journal: Path
) -> None:
    with journal.open("ab") as file:
        file.write(b'{"sequence": 1, "at": "2026-')
    moving.advance(release.id)
    assert ledger.state(release.id).release.phase is Phase.SHADOW


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00" * 80, b'{"sequence": 1}'])
def test_a_damaged_line_before_the_last_stops_everything(
    moving: Controller, release: Release, journal: Path, damage: bytes
) -> None:
    moving.advance(release.id)
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], damage, lines[1]]) + b"\n")
    with pytest.raises(CorruptObject, match=r"journal\.jsonl"):
        moving.advance(release.id)


def test_a_missing_line_stops_everything(moving: Controller, release: Release, journal: Path) -> None:
    moving.advance(release.id)
    moving.advance(release.id)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[2])
    with pytest.raises(CorruptObject, match="one is missing"):
        moving.advance(release.id)


def test_an_event_that_cannot_happen_is_not_written(ledger: Ledger, release: Release, journal: Path) -> None:
    before = journal.read_bytes()
    with pytest.raises(IllegalEvent):
        ledger.record(ledger.state(release.id), Left(findings=(samples.finding(),)), "anna", START)
    assert journal.read_bytes() == before


def test_a_release_whose_first_line_is_torn_was_never_begun(ledger: Ledger, journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-1])
    assert ledger.underway() is None
    assert list(ledger.begun()) == []


def test_a_torn_look_is_taken_again(moving: Controller, ledger: Ledger, store: Store) -> None:
    released(moving, 1, store)
    release = moving.open(candidate(2, store), Asked(by="anna"), again=True)
    while moving.advance(release.id).phase is not Phase.CANARY:
        pass
    for _ in range(2):
        moving.advance(release.id)
    trace = ledger.place(release.id) / "trace.jsonl"
    trace.write_bytes(trace.read_bytes() + b'{"at": 17')
    fresh = Controller(moving.home, moving.outside, "ben")
    fresh.advance(release.id)
    assert trace.read_bytes().count(b"\n") == 1 + 3  # what was agreed, and three looks


def test_what_serves_is_damaged_and_said_so(moving: Controller, ledger: Ledger, store: Store) -> None:
    released(moving, 1, store)
    (ledger.folder / "serving.json").write_text('{"model": "digits"')
    with pytest.raises(CorruptObject, match=r"serving\.json"):
        ledger.serving()


def test_models_are_those_that_were_ever_to_be_released(moving: Controller, release: Release) -> None:
    assert models(moving.home) == (MODEL,)


def test_nobody_watches_once_whoever_did_is_gone(ledger: Ledger, release: Release) -> None:
    with ledger.watched() as mine:
        assert mine
        assert ledger.is_watched
    assert not ledger.is_watched


def test_what_was_prepared_is_told_with_its_evidence(moving: Controller, ledger: Ledger, release: Release) -> None:
    moving.advance(release.id)
    event = ledger.entries(release.id)[-1].event
    assert isinstance(event, Prepared)
    assert event.golden_rows == 16
    assert deployed(1) == ledger.state(release.id).release.candidate
