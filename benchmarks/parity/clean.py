"""Every clean model in every format through the gate, which has to let it pass."""

from __future__ import annotations

import fnmatch
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.parity.figures import Faithful, share
from benchmarks.parity.sharing import shared_out, workers

if TYPE_CHECKING:
    from tests.parity.corpus.clean import Exports


def ask_clean(only: str, processes: int, console: Console) -> list[Faithful]:
    from tests.parity.corpus.clean import PAIRS, REFUSED

    asked = [pair for pair in (*PAIRS, *REFUSED) if fnmatch.fnmatch("-".join(pair), only)]
    groups: dict[str, list[str]] = {}
    for name, written in asked:
        groups.setdefault(name, []).append(written)
    results: dict[tuple[str, str], Faithful] = {}
    for result in shared_out(_clean_of, groups, processes, (), console):
        results[result.name, result.format] = result
        if not result.right:
            said = result.said or f"expected {result.refused_by}"
            console.print(f"[red]{result.name} as {result.format}[/red]: {said}", highlight=False)
    return [results[pair] for pair in asked]


def _clean_of(name: str, formats: Sequence[str]) -> list[Faithful]:
    """One model, which is made once, in these formats."""
    from tests.parity.corpus.clean import Exports

    with tempfile.TemporaryDirectory() as folder:
        exports = Exports(Path(folder), workers=workers())
        return [_faithful(exports, name, written) for written in formats]


def _faithful(exports: Exports, name: str, written: str) -> Faithful:
    from tasks.export.conversion import ExportFailure
    from tests.parity.conftest import codes
    from tests.parity.corpus.clean import REFUSED

    began, expected = time.monotonic(), REFUSED.get((name, written))
    try:
        judgement = exports.judged(name, written)
    except ExportFailure as failure:
        return Faithful(name, written, (failure.code,), None, time.monotonic() - began, expected, str(failure))
    found, said = codes(judgement), "; ".join(finding.message for finding in judgement.findings)
    margins = [output.worst_margin for output in judgement.outputs if output.worst_margin is not None]
    margin = max(margins, default=None)
    return Faithful(name, written, tuple(found), margin, time.monotonic() - began, expected, said if found else "")


def print_clean(pairs: list[Faithful], console: Console) -> None:
    table = Table("format", "clean models", "passed", "largest share of the tolerance")
    exported = [pair for pair in pairs if pair.refused_by is None]
    for name in dict.fromkeys(pair.format for pair in exported):
        mine = [pair for pair in exported if pair.format == name]
        table.add_row(
            name,
            str(len(mine)),
            share(sum(not pair.codes for pair in mine), len(mine)),
            f"{max((pair.margin or 0.0 for pair in mine), default=0):.0%}",
        )
    console.print(table)
    console.print(f"clean models passed: {share(sum(pair.right for pair in exported), len(exported))}")
    refused = [pair for pair in pairs if pair.refused_by is not None]
    said = share(sum(pair.right for pair in refused), len(refused))
    console.print(f"refused, because the format cannot express the model: {said}")
