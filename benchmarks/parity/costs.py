"""The examples, one at a time in processes of their own: time and memory of the stage beside the export's."""

from __future__ import annotations

import fnmatch
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.parity.figures import Cost
from tasks.settings import Settings

_ROOT = Path(__file__).parents[2]
_EXAMPLES = ("digits-cnn", "diabetes-regression", "breast-cancer-classifier")


def measure(only: str, console: Console) -> Iterable[Cost]:
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


def stage(what: str, spec_path: str, format: str) -> dict[str, float]:
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


def print_costs(costs: list[Cost], console: Console) -> None:
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
