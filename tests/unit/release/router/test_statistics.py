"""HAProxy's counters → each request of an arm once. The tables are what HAProxy 2.6 showed for what their names say."""

from __future__ import annotations

import pytest

from tasks.release.contracts import Arm, RouterCounts
from tasks.release.router.statistics import counts

COLUMNS = ("stot", "scur", "req_tot", "wretr", "hrsp_5xx", "cli_abrt", "srv_abrt")
TABLE = """\
# table: slow, type: string, size:2, used:2
0x1: key=canary use=0 exp=0 gpc0=7
0x2: key=stable use=0 exp=0 gpc0=0
"""


def table(**rows: dict[str, int]) -> str:
    """`show stat`: `canary_BACKEND={"stot": 4}`."""
    every: dict[str, dict[str, int]] = {
        name: {} for name in ("stable_stable", "stable_BACKEND", "canary_canary", "canary_instead", "canary_BACKEND")
    }
    every.update(rows)
    lines = ["# pxname,svname," + ",".join(COLUMNS)]
    for name, values in every.items():
        lines.append(",".join([*name.split("_"), *(str(values.get(column, 0)) for column in COLUMNS)]))
    return "\n".join(lines) + "\n\n"


def canary(**rows: dict[str, int]) -> RouterCounts:
    return counts(table(**{f"canary_{name}": row for name, row in rows.items()}), TABLE, "1", has_objective=True)[
        Arm.CANARY
    ]


def stable(**rows: dict[str, int]) -> RouterCounts:
    return counts(table(**{f"stable_{name}": row for name, row in rows.items()}), TABLE, "1", has_objective=True)[
        Arm.STABLE
    ]


def seen(found: RouterCounts) -> tuple[int, int, int, int]:
    return found.requests, found.errors, found.failed, found.hidden


def test_answers_are_requests_and_what_is_in_flight_is_none_yet() -> None:
    assert seen(canary(canary={"stot": 9, "req_tot": 7}, BACKEND={"stot": 9, "scur": 2, "req_tot": 7})) == (7, 0, 0, 0)


def test_5xx_answers_that_reached_the_user_are_errors() -> None:
    row = {"stot": 4, "req_tot": 4, "hrsp_5xx": 4}
    assert seen(canary(canary=row, BACKEND=row)) == (4, 4, 0, 0)


def test_a_failure_that_was_answered_instead_is_hidden_and_one() -> None:
    instead = {"stot": 4, "req_tot": 4}
    server = {"stot": 4, "wretr": 4}
    assert seen(canary(canary=server, instead=instead, BACKEND={"stot": 4, "req_tot": 4})) == (4, 0, 4, 4)


def test_what_goes_to_the_stable_version_because_the_canary_is_down_is_hidden_too() -> None:
    instead = {"stot": 6, "req_tot": 6}
    server = {"stot": 4, "req_tot": 4}
    assert seen(canary(canary=server, instead=instead, BACKEND={"stot": 10, "req_tot": 10})) == (10, 0, 6, 6)


def test_large_requests_that_broke_reached_the_user() -> None:
    whole = {"stot": 4, "req_tot": 4, "hrsp_5xx": 4}
    assert seen(canary(canary={"stot": 4}, BACKEND=whole)) == (4, 0, 4, 0)


def test_an_answer_that_broke_off_is_a_failure() -> None:
    row = {"stot": 4, "req_tot": 4, "srv_abrt": 4}
    assert seen(canary(canary=row, BACKEND=row)) == (4, 0, 4, 0)


def test_a_request_that_neither_version_answers_is_one_failure() -> None:
    found = canary(
        canary={"stot": 3, "wretr": 3}, instead={"stot": 3}, BACKEND={"stot": 3, "req_tot": 3, "hrsp_5xx": 3}
    )
    assert (found.requests, found.failed) == (3, 3)


def test_a_user_who_goes_away_is_nobodys_failure() -> None:
    row = {"stot": 5, "req_tot": 3, "cli_abrt": 2}
    assert seen(canary(canary=row, BACKEND=row)) == (5, 0, 0, 0)


def test_the_stable_versions_failures_are_counted_once_however_often_they_were_tried() -> None:
    # Half of them answered by 502, half by a closed connection; each tried three times.
    found = stable(stable={"stot": 18, "wretr": 24}, BACKEND={"stot": 6, "req_tot": 3, "hrsp_5xx": 3, "wretr": 24})
    assert seen(found) == (6, 0, 6, 0)


def test_a_retry_on_the_stable_version_that_helped_is_hidden() -> None:
    assert seen(stable(stable={"stot": 5, "req_tot": 4, "wretr": 2}, BACKEND={"stot": 4, "req_tot": 4})) == (4, 0, 1, 1)


def test_slow_answers_are_those_of_the_table_where_there_is_an_objective() -> None:
    assert canary().slow == 7
    assert counts(table(), TABLE, "1", has_objective=False)[Arm.CANARY].slow is None


@pytest.mark.parametrize("text", ["", "# pxname,svname\n", table().replace("canary,BACKEND", "other,BACKEND")])
def test_statistics_that_are_not_whole_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"statistics|invalid|BACKEND"):
        counts(text, TABLE, "1", has_objective=True)
