"""Which CUDA goes with which driver, GPU, library and runtime: `accelerators.yaml`, read once.

In: the table beside this module. Out: rows by version, each with its source. What no row is for is None: it is not
known to fit, and not known not to.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from tasks.contracts import Contract
from tasks.smoke.hardware import VERSION_PATTERN, Source, numbers

TABLE_FILE = Path(__file__).with_name("accelerators.yaml")

_MIB = 2**20


class Row(Contract):
    """What is so for the versions from `first` to `last`; `last` may be a series: `9.10` is every 9.10.x."""

    first: str = Field(pattern=VERSION_PATTERN)
    last: str = Field(pattern=VERSION_PATTERN)
    sources: tuple[Source, ...] = Field(min_length=1)

    def covers(self, version: str) -> bool:
        given, last = numbers(version), numbers(self.last)
        return numbers(self.first) <= given and given[: len(last)] <= last


class CudaRow(Row):
    """A CUDA toolkit: the oldest driver that runs it, the oldest and newest GPU that its libraries have code for."""

    driver: str
    capabilities: tuple[str, str]


class LibraryRow(Row):
    """cuDNN or TensorRT: the CUDA releases that it is made for, and the oldest GPU that it has code for."""

    cuda: tuple[str, ...] = Field(min_length=1)
    least_capability: str


class Build(Contract):
    """One build of a runtime: `12` is every CUDA 12.x."""

    cuda: str
    cudnn: str


class RuntimeRow(Row):
    """A runtime, and the builds that there are of it."""

    builds: tuple[Build, ...] = Field(min_length=1)


class RuntimeMemory(Contract):
    """What the driver and one process hold of a GPU beside models: the least and the most that was seen."""

    least_bytes: int
    most_bytes: int
    sources: tuple[Source, ...] = Field(min_length=1)


class EccShare(Contract):
    """What error correction takes of memory that it has no chips of its own for."""

    share: float = Field(gt=0, lt=1)
    sources: tuple[Source, ...] = Field(min_length=1)


class Accelerators(Contract):
    """The whole table. `libraries` and `runtimes` are by name."""

    cuda: tuple[CudaRow, ...]
    libraries: dict[str, tuple[LibraryRow, ...]]
    runtimes: dict[str, tuple[RuntimeRow, ...]]
    runtime: RuntimeMemory
    inline_ecc: EccShare


_AnyRow = TypeVar("_AnyRow", bound=Row)


def find_row(rows: Iterable[_AnyRow], version: str) -> _AnyRow | None:
    """The row that is for this version."""
    return next((row for row in rows if row.covers(version)), None)


def is_of(version: str, series: str) -> bool:
    """Whether `12.6.3` is of the series `12`, or `12.6`."""
    return numbers(version)[: len(numbers(series))] == numbers(series)


@cache
def load_accelerators() -> Accelerators:
    """The table that ships with Slipway."""
    from ruamel.yaml import YAML

    content: dict[str, Any] = YAML(typ="safe").load(TABLE_FILE)
    known = {name: Source.model_validate(entry) for name, entry in content["sources"].items()}
    holders = [content["memory"][name] for name in ("process", "driver")]
    return Accelerators.model_validate(
        {
            "cuda": [_sourced(row, known) for row in content["cuda"]],
            "libraries": _by_name(content["libraries"], known),
            "runtimes": _by_name(content["runtimes"], known),
            "runtime": {
                "least_bytes": sum(holder["least_mib"] for holder in holders) * _MIB,
                "most_bytes": sum(holder["most_mib"] for holder in holders) * _MIB,
                "sources": [known[name] for holder in holders for name in holder["sources"]],
            },
            "inline_ecc": _sourced(content["memory"]["inline_ecc_share"], known),
        }
    )


def _by_name(section: dict[str, list[dict[str, Any]]], known: dict[str, Source]) -> dict[str, list[dict[str, Any]]]:
    return {name: [_sourced(row, known) for row in rows] for name, rows in section.items()}


def _sourced(row: dict[str, Any], known: dict[str, Source]) -> dict[str, Any]:
    return row | {"sources": [known[name] for name in row["sources"]]}
