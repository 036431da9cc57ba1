"""One expectation, and what it means when it is broken. A table, and what is expected of it.

Plain values: rules are written and tested without Great Expectations, which only checks them. How bad a broken rule
is, is a `Verdict` here and a severity there:

    failed         critical    the table shows that something is wrong
    inconclusive   warning     nothing can be shown with this table, in either direction
    passed         info        a remark
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tasks.contracts import Owner, Verdict

if TYPE_CHECKING:
    import pandas as pd

#: What the arguments of expectations are made of.
Argument: TypeAlias = str | int | float | bool | Sequence[str] | Sequence[int] | None

#: Verdict of a broken rule → Great Expectations' severity.
SEVERITIES = {Verdict.FAILED: "critical", Verdict.INCONCLUSIVE: "warning", Verdict.PASSED: "info"}


@dataclass(frozen=True, slots=True)
class Rule:
    """`expectation` is Great Expectations' own name with its `arguments`; `claim` says the same as a clause."""

    expectation: str
    arguments: Mapping[str, Argument]
    claim: str
    code: str
    broken: Verdict
    advice: str
    owner: Owner = Owner.DATA

    @property
    def column(self) -> str | None:
        """The column that it is about, where it is about one."""
        column = self.arguments.get("column")
        return column if isinstance(column, str) else None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its rules. `one` and `many` are what its rows are called, `key` is the column that tells them apart.

    `shown` are columns that are shown beside a row that breaks a rule.
    """

    name: str
    one: str
    many: str
    key: str
    frame: pd.DataFrame
    rules: tuple[Rule, ...]
    shown: tuple[str, ...] = ()
