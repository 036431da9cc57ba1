"""What the user sees, kept apart from what libraries print.

TensorFlow, JAX, absl and the ONNX exporters print as they please, from Python and from C++, to standard output too.
While a command works, the file descriptors 1 and 2 lead into a file that nobody sees (or, with `--debug`, to standard
error), and Slipway writes to duplicates of the real ones: tables and JSON stay whole.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import IO

#: Wide enough for a table where no terminal says how wide it is.
_WIDTH = 160


@dataclass(frozen=True)
class Streams:
    """The real standard output and error."""

    out: IO[str]
    err: IO[str]


@contextlib.contextmanager
def own_streams(*, debug: bool) -> Iterator[Streams]:
    """The real streams for us; everything else printed by this process and its children is out of sight.

    A crash in native code still shows where it happened, on the real standard error.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    real_out, real_err = os.dup(1), os.dup(2)
    with (
        os.fdopen(os.dup(real_out), "w", encoding="utf-8") as out,
        os.fdopen(os.dup(real_err), "w", encoding="utf-8") as err,
        tempfile.TemporaryFile() as unseen,
    ):
        elsewhere = real_err if debug else unseen.fileno()
        os.dup2(elsewhere, 1)
        os.dup2(elsewhere, 2)
        was_enabled = faulthandler.is_enabled()
        faulthandler.enable(file=err)
        try:
            yield Streams(out, err)
        finally:
            faulthandler.enable() if was_enabled else faulthandler.disable()
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os.dup2(real_out, 1)
            os.dup2(real_err, 2)
            os.close(real_out)
            os.close(real_err)


class Stopped(BaseException):
    """The user (Ctrl-C) or the system (SIGTERM) wants the process to end; carries the exit code to end with.

    Not an `Exception`, so that nothing that handles errors handles this by mistake.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(f"stopped, exit code {exit_code}")


class Interruption:
    """Turns the first SIGINT or SIGTERM into `Stopped`, and lets nothing disturb the cleaning up after it.

    Python may swallow an exception that a signal raises inside a callback of a C library, so `check` raises it again
    at the next place where that is safe.
    """

    def __init__(self) -> None:
        self._exit_code: int | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle both signals inside the block; the earlier handlers come back after it."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        if self._exit_code is not None:
            raise Stopped(self._exit_code)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._exit_code is None:
            self._exit_code = 128 + number
            raise Stopped(self._exit_code)


def width_of(stream: IO[str]) -> int | None:
    """How wide to print on a stream; `None` where its terminal says so itself."""
    return None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH
