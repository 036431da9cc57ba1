"""Whether this host had the CPU to itself while something was timed.

A time that was taken while other programs wanted the same CPUs says little about the image. So smoke waits for a quiet
moment before it measures, and afterwards says what share of the CPUs went to others: a budget that was broken
meanwhile is inconclusive, not failed. A budget that was kept in spite of that is kept.

Smoke itself disturbs no other smoke: who measures has the `Turn` of this machine alone; who only looks at answers, as
under emulation, shares it. Both wait for whatever process has it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
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


class Turn:
    """A turn at this machine's processors: alone, until it is shared with others who share theirs.

    Two lock files for all homes, which share the processors. `measuring` is held by who has the turn; `wanted` by who
    measures or waits to, so that those who do not measure any more let them go first, and then go together.
    """

    def __init__(self, on_wait: Callable[[], None] | None = None) -> None:
        """`on_wait` is called where somebody else has the turn."""
        self._held, self._on_wait = ExitStack(), on_wait

    def __enter__(self) -> Turn:
        with ExitStack() as both:  # whoever is stopped while waiting for the second lets go of the first
            both.enter_context(locked(_lock("wanted"), shared=True))
            both.enter_context(locked(_lock("measuring"), self._on_wait))
            self._held = both.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def share(self) -> None:
        """Nothing is measured any more in this turn."""
        self._held.close()
        with locked(_lock("wanted")):
            pass
        self._held.enter_context(locked(_lock("measuring"), shared=True))


def _lock(name: str) -> Path:
    """A user cannot open what belongs to another, so each has files of their own."""
    return Path(tempfile.gettempdir()) / f"slipway-{name}-{os.getuid()}.lock"


def _busy_s(stat: str) -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in stat.split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
