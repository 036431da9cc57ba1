"""Model files → answers: one runner per runtime, the same in parity and in the serving image.

In: model inputs by name, after preprocessing. Out: arrays by output name, as the runtime gave them; what comes out is
compared or checked by the caller, never coerced here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.contract import Signature

#: Runtime → the module whose `load(path, signature, threads)` serves it. Imported when one is asked for.
RUNNERS = {
    "onnx": "serving.runners.onnx",
    "tensorflow": "serving.runners.tensorflow",
    "torch": "serving.runners.torch",
}


class RunnerError(Exception):
    """The model cannot be loaded or run as its signature says; one sentence."""


class Runner(Protocol):
    """A loaded model. `run` may be called from many threads at once and gives the same answer for the same inputs."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs of the signature, by name.

        Raises:
            RunnerError: the runtime refused the inputs or failed.
        """

    def close(self) -> None:
        """Let the model go; `run` must not be called afterwards."""


def load(runtime: str, path: Path, signature: Signature, threads: int = 1) -> Runner:
    """Load the model at `path` (a file or a folder, as the runtime has it) on the CPU with `threads` threads a call.

    Raises:
        RunnerError: no such runtime, unreadable files, or inputs and outputs that are not the signature's.
    """
    if runtime not in RUNNERS:
        raise RunnerError(f"no runtime {runtime!r}; there are {', '.join(RUNNERS)}")
    try:
        module = importlib.import_module(RUNNERS[runtime])
        runner: Runner = module.load(path, signature, threads)
    except ImportError as error:
        raise RunnerError(f"the {runtime} runtime is not installed here: {error}") from error
    return runner


def missing_names(what: str, expected: tuple[str, ...], found: tuple[str, ...]) -> str | None:
    """A sentence when `found` lacks one of the `expected` names, else `None`."""
    absent = [name for name in expected if name not in found]
    if not absent:
        return None
    return f"the model has no {what} {', '.join(absent)}; it has {', '.join(sorted(found)) or 'none'}"
