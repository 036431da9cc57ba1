"""Findings for people: the same words about several places come once, with all the places. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.contracts import Finding


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    """A finding, and the cells that it is about (`onnx`, `onnx on c6i.large`); none where it is about the whole."""

    finding: Finding
    places: tuple[str, ...]


def placed(findings: Iterable[Finding]) -> tuple[PlacedFinding, ...]:
    """Findings in their order, those of equal words together."""
    first: dict[tuple[str, str, str], Finding] = {}
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for finding in findings:
        words = (finding.code, finding.message, finding.advice)
        first.setdefault(words, finding)
        places.setdefault(words, {})
        if place := _place(finding):
            places[words][place] = None
    return tuple(PlacedFinding(finding, tuple(places[words])) for words, finding in first.items())


def _place(finding: Finding) -> str:
    name, kind = finding.evidence.get("format"), finding.evidence.get("instance_type")
    return " on ".join(str(part) for part in (name, kind) if part is not None)
