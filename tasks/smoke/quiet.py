"""Whether this host had the CPU to itself while something was timed.

A time that was taken while other programs wanted the same CPUs says little about the image. So smoke waits for a quiet
moment before it measures, and afterwards says what share of the CPUs went to others: a budget that was broken
meanwhile is inconclusive, not failed. A budget that was kept in spite of that is kept.

Smoke itself disturbs no other smoke: who measures is `measuring`, alone on this machine; who only looks at answers, as
under emulation, is `not_measuring`, and may do so beside others. Both wait for their turn, whatever process has it.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tasks.workspace import locked

#: Above this share of all CPUs, the times of a container that wants the rest cannot be told from the disturbance.
DISTURBING = 0.25


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of CPU since the machine's start: of all CPUs together, not idle; and of this process."""

    at: float
    busy_s: float
    own_s: float

    @classmethod
    def now(cls) -> CpuTimes:
        """Read /proc/stat (proc(5): user nice system idle iowait irq softirq steal …, in clock ticks)."""
        own = os.times()
        return cls(time.monotonic(), _busy_s(Path("/proc/stat").read_text()), own.user + own.system)


def taken_by_others(before: CpuTimes, after: CpuTimes, container_s: float, cpus: int) -> float:
    """The share (0 to 1) of `cpus` that neither this process nor the container used, but somebody did."""
    elapsed = after.at - before.at
    if elapsed <= 0:
        return 0.0
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s) - container_s
    return min(1.0, max(0.0, others / (elapsed * cpus)))


def wait_until_quiet(cpus: int, within_s: float, window_s: float = 0.25) -> None:
    """Return at the first `window_s` in which others took less than `DISTURBING`, or after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        before = CpuTimes.now()
        time.sleep(window_s)
        if taken_by_others(before, CpuTimes.now(), 0.0, cpus) < DISTURBING:
            return


def measuring() -> AbstractContextManager[None]:
    """Nobody else on this machine who asks here is at work inside the block."""
    return locked(_turn())


def not_measuring() -> AbstractContextManager[None]:
    """Nobody measures inside the block; others who do not measure may be at work."""
    return locked(_turn(), shared=True)


def _turn() -> Path:
    """One file for all homes: they share the processors. A user cannot open what belongs to another."""
    return Path(tempfile.gettempdir()) / f"slipway-measuring-{os.getuid()}.lock"


def _busy_s(stat: str) -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in stat.split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
