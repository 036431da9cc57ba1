"""Every fault of `tests/parity/corpus` through the gate, and its ONNX files through other tools' checks."""

from __future__ import annotations

import fnmatch
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.parity.figures import Faulty, share
from benchmarks.parity.sharing import shared_out, workers

if TYPE_CHECKING:
    from tests.parity.corpus.bases import Corpus
    from tests.parity.corpus.fault import Fault

_POLYGRAPHY = "polygraphy==0.53.6"


def ask_faults(only: str, processes: int, libraries: Path, console: Console) -> list[Faulty]:
    from tests.parity.corpus.table import FAULTS

    asked = [fault for fault in FAULTS if fnmatch.fnmatch(str(fault), only)]
    groups: dict[str, list[str]] = {}
    for fault in asked:
        groups.setdefault(f"{fault.base} as {fault.format}", []).append(str(fault))
    results: dict[tuple[str, str], Faulty] = {}
    for result in shared_out(_faults_of, groups, processes, (libraries,), console):
        results[result.format, result.name] = result
        if result.said:
            console.print(f"[yellow]{result.format}-{result.name}[/yellow]: {result.said}", highlight=False)
    return [results[fault.format, fault.name] for fault in asked]


def _faults_of(_: str, names: Sequence[str]) -> list[Faulty]:
    """The faults of one good export, which is made once."""
    from tests.parity.corpus.bases import Corpus
    from tests.parity.corpus.table import FAULTS

    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), workers=workers())
        return [_faulty(corpus, fault) for fault in FAULTS if str(fault) in names]


def _faulty(corpus: Corpus, fault: Fault) -> Faulty:
    from tests.parity.conftest import codes
    from tests.parity.corpus.bases import BASES
    from tests.parity.corpus.other_checks import CHECKS

    corpus.export(fault.base, fault.format)  # the good one, whose time is not this fault's
    began = time.monotonic()
    path = corpus.broken(fault)
    judgement = corpus.judged(fault.base, fault.format, path)
    spent = time.monotonic() - began
    found = codes(judgement)
    margins = [output.worst_margin for output in judgement.outputs if output.worst_margin is not None]
    layer = corpus.diverging_layer(fault, judgement, path) if fault.layers else None
    passes = {}
    if fault.format == "onnx":
        source, _ = corpus.source(fault.base)
        for name, check in CHECKS.items():
            passes[name] = _lets_through(functools.partial(check, source.predict, BASES[fault.base].signature, path))
    said = ""
    if not fault.caught_by(found):
        messages = "; ".join(finding.message for finding in judgement.findings) or "passed"
        said = f"expected {fault.code or 'to pass'}: {messages}"
    elif fault.layers and layer not in fault.layers and corpus.can_locate:
        said = f"{layer or 'no layer'} is named, not {fault.layers}"
    return Faulty(
        name=fault.name,
        format=fault.format,
        must_pass=fault.code is None,
        codes=tuple(found),
        right=fault.caught_by(found),
        margin=max(margins, default=None),
        seconds=spent,
        layers=fault.layers,
        layer=layer,
        let_through=passes,
        said=said,
    )


def _lets_through(check: Any) -> bool:
    """A check that raises stops the file."""
    try:
        return bool(check())
    except Exception:  # noqa: BLE001 -- whatever the runtime or the check raises is how it stops a file
        return False


def install_polygraphy(folder: Path) -> Path:
    """Where Polygraphy is installed, beside our own dependencies; without a package index its rule is restated."""
    target = folder / "polygraphy"
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), _POLYGRAPHY]
        subprocess.run(command, check=False, capture_output=True)
    return target


def print_faults(results: list[Faulty], console: Console) -> None:
    from tests.parity.corpus.other_checks import polygraphy_is_there

    table = Table("format", "faults", "blocked", "for the right reason", "layer named", "too small, and passed")
    for name in dict.fromkeys(result.format for result in results):
        mine = [result for result in results if result.format == name]
        faults, small = [f for f in mine if not f.must_pass], [f for f in mine if f.must_pass]
        placed = [fault for fault in faults if fault.layers]
        table.add_row(
            name,
            str(len(faults)),
            share(sum(fault.blocked for fault in faults), len(faults)),
            share(sum(fault.right for fault in faults), len(faults)),
            share(sum(fault.named for fault in placed), len(placed)),
            share(sum(not fault.blocked for fault in small), len(small)),
        )
    console.print(table)
    files = [result for result in results if result.let_through and not result.must_pass]
    if files:
        table = Table("check of the same ONNX files", "faults blocked")
        table.add_row("Slipway", share(sum(fault.blocked for fault in files), len(files)))
        for name in files[0].let_through:
            how = "" if name != "Polygraphy" or polygraphy_is_there() else " (rule restated: not installed)"
            table.add_row(name + how, share(sum(not fault.let_through[name] for fault in files), len(files)))
        console.print(table)
    seconds = sorted(result.seconds for result in results)
    if seconds:
        console.print(f"{len(seconds)} files in {sum(seconds):.0f} s, median {seconds[len(seconds) // 2]:.1f} s each")
