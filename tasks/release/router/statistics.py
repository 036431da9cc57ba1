"""HAProxy's counters → what each arm did, each request once.

In: what the runtime API answers to `show stat` and `show table slow`. Out: `RouterCounts` of both arms. The columns are
of HAProxy's management guide, section 9.1; what they count when attempts fail and are repeated was tried on 2.6.

A request that was meant for the canary and that the second server of its backend (`instead`) answered is one that the
canary did not: its attempt failed, or it was marked down. So `instead` counts what was hidden.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping

from tasks.release.contracts import Arm, RouterCounts
from tasks.release.router.configuration import RETRIES

_Row = Mapping[str, str]

#: `key=canary use=0 exp=0 gpc0=12`
_SLOW = re.compile(r"key=(\w+)\s.*\bgpc0=(\d+)")


def counts(statistics: str, table: str, incarnation: str, *, has_objective: bool) -> dict[Arm, RouterCounts]:
    """Both arms' counters.

    Raises:
        ValueError: the statistics are not whole.
    """
    rows = _rows(statistics)
    slow = {arm: int(count) for arm, count in _SLOW.findall(table)}
    found = {}
    for arm in Arm:
        try:
            whole, server = rows[arm, "BACKEND"], rows[arm, arm]
            instead = rows.get((arm, "instead"))
            found[arm] = _counts(whole, server, instead, incarnation, slow.get(arm, 0) if has_objective else None)
        except KeyError as error:
            raise ValueError(f"the statistics have no {error} of {arm}") from error
    return found


def _counts(whole: _Row, server: _Row, instead: _Row | None, incarnation: str, slow: int | None) -> RouterCounts:
    ended = _ended(whole)
    errors = _number(server, "hrsp_5xx")
    # No attempt was answered: HAProxy said so itself (502 to 504), or closed a connection that the user keeps, which
    # says that the request may be sent again; not because the user had gone.
    said = _number(whole, "hrsp_5xx") - errors
    closed = max(0, ended - _number(whole, "req_tot") - _number(whole, "cli_abrt"))
    unanswered = said + closed
    if instead is None:
        # The only server: attempts beyond one for each request, but for those that did not help.
        repeated = _number(server, "stot") - _number(whole, "stot")
        hidden = max(0, repeated - RETRIES * unanswered)
    else:
        hidden = _ended(instead)
        # Where the stable version did not answer either, it is hidden no more, and one failure all the same.
        unanswered -= _number(instead, "hrsp_5xx") + max(0, hidden - _number(instead, "req_tot"))
    broken = _number(server, "srv_abrt")  # in the middle of an answer
    failed = max(0, unanswered) + hidden + broken
    return RouterCounts(
        incarnation=incarnation,
        requests=ended,
        errors=min(errors, ended),
        failed=min(failed, ended - min(errors, ended)),
        hidden=min(hidden, failed, ended),
        slow=slow,
    )


def address(statistics: str, backend: str, server: str) -> str:
    """Where HAProxy really sends the requests of a server."""
    return _rows(statistics)[backend, server]["addr"]


def _ended(row: _Row) -> int:
    return max(0, _number(row, "stot") - _number(row, "scur"))


def _rows(statistics: str) -> dict[tuple[str, str], _Row]:
    reader = csv.DictReader(io.StringIO(statistics.lstrip("# \n")))
    return {(row["pxname"], row["svname"]): row for row in reader if row.get("svname")}


def _number(row: _Row, column: str) -> int:
    return int(row[column] or 0)
