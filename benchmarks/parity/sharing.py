"""Faults and clean models, shared out to as many processes as there are cores."""

from __future__ import annotations

import functools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from tasks.workspace import use_own_temporary_folder

if TYPE_CHECKING:
    from tests.parity.corpus.forked import ForkedWorkers

_Result = TypeVar("_Result")


def shared_out(
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
def workers() -> ForkedWorkers:
    """This process's own, for all of its groups; they end when its end closes their standard input."""
    from tests.parity.corpus.forked import ForkedWorkers

    return ForkedWorkers()
