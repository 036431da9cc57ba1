"""Which requests are replayed: recorded ones, the evaluation rows, golden samples; alone and in batches.

In: tables of raw rows, and how many requests are asked for. Out: `Request`s in the order in which they are sent. Pure,
but for `logged`, which reads a prediction log.

First the golden samples (they cost little and show a wrong package at once), then what was recorded, then every row of
the evaluation data once, in batches as served, so that metrics have all of them; what is missing to the number that
was asked for is filled with rows alone and in batches of every size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature

Arrays = Mapping[str, NDArray[Any]]

#: Rows of the evaluation data that are asked for: a share of so many is known within 0.7 points at 95 % confidence, and
#: more would let a release of a million rows wait for an hour.
MOST_ROWS = 20_000
#: How often a single row is asked between two batches: clients mostly send single rows, and each size comes round.
_SINGLES = 4
#: What shadow's own requests are called in the servers' logs.
ID_PREFIX = "shadow-"


class Origin(StrEnum):
    """Where a request is from, in words."""

    LOG = "recorded request"
    EVALUATION = "evaluation row"
    GOLDEN = "golden sample"
    OLD_GOLDEN = "golden sample of the old version"


@dataclass(frozen=True, slots=True)
class Table:
    """Raw rows that requests are made of. `expected` are the new package's own golden answers to them."""

    origin: Origin
    inputs: Arrays
    rows: int
    expected: Arrays | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Some rows of a table, or (`at` is None) the whole of it. `recorded` is what the old version answered before."""

    name: str
    table: Table
    at: tuple[int, ...] | None = None
    recorded: Arrays | None = None

    @property
    def inputs(self) -> Arrays:
        return self._of(self.table.inputs)

    @property
    def expected(self) -> Arrays | None:
        return None if self.table.expected is None else self._of(self.table.expected)

    @property
    def rows(self) -> int:
        return self.table.rows if self.at is None else len(self.at)

    @property
    def places(self) -> tuple[int, ...]:
        """Which rows of its table they are."""
        return tuple(range(self.table.rows)) if self.at is None else self.at

    @property
    def key(self) -> tuple[int, tuple[int, ...] | None]:
        """Two requests with the same key are the same request."""
        return id(self.table), self.at

    def _of(self, arrays: Arrays) -> Arrays:
        if self.at is None:
            return arrays
        rows = list(self.at)
        return {name: array[rows] for name, array in arrays.items()}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of a request: all that both versions take, ascending, and that in which whole tables are asked for."""

    sizes: tuple[int, ...]
    chunk: int


def plan(
    asked: int,
    sizes: Sizes,
    golden: Sequence[Table] = (),
    recorded: Sequence[Request] = (),
    evaluation: Table | None = None,
) -> tuple[Request, ...]:
    """At least `asked` requests, repeated where there are fewer different ones; none where there are no rows at all."""
    planned: list[Request] = []
    for table in golden:
        planned += _covering(table, np.arange(table.rows), sizes.sizes[0], sizes.sizes[0])
    planned += recorded
    if evaluation is not None:
        planned += _covering(evaluation, _spread(evaluation.rows), sizes.sizes[0], sizes.chunk)
    tables = [table for table in ((evaluation,) if evaluation is not None else golden) if table is not None]
    if tables:
        planned += _filling(tables, sizes, asked - len(planned))
    elif recorded:
        again = cycle(recorded)
        planned += [next(again) for _ in range(asked - len(planned))]
    return tuple(planned)


def distinct(requests: Sequence[Request]) -> int:
    """How many different ones there are."""
    return len({request.key for request in requests})


def _spread(rows: int) -> NDArray[np.int64]:
    """All rows, or `MOST_ROWS` of them that lie evenly apart."""
    return np.unique(np.linspace(0, rows - 1, min(rows, MOST_ROWS)).astype(np.int64))


def _covering(table: Table, rows: NDArray[np.int64], least: int, size: int) -> list[Request]:
    """Each of these rows once; the last request is filled from the beginning up to the least size."""
    found = []
    for start in range(0, len(rows), size):
        taken = rows[start : start + size]
        if len(taken) < least:
            taken = np.concatenate([taken, np.resize(rows, least - len(taken))])
        found.append(_request(table, taken))
    return found


def _filling(tables: Sequence[Table], sizes: Sizes, missing: int) -> list[Request]:
    """Rows alone, and in batches of each larger size in turn; each table goes on where it was, round its end."""
    least, larger = sizes.sizes[0], sizes.sizes[1:] or sizes.sizes
    widths = cycle([size for one in larger for size in (*[least] * _SINGLES, one)])
    starts = [0] * len(tables)
    found: list[Request] = []
    while len(found) < missing:
        which = len(found) % len(tables)
        table, width = tables[which], next(widths)
        found.append(_request(table, np.arange(starts[which], starts[which] + width) % table.rows))
        starts[which] += width
    return found


def _request(table: Table, rows: NDArray[np.int64]) -> Request:
    at = tuple(int(row) for row in rows)
    name = f"{table.origin} {at[0]}"
    return Request(name if len(at) == 1 else f"{name} and {len(at) - 1} more", table, at)


# --- from a prediction log ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Logged:
    """What a prediction log had for a model: requests, the newest last; how many were not whole, and how many `others`
    were recorded under another signature."""

    requests: tuple[Request, ...] = ()
    redacted: int = 0
    others: int = 0


def logged(folder: Path, model: str, raw: Signature, package: str, most: int) -> Logged:
    """The newest recorded requests of a model, at most `most`.

    `raw` is what clients of the version in production send; `package` names it as its records do (its contract's
    digest): of these, the recorded answers are taken too, so that it is not asked again.

    Raises:
        OSError: there is no such file or folder.
        ValueError: a line is no record.
    """
    from serving.prediction_log import read

    names = {tensor.name: tensor.dtype.numpy for tensor in raw.inputs}
    newest: deque[Request] = deque(maxlen=most)
    redacted = others = 0
    for said in read(folder):
        if said.model != model or said.id.startswith(ID_PREFIX):
            continue
        if not said.is_whole:
            redacted += 1
        elif {name: array.dtype for name, array in said.inputs.items()} != names:
            others += 1
        else:
            first = next(iter(said.inputs.values()))
            table = Table(Origin.LOG, said.inputs, len(first) if first.ndim else 1)
            recorded = said.outputs if said.package == package else None
            newest.append(Request(f"{Origin.LOG} {said.id}", table, None, recorded))
    return Logged(tuple(newest), redacted, others)
