"""The machine that figures are of: what it is, how busy others keep it, and which core is whose.

Client and server must not take each other's time: with two cores or more the client has the first and the server the
last one, every candidate alike. Children that are started keep nothing alive: see `Children`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_MARK = "SLIPWAY_BENCH_RUN"
#: From this share of the CPU taken by others, figures are marked as taken under load.
BUSY = 0.1


def client_core() -> int:
    return min(_CORES)


def server_core() -> int:
    return max(_CORES)


#: The cores that this run was given, read before anything pins itself.
_CORES = frozenset(os.sched_getaffinity(0))


def all_cores() -> frozenset[int]:
    return _CORES


def on_cores(cores: Iterable[int], command: Sequence[str]) -> list[str]:
    """A command that runs on these cores only, and is killed when this process ends, however it ends."""
    names = ",".join(str(core) for core in sorted(cores))
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "--cpu-list", names, *command]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This thread runs on one core only; what it starts meanwhile inherits that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe() -> str:
    """Cores, processor, memory and kernel in one line."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return f"{len(_CORES)} cores of {model or os.uname().machine}, {memory:.0f} GiB, Linux {os.uname().release}"


def taken_by_others(within_s: float = 1.0) -> float:
    """The share of the whole CPU that was not idle while this process slept: what others took."""
    before = _busy_and_all()
    time.sleep(within_s)
    busy, everything = (after - earlier for after, earlier in zip(_busy_and_all(), before, strict=True))
    return busy / everything if everything else 0.0


def _busy_and_all() -> tuple[int, int]:
    # proc(5): user nice system idle iowait irq softirq steal
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


class Children:
    """What this run starts carries a mark in its environment, so that the last of it is found and ended: servers start
    workers in groups and sessions of their own. What a killed run left behind is ended first."""

    def __init__(self) -> None:
        self._mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        for process, mark in _marked():
            if not Path("/proc", mark.split("-")[0]).exists():
                _kill(process)

    @property
    def environment(self) -> dict[str, str]:
        return {_MARK: self._mark}

    def end(self) -> None:
        """Kill every process that carries the mark; return when none is left."""
        deadline = time.monotonic() + 10
        while (left := [process for process, mark in _marked() if mark == self._mark]) and time.monotonic() < deadline:
            for process in left:
                _kill(process)
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        """CPU time that the processes that carry the mark have used so far."""
        used = 0
        for process, mark in _marked():
            if mark == self._mark:
                with contextlib.suppress(OSError):
                    # proc(5): utime and stime are fields 14 and 15; the name, field 2, ends at the last parenthesis
                    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                    used += int(fields[11]) + int(fields[12])
        return used / os.sysconf("SC_CLK_TCK")


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _marked() -> list[tuple[int, str]]:
    """Processes of this benchmark's runs, and whose they are."""
    found, name = [], f"{_MARK}=".encode()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if folder.name.isdigit():
                variables = (folder / "environ").read_bytes().split(b"\0")
                found += [(int(folder.name), item[len(name) :].decode()) for item in variables if item.startswith(name)]
    return found
