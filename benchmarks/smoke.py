"""The smoke gate against the seeded set: images with one thing wrong each, and good ones.

    make bench-smoke                                        everything
    .venv/bin/python -m benchmarks.smoke --only 'AVX*'      a part, by name

Every image is made by the image stage, and run by the smoke stage itself with its ordinary effort, under ordinary
budgets (docs/instance-types.md). What is wrong with each and how it was made is in `tests/integration/smoke/seeded.py`.

Last comes the time that the matrix of the examples takes: three formats, one of each runtime, on two instance types.
Prints a table; writes `bench/smoke.json` and `bench/smoke.md` under SLIPWAY_HOME. Exit code 1 where a bad image passes,
is blocked without the finding that it has to be blocked by, or where a good one is blocked.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.contracts import Image, SmokeReport, Verdict, digest_of
from tasks.image import connect
from tasks.settings import Settings
from tasks.smoke.catalogue import InstanceType, instance_type
from tasks.smoke.earlier import Earlier
from tasks.smoke.observation import Limits
from tasks.smoke.run import Effort
from tasks.spec import ServingSpec
from tasks.terminal import width_of
from tasks.workspace import scratch, use_own_temporary_folder
from tests.integration.smoke.bench import Bench
from tests.integration.smoke.packages import Packages
from tests.integration.smoke.seeded import BAD, GOOD, Case

#: What model.yaml would say of a small model: the budgets of examples/digits-cnn.
ORDINARY = ServingSpec(max_batch=32, p99_ms=100, cold_start_s=10)

#: The instance types of the examples, and a format of each runtime.
MATRIX_TYPES = ("this-machine", "c4.large")
MATRIX_FORMATS = {"onnx": "onnx", "tensorflow": "savedmodel", "torch": "torch-export"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What smoke said of one image on one type, and how long it took to say it."""

    name: str
    wrong: str
    instance_type: str
    emulated: bool
    expected: str | None
    found: tuple[str, ...]
    verdict: Verdict
    right: bool
    seconds: float

    @property
    def blocked(self) -> bool:
        return self.verdict is not Verdict.PASSED


def main() -> int:
    """Run the set, print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="names of images, as a pattern")
    asked = parser.parse_args()
    cases = [case for case in (*BAD, *GOOD) if fnmatch.fnmatch(case.name, asked.only)]
    use_own_temporary_folder()
    console, settings, outcomes = Console(width=width_of(sys.stdout)), Settings.from_environment(), list[Outcome]()
    started = time.monotonic()
    with scratch(settings.work) as work, Packages(work, connect()) as packages:
        for case in cases:
            outcomes.append(smoked(case, packages))
            console.print(_line(outcomes[-1]), soft_wrap=True, markup=False, highlight=False)
        said = summary(outcomes, time.monotonic() - started)
        if asked.only == "*":
            said.append(matrix(packages))
    console.print("", _table(outcomes))
    console.print(*said, sep="\n", markup=False, highlight=False)
    for path in _written(settings.home / "bench", outcomes, said):
        console.print(f"written to {path}", soft_wrap=True, markup=False, highlight=False)
    return 0 if outcomes and all(item.right for item in outcomes) else 1


def smoked(case: Case, packages: Packages) -> Outcome:
    """One image through the gate; the time is smoke's alone, without making the image."""
    bench, image = case.make(packages)
    began = time.monotonic()
    kind = case.kind()
    report = through_the_gate(bench, image, kind, case.serving or ORDINARY)
    return Outcome(
        name=case.name,
        wrong=case.wrong,
        instance_type=kind.name,
        emulated=case.emulated,
        expected=case.code,
        found=tuple(item.code for item in report.findings if item.verdict is not Verdict.PASSED),
        verdict=report.verdict,
        right=case.is_right(report),
        seconds=time.monotonic() - began,
    )


def through_the_gate(
    bench: Bench, image: Image, kind: InstanceType, budgets: ServingSpec, earlier: Earlier | None = None
) -> SmokeReport:
    """The smoke stage with its ordinary effort; the largest batch is the one that the image was packaged with."""
    serving = budgets.model_copy(update={"max_batch": bench.spec.serving.max_batch})
    return bench.smoke(image, kind=kind, serving=serving, effort=Effort.of(serving), earlier=earlier)


def matrix(packages: Packages) -> str:
    """How long the smoke stage takes for one model in three formats on two types, one after the other. As in a
    package, what the first type bears is taken for the second, where both give a container as many vCPUs."""
    seconds = {}
    for runtime, written_as in MATRIX_FORMATS.items():
        bench = packages.tiny(runtime)
        began = time.monotonic()
        for name in MATRIX_TYPES:
            kind = instance_type(name)
            key = digest_of([bench.good.digest, Limits.of(kind, bench.host).vcpus])
            through_the_gate(bench, bench.good, kind, ORDINARY, Earlier(bench.store, key))
        seconds[written_as] = time.monotonic() - began
    each = ", ".join(f"{name} {took:.0f} s" for name, took in seconds.items())
    return f"three formats on {' and '.join(MATRIX_TYPES)}: {sum(seconds.values()) / 60:.1f} minutes ({each})"


def summary(outcomes: Sequence[Outcome], seconds: float) -> list[str]:
    """What is aimed at: all caught with the right finding, none blocked falsely; and what a type costs."""
    bad = [item for item in outcomes if item.expected is not None]
    good = [item for item in outcomes if item.expected is None]
    said = [
        f"caught {sum(item.blocked for item in bad)} of {len(bad)} bad images, "
        f"{sum(item.right for item in bad)} of them with the right finding",
        f"falsely blocked {sum(item.blocked for item in good)} of {len(good)} good ones",
    ]
    for what, emulated in (("a native", False), ("an emulated", True)):
        took = sorted(item.seconds for item in good if item.emulated is emulated)
        if took:
            said.append(f"a good image on {what} type: {took[len(took) // 2]:.1f} s (median), {took[-1]:.1f} s at most")
    return [*said, f"{seconds / 60:.1f} minutes with making the images"]


def _line(item: Outcome) -> str:
    return f"{'✓' if item.right else '✗'} {item.name} on {item.instance_type}: {_said(item)} in {item.seconds:.1f} s"


def _said(item: Outcome) -> str:
    """The findings; and that they are inconclusive, as on a machine that was too busy to measure."""
    found = ", ".join(item.found) or str(item.verdict)
    return f"{found} (inconclusive)" if item.found and item.verdict is Verdict.INCONCLUSIVE else found


_COLUMNS = ("image", "what is wrong", "on", "expected", "found", "right", "s")


def _cells(item: Outcome) -> tuple[str, ...]:
    return (
        item.name,
        item.wrong or "nothing",
        f"{item.instance_type}{' (emulated)' if item.emulated else ''}",
        item.expected or "passed",
        _said(item),
        "yes" if item.right else "NO",
        f"{item.seconds:.1f}",
    )


def _table(outcomes: Iterable[Outcome]) -> Table:
    table = Table(*_COLUMNS)
    for item in outcomes:
        table.add_row(*_cells(item), style=None if item.right else "bold red")
    return table


def _written(folder: Path, outcomes: Sequence[Outcome], said: Sequence[str]) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    document, page = folder / "smoke.json", folder / "smoke.md"
    made = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"made_at": made, "machine": platform.machine(), "summary": said, "images": [*map(asdict, outcomes)]}
    document.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    rows = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_cells, outcomes)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    page.write_text("\n".join(["# The seeded set through smoke", "", *lines, "", *(f"- {line}" for line in said), ""]))
    return document, page


if __name__ == "__main__":
    raise SystemExit(main())
