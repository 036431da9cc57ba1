"""Tensors as columns of a table: `age` for one value per row, `pixels[0,3]` for one of several.

A table gives the values of a tensor in one of three ways:

    pixels[0,0], pixels[0,1], …     every position, in any order; other columns may stand between them
    pixels[0], pixels[1], …         every position of the flattened tensor (row-major)
    any names, in order             where the model has one input, none of the columns is named after it, and there are
                                    exactly as many columns as a row has values
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from serving.contract import Signature, TensorSpec
from serving.score.check import column_name
from serving.score.rows import Unscorable

_INDEXED = re.compile(r"(?P<name>.+)\[(?P<position>\d+(,\s*\d+)*)\]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a table: `columns` by number, in row-major order of `shape`, a row's own."""

    spec: TensorSpec
    columns: tuple[int, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]


def places(header: Sequence[str], raw: Signature) -> tuple[Place, ...]:
    """Where each input lies in a table with this header.

    Raises:
        Unscorable: a column is missing, or there twice.
    """
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise Unscorable(f"the column {', '.join(twice)} is there twice")
    return tuple(place(spec, header, raw) for spec in raw.inputs)


def expanded(name: str, shape: tuple[int, ...]) -> list[str]:
    """The columns of an output whose rows have this shape."""
    return [column_name(name, position) for position in product(*map(range, shape))]


def place(spec: TensorSpec, header: Sequence[str], raw: Signature) -> Place:
    """Where one input lies.

    Raises:
        Unscorable: a column is missing.
    """
    found: dict[tuple[int, ...], int] = {}
    for number, column in enumerate(header):
        matched = _INDEXED.fullmatch(column)
        if column == spec.name:
            found[()] = number
        elif matched and matched["name"] == spec.name:
            found[tuple(map(int, matched["position"].split(",")))] = number
    declared = spec.shape[1:]
    ranks = {len(position) for position in found}
    if not found and len(raw.inputs) == 1 and all(isinstance(size, int) for size in declared):
        shape = tuple(size for size in declared if isinstance(size, int))
        if prod(shape) == len(header):
            return Place(spec, tuple(range(len(header))), shape, tuple(header))
    if len(ranks) == 1 and ranks <= {1, len(declared)} - {0} and declared:
        [rank] = ranks
        shape = _shape(declared, [max(axis) + 1 for axis in zip(*found, strict=True)], rank)
        several = list(map(range, shape)) if rank == len(shape) else [range(prod(shape))]
        # The count first: a header may name a position beyond all reason.
        if len(found) == prod(shape) and set(positions := list(product(*several))) == set(found):
            ordered = tuple(found[position] for position in positions)
            return Place(spec, ordered, shape, tuple(header[number] for number in ordered))
    if list(found) == [()] and all(size == 1 for size in declared):
        return Place(spec, (found[()],), tuple(1 for _ in declared), (spec.name,))
    raise Unscorable(_missing(spec, found, header))


def _shape(declared: Sequence[int | str], found: list[int], rank: int) -> tuple[int, ...]:
    """A row's shape: fixed sizes as declared, dynamic ones as the columns have them."""
    if rank == len(declared):
        return tuple(size if isinstance(size, int) else found[axis] for axis, size in enumerate(declared))
    return tuple(size if isinstance(size, int) else -1 for size in declared)  # flattened: dynamic sizes are not known


def _missing(spec: TensorSpec, found: dict[tuple[int, ...], int], header: Sequence[str]) -> str:
    declared = spec.shape[1:]
    fixed = [size for size in declared if isinstance(size, int)]
    if not declared:
        wanted = f"a column {spec.name!r}"
    elif len(fixed) == len(declared):
        last = column_name(spec.name, tuple(size - 1 for size in fixed))
        wanted = f"the columns {column_name(spec.name, (0,) * len(fixed))} to {last}"
    else:
        wanted = f"columns such as {column_name(spec.name, (0,) * len(declared))}, for {list(declared)}"
    shown = ", ".join(header[:8]) + (", …" if len(header) > 8 else "")
    have = f"{len(found)} of them are there" if found else f"the columns are {shown or 'none'}"
    return f"input {spec.name!r}: expected {wanted}; {have}"
