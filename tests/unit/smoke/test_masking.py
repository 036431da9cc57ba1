"""A mask in front of a program: what it answers for the processor, and that it is otherwise not noticed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.image.engine import ContainerSpec
from tasks.smoke.host import Host
from tasks.smoke.masking import CANNOT, HIDEABLE, TRAPS, Mask, tool

#: Says of each thread of itself and of a child which extensions the processor tells; `__builtin_cpu_supports` asks once
#: at the start, so CPUID is asked itself.
_ASKS = """
#include <cpuid.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *say(void *nothing)
{
    unsigned a, b, c, d;
    __cpuid_count(7, 0, a, b, c, d);
    printf("gfni %u vaes %u\\n", c >> 8 & 1, c >> 9 & 1);
    fflush(stdout);
    return nothing;
}
int main(int count, char **arguments)
{
    pthread_t thread;
    say(0);
    pthread_create(&thread, 0, say, 0);
    pthread_join(thread, 0);
    if (count > 1)
        execl(arguments[0], arguments[0], NULL);
    return 3;
}
"""


@pytest.fixture(scope="module")
def asks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("asks") / "asks"
    command = ["gcc", "-x", "c", "-pthread", "-", "-o", str(made)]
    subprocess.run(command, input=_ASKS, text=True, check=True)
    return made


def behind(*program: str | Path) -> list[str]:
    """That program behind a mask that hides gfni, as a container would run it."""
    made = tool()
    assert made is not None
    spec = Mask(made, ("gfni",)).before(ContainerSpec("image", "name", "smoke"), *map(str, program))
    assert spec.entrypoint is not None
    assert list(spec.mounts.values()) == [spec.entrypoint[0]]
    return [str(made), *spec.entrypoint[1:], *spec.command]


def can() -> bool:
    """Whether this machine makes CPUID trap; where it does not, every program ends with the tool's own sentence."""
    return TRAPS in Host.this().features


def holds(done: subprocess.CompletedProcess[str], code: int) -> bool:
    """Whether it ended with the program's own code, as far as this machine can; nothing ever passes where it cannot."""
    if can():
        return done.returncode == code
    return done.returncode == CANNOT and "CPUID does not trap here" in done.stderr


def run(*program: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(behind(*program), capture_output=True, text=True, check=False)


def test_a_hidden_feature_is_seen_by_no_thread_and_not_after_another_exec(asks: Path) -> None:
    plain = subprocess.run([asks, "again"], capture_output=True, text=True, check=False)
    assert plain.returncode == 3
    hidden = run(asks, "again")
    assert holds(hidden, 3)
    if can():
        assert hidden.stdout == plain.stdout.replace("gfni 1", "gfni 0")
        assert hidden.stdout.count("gfni 0") == 4


def test_a_hidden_feature_is_not_seen_by_children(asks: Path) -> None:
    done = run(sys.executable, "-c", f"import subprocess; raise SystemExit(subprocess.call([{str(asks)!r}]))")
    assert holds(done, 3)
    assert "gfni 1" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGSEGV, signal.SIGKILL, signal.SIGTRAP])
def test_a_death_by_signal_is_told_as_docker_tells_it(number: signal.Signals) -> None:
    done = run(sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert holds(done, 128 + number)


def test_a_program_that_handles_its_own_signals_still_does() -> None:
    code = "import faulthandler, signal; signal.signal(11, lambda *_: exit(5)); signal.raise_signal(11)"
    assert holds(run(sys.executable, "-c", code), 5)


def test_sigterm_is_passed_on() -> None:
    code = "import signal, time; signal.signal(15, lambda *_: exit(6)); print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(behind(sys.executable, "-c", code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == ("ready\n" if can() else "")
        process.terminate()
        assert process.wait(30) == (6 if can() else CANNOT)


def test_nothing_outlives_a_tool_that_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    with subprocess.Popen(behind(sys.executable, "-c", code)) as process:
        until = time.monotonic() + 30
        while can() and not (mark.exists() and mark.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    if can():
        while Path(f"/proc/{mark.read_text()}").exists():
            assert time.monotonic() < until
            time.sleep(0.01)


def test_what_is_not_there_is_said_with_the_code_that_shells_have() -> None:
    done = run("/nowhere/program")
    assert (done.returncode, "/nowhere/program" in done.stderr) == (127, True)


def test_every_extension_has_its_place() -> None:
    made = Path(sys.executable)  # any path
    for feature in HIDEABLE:
        (_, bits) = Mask(made, (feature,)).before(ContainerSpec("i", "n", "smoke"), "x").entrypoint or ()
        for bit in bits.split(","):
            leaf, _, register, number = bit.split(".")
            assert int(leaf) in {7, 13, 0x80000001}
            assert register in "abcd"
            assert 0 <= int(number) < 32
