"""The parity gate against the fault corpus, beside what the exporters' own checks say, and what the stage costs.

    make bench-parity                                           everything
    .venv/bin/python -m benchmarks.parity corpus --only 'onnx-*'    a part: corpus, clean, examples

Every fault of `tests/parity/corpus` and every clean model in all its formats goes through the real gate in the real
runtimes. Of the ONNX files torch.onnx, Optimum and Polygraphy are asked as well, by the rules that
`tests/parity/corpus/other_checks.py` cites; Polygraphy itself is installed beside, under SLIPWAY_HOME, for that. Faults
and clean models are shared out to as many processes as there are cores (`--processes`), model by model. The examples
come last, one at a time in processes of their own, for their time and memory.

Prints tables, and writes `bench/parity.json` under SLIPWAY_HOME, where what was not asked for keeps the figures of its
last run. Exit code 1 where a fault passes, a clean one fails, or an export that cannot be is not refused for that
reason.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from typing import Any

from rich.console import Console

from benchmarks.parity.clean import ask_clean, print_clean
from benchmarks.parity.corpus import ask_faults, install_polygraphy, print_faults
from benchmarks.parity.costs import measure, print_costs, stage
from benchmarks.parity.figures import keep
from tasks.settings import Settings
from tasks.workspace import use_own_temporary_folder

_PARTS = ("corpus", "clean", "examples")


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
        print(json.dumps(stage(*asked.stage)))
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
        polygraphy = install_polygraphy(folder)
        sys.path.append(str(polygraphy))
        faults = ask_faults(asked.only, asked.processes, polygraphy, console)
        print_faults(faults, console)
        figures["faults"] = [asdict(fault) for fault in faults]
        right &= all(fault.right for fault in faults)
    if "clean" in parts:
        clean = ask_clean(asked.only, asked.processes, console)
        print_clean(clean, console)
        figures["clean"] = [asdict(pair) for pair in clean]
        right &= all(pair.right for pair in clean)
    if "examples" in parts:
        costs = list(measure(asked.only, console))
        print_costs(costs, console)
        figures["costs"] = [asdict(cost) for cost in costs]
    keep(folder / "parity.json", figures, asked.only)
    console.print(f"figures: {folder / 'parity.json'}")
    return 0 if right else 1


if __name__ == "__main__":
    use_own_temporary_folder()
    sys.exit(main())
