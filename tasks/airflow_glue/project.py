"""Where the specs are: paths that people give are relative to the repository, whatever folder a worker runs in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEC_FILE = "model.yaml"

#: The environment variable that says where to look for specs: folders and globs, separated like PATH.
SPECS_VARIABLE = "SLIPWAY_SPECS"
_EXAMPLES = f"examples/*/{SPEC_FILE}"


def default_patterns() -> list[str]:
    """Where specs are looked for unless a run says otherwise."""
    return [pattern for pattern in os.environ.get(SPECS_VARIABLE, "").split(os.pathsep) if pattern] or [_EXAMPLES]


def absolute(path: str) -> Path:
    """A path as a person gave it."""
    return (ROOT / Path(path).expanduser()).resolve()


def spec_files(patterns: Iterable[str]) -> list[Path]:
    """The spec files that folders and globs name, each once, sorted. A folder stands for every spec below it."""
    found: set[Path] = set()
    for pattern in patterns:
        place = ROOT / Path(pattern).expanduser()
        matches = (
            place.rglob(SPEC_FILE) if place.is_dir() else Path(place.anchor).glob(str(place.relative_to(place.anchor)))
        )
        found.update(path.resolve() for path in matches if path.is_file())
    return sorted(found)


def _glob(pattern: Path) -> Iterator[Path]:
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))


def shown(path: Path) -> str:
    """A path as people know it: relative to the repository where it lies in it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
