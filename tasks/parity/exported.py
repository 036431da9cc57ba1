"""Asking the export under test, in a process of its own (docs/adr/0002): its crash or hang is a verdict, not our end.

In: the export's files, pools of model inputs and the plan of batches. Out: `AskedExport`, from which each batch's
answer is read when it is compared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.contract import Signature
from tasks.parity import arrays
from tasks.parity.inputs import Batch
from tasks.parity.structure import Structure
from tasks.parity.worker import (
    AT,
    DONE,
    LOADED,
    REQUEST,
    STRUCTURE,
    Answer,
    AskedBatch,
    Loaded,
    Request,
    answer_files,
    pool_file,
)
from tasks.processes import end_group, temporary_files_in

#: An export that answers no batch for this long hangs; a batch of the largest models takes seconds.
STALLED_AFTER_S = 600.0
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}


class Launch(Protocol):
    """Starts the worker on a folder that holds its request, and waits for its end."""

    def __call__(self, folder: Path, log: Path, stalled_after_s: float) -> int | None:
        """The exit code, negative for a signal; None when no batch was finished for so many seconds."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker did not come to its end: killed by a signal, left with an exit code, or stopped by us as hung.

    `batch` is the number of the batch that it was asked for, None where it was still loading.
    """

    how: str
    batch: int | None
    last_lines: str
    hung: bool = False


@dataclass(frozen=True, slots=True)
class AskedExport:
    """What the export said of itself and answered. `load_error` is the runtime's reason for refusing the file."""

    folder: Path
    structure: Structure | None
    load_error: str | None
    ended: Ended | None

    def answer(self, number: int) -> tuple[Answer, dict[str, NDArray[Any]]] | None:
        """What became of the batch with this number in the plan; None when the worker never came to it."""
        values, outcome = answer_files(self.folder, number)
        if not outcome.is_file():
            return None
        return Answer.model_validate_json(outcome.read_text()), arrays.load(values)


def ask(
    runtime: str,
    path: Path,
    signature: Signature,
    pools: Sequence[Mapping[str, NDArray[Any]]],
    batches: Sequence[Batch],
    folder: Path,
    stalled_after_s: float = STALLED_AFTER_S,
    launch: Launch | None = None,
) -> AskedExport:
    """Run the file at `path` for every batch. `folder` is new, and holds everything that is exchanged.

    `launch` starts the worker; a new process unless something else is given.
    """
    folder.mkdir(parents=True)
    for number, pool in enumerate(pools):
        arrays.save(pool_file(folder, number), pool)
    request = Request(
        runtime=runtime,
        path=path,
        signature=signature,
        batches=tuple(AskedBatch(pool=batch.pool, start=batch.start, size=batch.size) for batch in batches),
        parent=os.getpid(),
    )
    (folder / REQUEST).write_text(request.model_dump_json())
    log = folder / "log.txt"
    code = (launch or new_process)(folder, log, stalled_after_s)
    ended = None if (folder / DONE).is_file() else _ended(code, folder, log, stalled_after_s)
    structure, loaded = folder / STRUCTURE, folder / LOADED
    return AskedExport(
        folder,
        Structure.model_validate_json(structure.read_text()) if structure.is_file() else None,
        Loaded.model_validate_json(loaded.read_text()).error if loaded.is_file() else None,
        ended,
    )


def new_process(folder: Path, log: Path, stalled_after_s: float) -> int | None:
    """A worker in a process of its own; see `Launch`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.parity.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, **temporary_files_in(folder)},
            start_new_session=True,
        )
        try:
            return _wait(process, folder, stalled_after_s)
        finally:
            end_group(process)


def _wait(process: subprocess.Popen[bytes], folder: Path, stalled_after_s: float) -> int | None:
    """The exit code, or None when no batch was finished for `stalled_after_s` seconds."""
    seen = ""
    while True:
        try:
            return process.wait(timeout=stalled_after_s)
        except subprocess.TimeoutExpired:
            now = _at(folder)
            if now == seen:
                return None
            seen = now


def _at(folder: Path) -> str:
    at = folder / AT
    return at.read_text() if at.is_file() else ""


def _ended(code: int | None, folder: Path, log: Path, stalled_after_s: float) -> Ended:
    at = _at(folder)
    batch = int(at) if at else None
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = "\n".join(lines[-5:])[-1000:]
    if code is None:
        return Ended(f"did not answer within {stalled_after_s:.0f} s and was stopped", batch, last, hung=True)
    if code < 0:
        return Ended(f"was killed by {signal.Signals(-code).name}", batch, last)
    return Ended(f"ended with exit code {code}", batch, last)
