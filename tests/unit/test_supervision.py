"""What ended without saying so has decided nothing, whatever its exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background without it
from tasks.supervision import supervised

def command():
    {command}
    return 1

sys.exit(supervised(command, lambda sentence, code: print(sentence) or code))
"""


def started(command: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(command=command)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_a_command_that_comes_to_its_end_gives_its_exit_code() -> None:
    process = started("print('said')")
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, "said\n")


@pytest.mark.parametrize("command", ["os._exit(0)", "sys.exit(0)"])
def test_an_exit_in_the_middle_is_no_success(command: str) -> None:
    process = started(command)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said.startswith("something called exit(0) in the middle of the work")


def test_a_killed_command_is_the_platforms_failure() -> None:
    process = started("os.kill(os.getpid(), signal.SIGKILL)")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "killed by SIGKILL (out of memory, most likely)" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_program_is_asked_to_do_its_command_does(number: signal.Signals) -> None:
    process = started(
        f"""heard = []
    signal.signal({int(number)}, lambda *_: heard.append(print('asked to stop', flush=True)))
    print('ready', flush=True)
    while not heard:
        time.sleep(0.01)"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "asked to stop\n"
    process.communicate(timeout=30)
    assert process.returncode == 1


def test_the_command_ends_with_the_program_however_that_ends() -> None:
    process = started("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(process: int) -> bool:
    """Whether it still runs; one that ended and was not collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
