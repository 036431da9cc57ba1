"""Localising a divergence against a plain run of the same model: peak memory and time, and whether the place is right.

    .venv/bin/python benchmarks/divergence.py

Two models with one fault each: a chain of a thousand operators, and one with about 200 MB of weights. Every figure is
of a process of its own: the peak of its memory (ru_maxrss) or of its children's, whichever is larger. A plain run loads
the source and the file and asks each once for the same rows: what parity does for one batch.
"""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.export.onnx_file import FILE
from tasks.workspace import use_own_temporary_folder

#: Name → blocks, width.
MODELS = {"1,000 operators": (250, 32), "200 MB of weights": (12, 2048)}


def faulty(blocks: int) -> str:
    """The module whose weight is wrong in the file."""
    return f"{int(blocks * 0.6)}.linear"


def module_of(blocks: int, width: int) -> Any:
    """Residual blocks of four operators each, so that neither the signal nor a difference dies out."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.1 * torch.tanh(self.linear(x))

    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(blocks))).eval().requires_grad_(requires_grad=False)


def signature_of(width: int) -> Signature:
    x, y = (TensorSpec(name, DType.FLOAT32, ("batch", width)) for name in ("x", "y"))
    return Signature((x,), (y,), {"batch": DimRange(1, 64)})


def export(blocks: int, width: int, folder: Path) -> None:
    """The ONNX file, with one weight of one layer altered."""
    import onnx
    from onnx import numpy_helper

    from tasks.export.conversion import Source
    from tasks.export.torch_to_onnx import export as to_onnx
    from tasks.ingest.torch_predict import TorchModel

    module, signature = module_of(blocks, width), signature_of(width)
    to_onnx(Source(TorchModel(module, module, signature), folder), signature, folder)
    proto = onnx.load(folder / FILE)
    name = f"{faulty(blocks)}.weight"
    held = next(item for item in proto.graph.initializer if item.name == name)
    array = numpy_helper.to_array(held).copy()
    array += 0.01
    held.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(proto, folder / FILE)


def imports() -> None:
    """What both have to import."""
    for name in ("onnx", "onnxruntime", "torch", "tasks.parity.divergence.location", "onnxscript"):
        importlib.import_module(name)


def plain(blocks: int, width: int, folder: Path, work: Path) -> str:
    from serving.runners import load
    from tasks.ingest.torch_predict import TorchModel

    module, signature = module_of(blocks, width), signature_of(width)
    rows = _rows(width)
    TorchModel(module, module, signature).predict(rows)
    load("onnx", folder / FILE, signature).run(rows)
    return ""


def localise(blocks: int, width: int, folder: Path, work: Path) -> str:
    from tasks.ingest.torch_predict import TorchModel
    from tasks.parity.divergence import locate

    module, signature = module_of(blocks, width), signature_of(width)
    source = TorchModel(module, module, signature)
    found = locate(source, "torch-state-dict", signature, folder / FILE, _rows(width), work)
    first = "nowhere" if found is None or found.first is None else found.first.module
    right = "right" if first == faulty(blocks) else "wrong"
    return f"{first} ({right})" + (f" {found.note}" if found is not None and found.note else "")


def _rows(width: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(0).normal(size=(8, width)).astype(np.float32)}


def measure(what: str, name: str, folder: Path) -> tuple[float, float, str]:
    """Seconds without imports, MiB at the peak, and what was found, in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(
            [sys.executable, __file__, what, name, str(folder), work], check=True, capture_output=True, text=True
        )
    seconds, memory, said = done.stdout.rstrip("\n").splitlines()[-1].split("\t", 2)
    return float(seconds), float(memory), said


def child(what: str, name: str, folder: Path, work: Path) -> None:
    """Measure one of the two, and print it."""
    blocks, width = MODELS[name]
    if what == "export":
        export(blocks, width, folder)
        print("0\t0\t")
        return
    imports()
    started = time.monotonic()
    said = (plain if what == "plain" else localise)(blocks, width, folder, work)
    seconds = time.monotonic() - started
    print(f"{seconds}\t{max(_peak(resource.RUSAGE_SELF), _peak(resource.RUSAGE_CHILDREN))}\t{said}")


def _peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def main() -> int:
    """Measure both models, print a table. Exit code 1 where a place is wrong or the memory more than twice."""
    table = Table("model", "plain run", "", "localisation", "", "memory ratio", "first at", title="Where it diverges")
    fine = True
    for name in MODELS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            measure("export", name, folder)
            once, here = measure("plain", name, folder), measure("localise", name, folder)
        ratio = here[1] / once[1]
        fine &= ratio <= 2 and "right" in here[2]
        table.add_row(
            name,
            f"{once[0]:.1f} s",
            f"{once[1]:.0f} MiB",
            f"{here[0]:.1f} s",
            f"{here[1]:.0f} MiB",
            f"{ratio:.2f}",
            here[2],
        )
    Console(width=140).print(table)
    return 0 if fine else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        sys.exit(0)
    use_own_temporary_folder()
    sys.exit(main())
