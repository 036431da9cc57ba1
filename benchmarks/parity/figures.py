"""What the benchmark finds: of a fault, of a clean model, of an example; and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Faulty:
    """What became of one fault. `blocked` may be for the wrong reason; `layer` is what the report names."""

    name: str
    format: str
    must_pass: bool
    codes: tuple[str, ...]
    right: bool
    margin: float | None
    seconds: float
    layers: tuple[str, ...] = ()
    layer: str | None = None
    let_through: dict[str, bool] = field(default_factory=dict)
    said: str = ""

    @property
    def blocked(self) -> bool:
        return bool(self.codes)

    @property
    def named(self) -> bool:
        return self.layer in self.layers


@dataclass(frozen=True, slots=True)
class Faithful:
    """What became of one clean model in one format; `refused_by` is what its export has to be refused with."""

    name: str
    format: str
    codes: tuple[str, ...]
    margin: float | None
    seconds: float
    refused_by: str | None = None
    said: str = ""

    @property
    def right(self) -> bool:
        return self.codes == (() if self.refused_by is None else (self.refused_by,))


@dataclass(frozen=True, slots=True)
class Cost:
    """One example in one format: seconds of each stage in a fresh process, and peak memory in MiB."""

    example: str
    format: str
    export_s: float
    parity_s: float
    parity_source_mib: float
    parity_export_mib: float
    plain_mib: float


def share(count: int, total: int) -> str:
    """So many of so many, as the tables say it."""
    return f"{count} / {total}" if total else "–"


def keep(path: Path, figures: dict[str, list[dict[str, Any]]], only: str = "*") -> None:
    """Write these figures over those of the same parts; other parts, and what `only` left out of a part, stay."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for part, records in figures.items():
        asked = {_pair(record) for record in records}
        others = [] if only == "*" else [record for record in known.get(part, []) if _pair(record) not in asked]
        known[part] = others + records
    written = path.with_suffix(".new")
    written.write_text(json.dumps(known, indent=1) + "\n")
    written.replace(path)


def _pair(record: dict[str, Any]) -> tuple[str, str]:
    """A model or a fault, and the format."""
    return record.get("name") or record["example"], record["format"]
