"""The parity gate against the fault corpus, beside what the exporters' own checks say, and what the stage costs.

    make bench-parity                                           everything
    .venv/bin/python benchmarks/parity.py corpus --only 'onnx-*'    a part: corpus, clean, examples

Every fault of `tests/parity/corpus` and every clean model in all its formats goes through the real gate in the real
runtimes. Of the ONNX files torch.onnx, Optimum and Polygraphy are asked as well, by the rules that
`tests/parity/corpus/other_checks.py` cites; Polygraphy itself is installed beside, under SLIPWAY_HOME, for that. The
examples are exported and checked in processes of their own, for their time and memory.

Prints tables, and writes `bench/parity.json` under SLIPWAY_HOME, where what was not asked for keeps the figures of its
last run. Exit code 1 where a fault passes or a clean one fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks.settings import Settings
from tasks.workspace import use_own_temporary_folder

_ROOT = Path(__file__).parents[1]
_EXAMPLES = ("digits-cnn", "diabetes-regression", "breast-cancer-classifier")
_POLYGRAPHY = "polygraphy==0.53.6"
_PARTS = ("corpus", "clean", "examples")


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

    @property
    def blocked(self) -> bool:
        return bool(self.codes)

    @property
    def named(self) -> bool:
        return self.layer in self.layers


@dataclass(frozen=True, slots=True)
class Faithful:
    """What became of one clean model in one format."""

    name: str
    format: str
    codes: tuple[str, ...]
    margin: float | None
    seconds: float


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


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all of them unless given")
    parser.add_argument("--only", default="*", help="faults or clean models by name, as a shell pattern")
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stage:
        print(json.dumps(_stage(*asked.stage)))
        return 0
    parts = asked.parts or list(_PARTS)
    if unknown := set(parts) - set(_PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    folder = Settings.from_environment().home / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    console, right = Console(), True
    figures: dict[str, list[dict[str, Any]]] = {}
    if "corpus" in parts:
        sys.path.append(str(_polygraphy(folder)))
        faults = list(_faults(asked.only, console))
        _print_faults(faults, console)
        figures["faults"] = [asdict(fault) for fault in faults]
        right &= all(fault.right for fault in faults)
    if "clean" in parts:
        clean = list(_clean(asked.only, console))
        _print_clean(clean, console)
        right &= _refused(asked.only, console)
        figures["clean"] = [asdict(pair) for pair in clean]
        right &= not any(pair.codes for pair in clean)
    if "examples" in parts:
        costs = list(_costs())
        _print_costs(costs, console)
        figures["costs"] = [asdict(cost) for cost in costs]
    keep(folder / "parity.json", figures, asked.only)
    console.print(f"figures: {folder / 'parity.json'}")
    return 0 if right else 1


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


# --- the corpus ---------------------------------------------------------------------------------------------------


def _faults(only: str, console: Console) -> Iterable[Faulty]:
    from tests.parity.conftest import codes
    from tests.parity.corpus.bases import BASES, Corpus
    from tests.parity.corpus.other_checks import CHECKS
    from tests.parity.corpus.table import FAULTS

    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder))
        for fault in FAULTS:
            if not fnmatch.fnmatch(str(fault), only):
                continue
            corpus.export(fault.base, fault.format)  # the good one, whose time is not this fault's
            began = time.monotonic()
            path = corpus.broken(fault)
            judgement = corpus.judged(fault.base, fault.format, path)
            spent = time.monotonic() - began
            found = codes(judgement)
            margins = [output.worst_margin for output in judgement.outputs if output.worst_margin is not None]
            passes = {}
            if fault.format == "onnx":
                source, _ = corpus.source(fault.base)
                for name, check in CHECKS.items():
                    passes[name] = _lets_through(lambda: check(source.predict, BASES[fault.base].signature, path))  # noqa: B023
            result = Faulty(
                name=fault.name,
                format=fault.format,
                must_pass=fault.code is None,
                codes=tuple(found),
                right=fault.caught_by(found),
                margin=max(margins, default=None),
                seconds=spent,
                layers=fault.layers,
                layer=corpus.diverging_layer(fault, judgement, path) if fault.layers else None,
                let_through=passes,
            )
            if not result.right:
                said = "; ".join(finding.message for finding in judgement.findings) or "passed"
                console.print(f"[red]{fault}[/red]: expected {fault.code or 'to pass'}: {said}", highlight=False)
            elif result.layers and not result.named and corpus.can_locate:
                console.print(f"[yellow]{fault}[/yellow]: {result.layer or 'no layer'} is named, not {fault.layers}")
            yield result
        corpus.close()


def _lets_through(check: Any) -> bool:
    """A check that raises stops the file."""
    try:
        return bool(check())
    except Exception:  # noqa: BLE001 -- whatever the runtime or the check raises is how it stops a file
        return False


def _polygraphy(folder: Path) -> Path:
    """Where Polygraphy is installed, beside our own dependencies; without a package index its rule is restated."""
    target = folder / "polygraphy"
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), _POLYGRAPHY]
        subprocess.run(command, check=False, capture_output=True)
    return target


def _print_faults(results: list[Faulty], console: Console) -> None:
    from tests.parity.corpus.other_checks import polygraphy_is_there

    table = Table("format", "faults", "blocked", "for the right reason", "layer named", "too small, and passed")
    for name in dict.fromkeys(result.format for result in results):
        mine = [result for result in results if result.format == name]
        faults, small = [f for f in mine if not f.must_pass], [f for f in mine if f.must_pass]
        placed = [fault for fault in faults if fault.layers]
        table.add_row(
            name,
            str(len(faults)),
            _share(sum(fault.blocked for fault in faults), len(faults)),
            _share(sum(fault.right for fault in faults), len(faults)),
            _share(sum(fault.named for fault in placed), len(placed)),
            _share(sum(not fault.blocked for fault in small), len(small)),
        )
    console.print(table)
    files = [result for result in results if result.let_through and not result.must_pass]
    if files:
        table = Table("check of the same ONNX files", "faults blocked")
        table.add_row("Slipway", _share(sum(fault.blocked for fault in files), len(files)))
        for name in files[0].let_through:
            how = "" if name != "Polygraphy" or polygraphy_is_there() else " (rule restated: not installed)"
            table.add_row(name + how, _share(sum(not fault.let_through[name] for fault in files), len(files)))
        console.print(table)
    seconds = sorted(result.seconds for result in results)
    if seconds:
        console.print(f"{len(seconds)} files in {sum(seconds):.0f} s, median {seconds[len(seconds) // 2]:.1f} s each")


# --- clean models -------------------------------------------------------------------------------------------------


def _clean(only: str, console: Console) -> Iterable[Faithful]:
    from tests.parity.conftest import codes
    from tests.parity.corpus.clean import PAIRS, Exports

    with tempfile.TemporaryDirectory() as folder:
        exports = Exports(Path(folder))
        for name, written in PAIRS:
            if not fnmatch.fnmatch(f"{name}-{written}", only):
                continue
            began = time.monotonic()
            judgement = exports.judged(name, written)
            found = codes(judgement)
            if found:
                said = "; ".join(finding.message for finding in judgement.findings)
                console.print(f"[red]{name} as {written}[/red]: {said}", highlight=False)
            margins = [output.worst_margin for output in judgement.outputs if output.worst_margin is not None]
            yield Faithful(name, written, tuple(found), max(margins, default=None), time.monotonic() - began)
        exports.close()


def _refused(only: str, console: Console) -> bool:
    """Whether each export that cannot be is refused by the finding that says why."""
    from tasks.export.conversion import ExportFailure
    from tests.parity.corpus.clean import REFUSED, Exports

    said: dict[tuple[str, str], str] = {}
    asked = {pair: code for pair, code in REFUSED.items() if fnmatch.fnmatch("-".join(pair), only)}
    with tempfile.TemporaryDirectory() as folder:
        exports = Exports(Path(folder))
        for name, written in asked:
            try:
                exports.judged(name, written)
            except ExportFailure as failure:
                said[name, written] = failure.code
        exports.close()
    right = sum(said.get(pair) == code for pair, code in asked.items())
    console.print(f"refused, because the format cannot express the model: {_share(right, len(asked))}")
    return right == len(asked)


def _print_clean(pairs: list[Faithful], console: Console) -> None:
    table = Table("format", "clean models", "passed", "largest share of the tolerance")
    for name in dict.fromkeys(pair.format for pair in pairs):
        mine = [pair for pair in pairs if pair.format == name]
        table.add_row(
            name,
            str(len(mine)),
            _share(sum(not pair.codes for pair in mine), len(mine)),
            f"{max((pair.margin or 0.0 for pair in mine), default=0):.0%}",
        )
    console.print(table)


# --- what it costs ------------------------------------------------------------------------------------------------


def _costs() -> Iterable[Cost]:
    """Each stage in a process of its own: memory is the process's, and nothing is warm."""
    from tasks.export import formats_of
    from tasks.spec import load_spec

    for example in _EXAMPLES:
        spec = _ROOT / "examples" / example / "model.yaml"
        for written in formats_of(load_spec(spec).source.framework.value):
            export, parity, plain = (_in_a_process(what, spec, written) for what in ("export", "parity", "plain"))
            yield Cost(
                example,
                written,
                export["seconds"],
                parity["seconds"],
                parity["own_mib"],
                parity["children_mib"],
                plain["own_mib"],
            )


def _in_a_process(what: str, spec: Path, format: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--stage", what, str(spec), format]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} of {spec.parent.name} as {format} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _stage(what: str, spec_path: str, format: str) -> dict[str, float]:
    """Export, parity, or a plain run of the export over the evaluation data, once; in this process."""
    from tasks.contracts import Artifact, Export
    from tasks.export import export
    from tasks.ingest import ingest, load_evaluation, load_preprocessing
    from tasks.parity import check
    from tasks.spec import load_spec
    from tasks.store import LocalStore, fetch_tree

    settings = Settings.from_environment()
    home = settings.home / "bench" / "examples"
    home.mkdir(parents=True, exist_ok=True)
    spec, store = load_spec(Path(spec_path)), LocalStore(home / "store")
    kept = home / f"{spec.name}-{format}.json"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if what == "export":
            artifact = ingest(spec, store, settings)
            began = time.monotonic()
            report = export(spec, artifact, format, store, work)
            seconds = time.monotonic() - began
            if report.export is None:
                raise RuntimeError(report.findings[0].message)
            kept.write_text(json.dumps([artifact.model_dump(mode="json"), report.export.model_dump(mode="json")]))
            return {"seconds": seconds}
        began = time.monotonic()
        known = json.loads(kept.read_text())
        artifact, exported = Artifact.model_validate(known[0]), Export.model_validate(known[1])
        if what == "parity":
            check(spec, artifact, exported, store, work)
        else:
            from serving.runners import load

            columns = load_evaluation(artifact, store, work, spec.preprocess)
            prepare = load_preprocessing(artifact, spec.preprocess, store, work)
            path = fetch_tree(store, exported.files, work / "export") / exported.root
            runner = load(exported.runtime, path, spec.signature)
            chunk = spec.serving.max_batch
            inputs = prepare({tensor.name: columns[tensor.name] for tensor in prepare.raw.inputs})
            for start in range(0, len(next(iter(inputs.values()))), chunk):
                runner.run({name: array[start : start + chunk] for name, array in inputs.items()})
        seconds = time.monotonic() - began
        return {
            "seconds": seconds,
            "own_mib": _peak(resource.RUSAGE_SELF),
            "children_mib": _peak(resource.RUSAGE_CHILDREN),
        }


def _peak(who: int) -> float:
    """Peak resident memory in MiB; the kernel counts in KiB."""
    return resource.getrusage(who).ru_maxrss / 1024


def _print_costs(costs: list[Cost], console: Console) -> None:
    table = Table(
        "example", "format", "export s", "parity s", "parity / export", "parity MiB: source", "export's process",
        "plain run of the export MiB",
    )  # fmt: skip
    for cost in costs:
        table.add_row(
            cost.example,
            cost.format,
            f"{cost.export_s:.1f}",
            f"{cost.parity_s:.1f}",
            f"{cost.parity_s / cost.export_s:.1f}",
            f"{cost.parity_source_mib:.0f}",
            f"{cost.parity_export_mib:.0f}",
            f"{cost.plain_mib:.0f}",
        )
    console.print(table)


def _share(count: int, total: int) -> str:
    return f"{count} / {total}" if total else "–"


if __name__ == "__main__":
    use_own_temporary_folder()
    sys.exit(main())
