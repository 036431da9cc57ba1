"""Several instance types at once, each in a process of its own.

In: what is done for one type. Out: for each type its run, or the platform's error, as they end. Nothing here decides
what may run beside what: each process waits for its turn before it measures or emulates (`tasks.smoke.quiet`), so that
in effect emulated self-tests overlap with each other, and measurements with nothing.

Processes, because each ends its own containers when it is told to stop, and a process that is killed leaves nothing
that the next run does not sweep.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from tasks.contracts import SmokeRun
from tasks.errors import PlatformError
from tasks.processes import die_with
from tasks.terminal import Stopped

Outcome = SmokeRun | PlatformError


def side_by_side(types: Sequence[str], work: Callable[[str], SmokeRun], at_once: int) -> Iterator[tuple[str, Outcome]]:
    """`work(type)` for each of `types`, `at_once` at a time; yields each type with what came of it when it is over.

    Whatever ends the iteration early (an exception, Ctrl-C) ends the processes in order, and waits for that.
    """
    waiting, working = deque(types), dict[Connection, tuple[str, BaseProcess]]()
    try:
        while waiting or working:
            while waiting and len(working) < at_once:
                kind = waiting.popleft()
                told, process = _started(work, kind)
                working[told] = kind, process
            ready = wait([*working])
            for told in [each for each in working if each in ready]:
                kind, process = working.pop(told)
                outcome = _outcome(told, kind)
                process.join()
                yield kind, outcome
    finally:
        for _, process in working.values():
            process.terminate()
        for _, process in working.values():
            process.join()


def _started(work: Callable[[str], SmokeRun], kind: str) -> tuple[Connection, BaseProcess]:
    # Forked: a new interpreter would spend seconds of CPU on imports while another process measures.
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, kind, tell, os.getpid()))
    process.start()
    tell.close()
    return told, process


def _child(work: Callable[[str], SmokeRun], kind: str, tell: Connection, parent: int) -> None:
    die_with(parent)
    with suppress(Stopped):  # the parent knows; it is waiting for the end
        try:
            tell.send(work(kind).model_dump_json())
        except PlatformError as error:
            tell.send(error)


def _outcome(told: Connection, kind: str) -> Outcome:
    try:
        said = told.recv()
    except EOFError:
        return PlatformError(f"smoke on {kind} ended without a word: run it alone, with --debug")
    finally:
        told.close()
    return said if isinstance(said, PlatformError) else SmokeRun.model_validate_json(said)
