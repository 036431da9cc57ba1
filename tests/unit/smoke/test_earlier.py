"""What was found on one type is taken for the next where that gives a container the same, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import digest_of
from tasks.smoke.bisection import Bracket
from tasks.smoke.earlier import Earlier
from tasks.smoke.observation import Borne, Limits
from tasks.smoke.spent import Spent
from tasks.store import LocalStore

KEY = digest_of("an image with two vCPUs")
MIB = 2**20
RATE = Borne(800.0, 900, 1.25, 20.0, 0.5, cpus=1.5, spent=Spent(900, 0.1, 0.2, 0.3, 0.4, 0.5, 900, 1200))
NEED = Bracket(200 * MIB, 197 * MIB, 7)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def limits(memory_bytes: int) -> Limits:
    return Limits(2, memory_bytes, 2, memory_bytes)


def test_what_was_measured_comes_back_as_it_was_with_the_type_that_it_is_of(store: LocalStore) -> None:
    Earlier(store, KEY).keep("old", memory=NEED)
    Earlier(store, KEY).keep("new", rate=RATE)
    found = Earlier(store, KEY)
    assert found.rate() == (RATE, "new")
    assert found.memory(limits(500 * MIB)) == (NEED, "old")


def test_a_container_with_less_than_was_needed_is_measured_itself(store: LocalStore) -> None:
    Earlier(store, KEY).keep("old", memory=NEED)
    assert Earlier(store, KEY).memory(limits(NEED.enough)) is not None
    assert Earlier(store, KEY).memory(limits(NEED.enough - 1)) is None


def test_nothing_is_known_of_another_image_or_without_a_store(store: LocalStore) -> None:
    Earlier(store, KEY).keep("old", rate=RATE, memory=NEED)
    Earlier().keep("old", rate=RATE)
    for other in (Earlier(store, digest_of("another image")), Earlier()):
        assert (other.rate(), other.memory(limits(2**30))) == (None, None)


def test_a_bracket_whose_ends_did_not_meet_is_not_kept(store: LocalStore) -> None:
    Earlier(store, KEY).keep("old", memory=Bracket(400 * MIB, 197 * MIB, 2))
    assert Earlier(store, KEY).memory(limits(2**30)) is None


def test_fresh_measures_everything_and_keeps_it_for_others(store: LocalStore) -> None:
    Earlier(store, KEY).keep("old", rate=RATE, memory=NEED)
    fresh = Earlier(store, KEY, fresh=True)
    assert (fresh.rate(), fresh.memory(limits(2**30))) == (None, None)
    fresh.keep("new", rate=RATE)
    assert Earlier(store, KEY).rate() == (RATE, "new")
    assert Earlier(store, KEY).memory(limits(2**30)) == (NEED, "old")


def test_what_another_version_wrote_is_not_taken(store: LocalStore) -> None:
    store.put_result("capacity", KEY, '{"rate": {"rps": 3}}')
    assert Earlier(store, KEY).rate() is None
