"""An ONNX file's inner values, asked for in a process of their own (docs/adr/0002).

In: a file, model inputs, and the names of values. Out: `AskedValues`, from which each is read when it is compared, so
that they are never all in memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.parity import arrays
from tasks.parity.divergence.worker import (
    DONE,
    ERROR,
    PLAIN,
    REQUEST,
    Request,
    Wanted,
    inputs_file,
    value_file,
)
from tasks.processes import end_group, temporary_files_in

#: A file of a thousand operators is asked for its inner values in seconds; the gate has found before that it answers.
_AT_MOST_S = 600.0
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, slots=True)
class AskedValues:
    """What the file answered. `error` says why not everything is there."""

    folder: Path
    numbers: Mapping[str, int]
    error: str | None

    def value(self, name: str, question: int = 0) -> NDArray[Any] | None:
        """The value of this name for a set of inputs; None where it was not had."""
        number = self.numbers.get(name)
        file = None if number is None else value_file(self.folder, question, number)
        return np.load(file, allow_pickle=False) if file is not None and file.is_file() else None

    def read(self, name: str) -> NDArray[Any]:
        """The value of this name, which was had.

        Raises:
            FileNotFoundError: it was not.
        """
        value = self.value(name)
        if value is None:
            raise FileNotFoundError(f"the value {name} was not answered")
        return value

    def plain(self) -> dict[str, NDArray[Any]]:
        """The file's outputs when nobody looks at its inner values."""
        return arrays.load(self.folder / PLAIN) if (self.folder / PLAIN).is_file() else {}


def ask(
    path: Path,
    signature: Signature,
    beside: Sequence[str],
    inputs: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, int],
    folder: Path,
    given: Mapping[str, Path] | None = None,
    further: Sequence[Mapping[str, NDArray[Any]]] = (),
) -> AskedValues:
    """Ask for the values in `sizes` (name → bytes, in the graph's order); see `tasks.parity.divergence.worker`.

    `further` are more sets of inputs, for which the same is asked.
    """
    folder.mkdir(parents=True)
    questions = (inputs, *further)
    for question, asked in enumerate(questions):
        arrays.save(inputs_file(folder, question), asked)
    request = Request(
        path=path.absolute(),
        signature=signature,
        beside=tuple(beside),
        wanted=tuple(Wanted(value=name, size_bytes=size) for name, size in sizes.items()),
        given=dict(given or {}),
        questions=len(questions),
        parent=os.getpid(),
    )
    (folder / REQUEST).write_text(request.model_dump_json())
    with (folder / "log.txt").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.parity.divergence.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRONMENT, **temporary_files_in(folder)},
            start_new_session=True,
        )
        try:
            process.wait(timeout=_AT_MOST_S)
            ended = f"its process ended with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"it did not answer within {_AT_MOST_S:.0f} s"
        finally:
            end_group(process)
    error = (folder / ERROR).read_text() if (folder / ERROR).is_file() else None
    if error is None and not (folder / DONE).is_file():
        error = ended
    return AskedValues(folder, {name: number for number, name in enumerate(sizes)}, error)
