"""The table of CUDA, drivers, libraries and runtimes: consistent in itself, and silent about what it does not know."""

from __future__ import annotations

import itertools

import pytest

from tasks.smoke.accelerators import Row, find_row, is_of, load_accelerators
from tasks.smoke.hardware import numbers

TABLE = load_accelerators()
SECTIONS: dict[str, tuple[Row, ...]] = {"cuda": TABLE.cuda, **TABLE.libraries, **TABLE.runtimes}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_version_has_one_row_and_every_row_its_source(name: str) -> None:
    rows = SECTIONS[name]
    assert all(row.covers(row.first) and row.sources for row in rows)
    for one, other in itertools.permutations(rows, 2):
        assert not one.covers(other.first)


def test_a_newer_cuda_never_needs_an_older_driver() -> None:
    drivers = [numbers(row.driver) for row in sorted(TABLE.cuda, key=lambda row: numbers(row.first))]
    assert drivers == sorted(drivers)


def test_every_build_and_library_is_for_a_cuda_of_the_table() -> None:
    named = [series for rows in TABLE.libraries.values() for row in rows for series in row.cuda]
    named += [build.cuda for rows in TABLE.runtimes.values() for row in rows for build in row.builds]
    for series in named:
        assert any(is_of(row.first, series) or row.covers(series) for row in TABLE.cuda)


@pytest.mark.parametrize(
    ("version", "first"),
    [("10.13.1", "10.5"), ("10.13.2", "10.13.2"), ("10.13.3.9", "10.13.2"), ("10.4.0", "10.0")],
)
def test_the_row_of_a_version_is_found_by_numbers_and_not_by_letters(version: str, first: str) -> None:
    row = find_row(TABLE.libraries["tensorrt"], version)
    assert row is not None
    assert row.first == first


@pytest.mark.parametrize("version", ["12.7", "9.0", "99.0"])
def test_what_no_row_is_for_is_not_known(version: str) -> None:
    assert find_row(TABLE.cuda, version) is None
