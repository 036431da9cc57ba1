"""The parity gate against the fault corpus, beside what the exporters' own checks say, and what the stage costs.

    make bench-parity                                           everything
    .venv/bin/python -m benchmarks.parity corpus --only 'onnx-*'    a part: corpus, clean, examples

Every fault of `tests/parity/corpus` and every clean model in all its formats goes through the real gate in the real
runtimes. Of the ONNX files torch.onnx, Optimum and Polygraphy are asked as well, by the rules that
`tests/parity/corpus/other_checks.py` cites; Polygraphy itself is installed beside, under SLIPWAY_HOME, for that. Faults
and clean models are shared out to as many processes as there are cores (`--processes`), model by model. The examples
come last, one at a time in processes of their own, for their time and memory.

Prints tables, and writes `bench/parity.json` under SLIPWAY_HOME, where what was not asked for keeps the figures of its
last run. Exit code 1 where a fault passes, a clean one fails, or an export that
cannot be is not refused for that reason.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tasks.settings import Settings
from tasks.workspace import use_own_temporary_folder

if TYPE_CHECKING:
    from tests.parity.corpus.bases import Corpus
    from tests.parity.corpus.clean import Exports
    from tests.parity.corpus.fault import Fault
    from tests.parity.corpus.forked import ForkedWorkers

_ROOT = Path(__file__).parents[1]
_EXAMPLES = ("digits-cnn", "diabetes-regression", "breast-cancer-classifier")
_POLYGRAPHY = "polygraphy==0.53.6"
_PARTS = ("corpus", "clean", "examples")
_Result = TypeVar("_Result")


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


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all of them unless given")
    parser.add_argument(
        "--only",
        default="*",
        help="faults by format-name, clean models and examples by name-format, as a shell pattern",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="for faults and clean models")
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
        polygraphy = _polygraphy(folder)
        sys.path.append(str(polygraphy))
        faults = _faults(asked.only, asked.processes, polygraphy, console)
        _print_faults(faults, console)
        figures["faults"] = [asdict(fault) for fault in faults]
        right &= all(fault.right for fault in faults)
    if "clean" in parts:
        clean = _clean(asked.only, asked.processes, console)
        _print_clean(clean, console)
        figures["clean"] = [asdict(pair) for pair in clean]
        right &= all(pair.right for pair in clean)
    if "examples" in parts:
        costs = list(_costs(asked.only, console))
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


# --- sharing out --------------------------------------------------------------------------------------------------


def _shared_out(
    work: Callable[[str, Sequence[str]], list[_Result]],
    groups: dict[str, list[str]],
    processes: int,
    libraries: tuple[Path, ...],
    console: Console,
) -> Iterator[_Result]:
    """What `work` makes of each group and its members, in so many processes; a line for each group that is done."""
    began = time.monotonic()
    # Not forked: this process may have threads, and the runtimes do not survive it.
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, (libraries,)) as pool:
        asked = {pool.submit(work, group, members): group for group, members in groups.items()}
        for number, done in enumerate(as_completed(asked), start=1):
            results, group = done.result(), asked[done]
            spent = time.monotonic() - began
            console.print(
                f"{number} of {len(asked)} after {spent:.0f} s: {group}, {len(results)} files", highlight=False
            )
            yield from results


def _start(libraries: tuple[Path, ...]) -> None:
    sys.path += map(str, libraries)
    use_own_temporary_folder()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


@functools.cache
def _workers() -> ForkedWorkers:
    """This process's own, for all of its groups; they end when its end closes their standard input."""
    from tests.parity.corpus.forked import ForkedWorkers

    return ForkedWorkers()


# --- the corpus ---------------------------------------------------------------------------------------------------


def _faults(only: str, processes: int, libraries: Path, console: Console) -> list[Faulty]:
    from tests.parity.corpus.table import FAULTS

    asked = [fault for fault in FAULTS if fnmatch.fnmatch(str(fault), only)]
    groups: dict[str, list[str]] = {}
    for fault in asked:
        groups.setdefault(f"{fault.base} as {fault.format}", []).append(str(fault))
    results: dict[tuple[str, str], Faulty] = {}
    for result in _shared_out(_faults_of, groups, processes, (libraries,), console):
        results[result.format, result.name] = result
        if result.said:
            console.print(f"[yellow]{result.format}-{result.name}[/yellow]: {result.said}", highlight=False)
    return [results[fault.format, fault.name] for fault in asked]


def _faults_of(_: str, names: Sequence[str]) -> list[Faulty]:
    """The faults of one good export, which is made once."""
    from tests.parity.corpus.bases import Corpus
    from tests.parity.corpus.table import FAULTS

    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), workers=_workers())
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


def _clean(only: str, processes: int, console: Console) -> list[Faithful]:
    from tests.parity.corpus.clean import PAIRS, REFUSED

    asked = [pair for pair in (*PAIRS, *REFUSED) if fnmatch.fnmatch("-".join(pair), only)]
    groups: dict[str, list[str]] = {}
    for name, written in asked:
        groups.setdefault(name, []).append(written)
    results: dict[tuple[str, str], Faithful] = {}
    for result in _shared_out(_clean_of, groups, processes, (), console):
        results[result.name, result.format] = result
        if not result.right:
            said = result.said or f"expected {result.refused_by}"
            console.print(f"[red]{result.name} as {result.format}[/red]: {said}", highlight=False)
    return [results[pair] for pair in asked]


def _clean_of(name: str, formats: Sequence[str]) -> list[Faithful]:
    """One model, which is made once, in these formats."""
    from tests.parity.corpus.clean import Exports

    with tempfile.TemporaryDirectory() as folder:
        exports = Exports(Path(folder), workers=_workers())
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


def _print_clean(pairs: list[Faithful], console: Console) -> None:
    table = Table("format", "clean models", "passed", "largest share of the tolerance")
    exported = [pair for pair in pairs if pair.refused_by is None]
    for name in dict.fromkeys(pair.format for pair in exported):
        mine = [pair for pair in exported if pair.format == name]
        table.add_row(
            name,
            str(len(mine)),
            _share(sum(not pair.codes for pair in mine), len(mine)),
            f"{max((pair.margin or 0.0 for pair in mine), default=0):.0%}",
        )
    console.print(table)
    console.print(f"clean models passed: {_share(sum(pair.right for pair in exported), len(exported))}")
    refused = [pair for pair in pairs if pair.refused_by is not None]
    said = _share(sum(pair.right for pair in refused), len(refused))
    console.print(f"refused, because the format cannot express the model: {said}")


# --- what it costs ------------------------------------------------------------------------------------------------


def _costs(only: str, console: Console) -> Iterable[Cost]:
    """Each stage in a process of its own: memory is the process's, and nothing is warm."""
    from tasks.export import formats_of
    from tasks.export.formats import FORMATS
    from tasks.spec import load_spec

    for example in _EXAMPLES:
        spec = _ROOT / "examples" / example / "model.yaml"
        if not fnmatch.filter([f"{example}-{written}" for written in FORMATS], only):
            continue
        if not spec.with_name("artifacts").is_dir():
            console.print(f"{example} is trained", highlight=False)
            subprocess.run([sys.executable, str(spec.with_name("train.py"))], check=True, cwd=_ROOT)
        for written in formats_of(load_spec(spec).source.framework.value):
            if not fnmatch.fnmatch(f"{example}-{written}", only):
                continue
            console.print(f"{example} as {written}", highlight=False)
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
    # As a module: as a file its own folder comes first on the path, where `serving` is another package.
    command = [sys.executable, "-m", "benchmarks.parity", "--stage", what, str(spec), format]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
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
            "own_mib": _own_peak(),
            "children_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        }


def _own_peak() -> float:
    """Peak resident memory of this program in MiB. `getrusage` would count what the process was before it ran it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


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
