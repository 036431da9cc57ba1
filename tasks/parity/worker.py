"""The child process that runs the export under test: `python -m tasks.parity.worker REQUEST`.

In: a `Request` as JSON, and pools of model inputs beside it. Out, in the same folder: `structure.json`, one `Answer`
per batch in the order of the plan, and last `done`. The file under test may crash natively or never come back; what
it answered until then stays, and `at` names the batch that it was asked for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serving.contract import Signature
from tasks.contracts import Contract
from tasks.parity import arrays
from tasks.processes import die_with

REQUEST, STRUCTURE, LOADED, AT, DONE = "request.json", "structure.json", "loaded.json", "at", "done"


class AskedBatch(Contract):
    """Rows of a pool: `size` rows from `start` on, beginning again where the pool ends."""

    pool: int
    start: int
    size: int


class Request(Contract):
    """What to run and what to ask. `path` is the file or folder that the runtime loads; `parent` waits."""

    runtime: str
    path: Path
    signature: Signature
    batches: tuple[AskedBatch, ...]
    parent: int


class Loaded(Contract):
    """Whether the runtime could load the file; `error` says in one sentence why not."""

    error: str | None = None


class Answer(Contract):
    """What became of one batch: arrays in `<number>.npz`, or the reason why there are none.

    `unreadable` are outputs of element types that no array can carry.
    """

    error: str | None = None
    unreadable: dict[str, str] = Field(default_factory=dict)


def pool_file(folder: Path, pool: int) -> Path:
    """Where the model inputs of a pool lie."""
    return folder / f"pool-{pool}.npz"


def answer_files(folder: Path, number: int) -> tuple[Path, Path]:
    """Where the answer to a batch lies: its arrays, and its `Answer`."""
    return folder / f"{number}.npz", folder / f"{number}.json"


def run(request: Request, folder: Path) -> None:
    """Load, then ask for every batch; an error ends that batch only."""
    from serving.runners import RunnerError, load
    from tasks.parity.structure import structure_of

    if (structure := structure_of(request.runtime, request.path)) is not None:
        (folder / STRUCTURE).write_text(structure.model_dump_json())
    try:
        runner = load(request.runtime, request.path, request.signature)
    except RunnerError as error:
        (folder / LOADED).write_text(Loaded(error=str(error)).model_dump_json())
        return
    (folder / LOADED).write_text(Loaded().model_dump_json())
    pools: dict[int, dict[str, NDArray[Any]]] = {}
    for number, batch in enumerate(request.batches):
        (folder / AT).write_text(str(number))
        if batch.pool not in pools:
            pools = {batch.pool: arrays.load(pool_file(folder, batch.pool))}
        inputs = pools[batch.pool]
        rows = np.arange(batch.start, batch.start + batch.size) % len(next(iter(inputs.values())))
        try:
            answers = runner.run({name: array[rows] for name, array in inputs.items()})
        except RunnerError as error:
            _write(folder, number, {}, Answer(error=str(error)))
            continue
        readable = {name: np.asarray(array) for name, array in answers.items()}
        unreadable = {
            name: str(array.dtype)
            for name, array in readable.items()
            if array.dtype.kind not in "biufc" and not arrays.is_text(array)
        }
        kept = {name: array for name, array in readable.items() if name not in unreadable}
        _write(folder, number, kept, Answer(unreadable=unreadable))


def _write(folder: Path, number: int, answers: dict[str, NDArray[Any]], answer: Answer) -> None:
    values, outcome = answer_files(folder, number)
    arrays.save(values, answers)
    aside = outcome.with_suffix(".aside")
    aside.write_text(answer.model_dump_json())
    aside.replace(outcome)


def end(request: Request, folder: Path) -> None:
    """Run the request, and leave this process for good."""
    run(request, folder)
    (folder / DONE).touch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # everything is written: libraries that crash while they are unloaded change nothing


def main() -> None:
    """Read the request, run it."""
    folder = Path(sys.argv[1])
    request = Request.model_validate_json((folder / REQUEST).read_text())
    die_with(request.parent)
    end(request, folder)


if __name__ == "__main__":
    main()
