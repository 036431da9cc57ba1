"""What the forms of files have in common: batches of rows in, batches of rows out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

#: Arrays by name, all with the same number of rows along their first axis.
Rows = Mapping[str, NDArray[Any]]


class Unscorable(Exception):
    """A file that cannot be scored, or an answer that has no place in the output; the message says where and why."""


class Reader(Protocol):
    """Rows of a file, by input. `total` is how many there are, `None` where only the end will tell."""

    total: int | None

    def batches(self, rows: int) -> Iterator[Rows]:
        """At most `rows` rows at a time, in order.

        Raises:
            Unscorable: something in the file is not what the signature wants.
        """

    def close(self) -> None: ...


class Writer(Protocol):
    """Takes answers, by output, in the order of the rows."""

    def append(self, answers: Rows) -> None:
        """Raises:
        Unscorable: the answers have no place in this form of file.
        """

    def finish(self) -> None:
        """Write what is still to be written."""

    def close(self) -> None:
        """Let go of everything, finished or not."""
