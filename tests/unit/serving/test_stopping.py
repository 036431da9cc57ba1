"""A signal ends a process at once, also one that is deep in native code, unless something was prepared for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

#: Minutes of native code, during which Python runs no signal handler.
_LOADING = "import hashlib; print('at work', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def ended_by(code: str, *numbers: signal.Signals) -> int:
    """The exit code of a process that runs `code` and is sent signals, each after a line of its own."""
    code = f"from serving.stopping import Stopping\nstopping = Stopping()\n{code}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            for number in numbers:
                assert process.stdout is not None
                assert process.stdout.readline()
                os.kill(process.pid, number)
            return process.wait(timeout=60)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_a_model_is_loaded_a_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    assert ended_by(_LOADING, number) == 128 + number


def test_a_first_signal_does_what_was_prepared_and_a_second_ends_the_process() -> None:
    prepared = "stopping.on_first(lambda: print('asked to stop', flush=True))\n"
    assert ended_by(prepared + _LOADING, signal.SIGTERM, signal.SIGTERM) == 128 + signal.SIGTERM
