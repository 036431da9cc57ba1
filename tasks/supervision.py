"""A command runs in a child of the program that was called, so that its end is never taken for its success.

A spec brings code (an entrypoint, a metric), and models bring native libraries. Either can end the process that runs
it, with exit code 0 and without a word; whoever called `slipway` would read that as "passed". So the child says when a
command came to its end, and a child that ended without saying so is an error, whatever its exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from tasks.processes import die_with

#: What a user or the system asks the called program to do, the child does.
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def supervised(command: Callable[[], int], ended: Callable[[str, int], int]) -> int:
    """Run `command` in a child; its exit code.

    `ended(sentence, code)` says that it did not come to its end, and gives the exit code for that; `code` is 2 where
    something called exit, 3 where a signal killed it. To be called before any thread is started.
    """
    parent = os.getpid()
    told, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # What arrives meanwhile waits until there is somebody to forward it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        die_with(parent)
        os.close(told)
        _work(command, tell)
    os.close(tell)

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with os.fdopen(told, "rb") as pipe:
        if pipe.read():
            return code
    if code < 0:
        name = signal.Signals(-code).name
        why = " (out of memory, most likely)" if -code == signal.SIGKILL else ""
        return ended(f"the process that did the work was killed by {name}{why}; nothing was decided", 3)
    return ended(
        f"something called exit({code}) in the middle of the work, an entrypoint or a metric of the spec most likely; "
        "nothing was decided: let it return or raise instead",
        2,
    )


def _work(command: Callable[[], int], tell: int) -> None:
    """In the child: the command, the word that it came to its end, and the process's end."""
    code = command()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(tell, b"!")
    sys.exit(code)
