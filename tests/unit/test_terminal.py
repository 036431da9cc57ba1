"""Whatever libraries print, the user's output stays whole; whatever stops us, it stops once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

_NOISY = """
import os, subprocess, sys, warnings
from tasks.terminal import own_streams
with own_streams(debug={debug}) as streams:
    print("printed by Python")
    warnings.warn("warned")
    os.write(1, b"written by C\\n")
    os.write(2, b"complained by C\\n")
    subprocess.run(["sh", "-c", "echo said by a child; echo cried by a child >&2"])
    streams.out.write('{{"ours": 1}}\\n')
    streams.err.write("our progress\\n")
print("after")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_only_what_is_ours_reaches_the_user() -> None:
    done = run(_NOISY.format(debug=False))
    out, after = done.stdout.splitlines()
    assert json.loads(out) == {"ours": 1}
    assert after == "after"
    assert done.stderr == "our progress\n"


def test_debug_shows_the_noise_on_standard_error_and_never_on_standard_output() -> None:
    done = run(_NOISY.format(debug=True))
    assert done.stdout.splitlines() == ['{"ours": 1}', "after"]
    for noise in ("by Python", "warned", "written by C", "complained by C", "said by", "cried by", "our progress"):
        assert noise in done.stderr


_CRASHING = """
import ctypes
from tasks.terminal import own_streams
with own_streams(debug=False):
    ctypes.string_at(0)
"""


def test_a_crash_in_native_code_shows_where() -> None:
    done = run(_CRASHING)
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "string_at" in done.stderr


_STOPPED = """
import os, signal, sys
from tasks.terminal import Interruption, Stopped
interruption = Interruption()
try:
    with interruption.handled():
        try:
            os.kill(os.getpid(), {first})
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # impatience must not disturb the cleaning up
            print("cleaned up")
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_and_the_second_does_not_disturb(number: int, code: int) -> None:
    done = run(_STOPPED.format(first=int(number)))
    assert (done.returncode, done.stdout) == (code, "cleaned up\n")


_SWALLOWED = """
import os, signal, sys
from tasks.terminal import Interruption, Stopped
interruption = Interruption()
with interruption.handled():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass  # as a callback of a C library does
    try:
        interruption.check()
    except Stopped:
        print("stopped all the same")
"""


def test_a_stop_that_was_swallowed_comes_again_at_the_next_check() -> None:
    assert run(_SWALLOWED).stdout == "stopped all the same\n"


def test_without_a_signal_a_check_lets_pass() -> None:
    done = run("from tasks.terminal import Interruption\nInterruption().check()\nprint('on')")
    assert done.stdout == "on\n"
