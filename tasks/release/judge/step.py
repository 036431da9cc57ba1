"""One step of a release so far: what both versions did in it, and for how long it was really watched."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.contracts import Finding
from tasks.release.judge.counting import Interval, Tally


@dataclass(slots=True)
class Step:
    """One step so far. `compares`: the stable version has traffic, too. `idle_s` is time since the canary answered
    last, `unseen_s` since both could be read; `held` says why it is for a person."""

    number: int
    compares: bool
    canary: Tally = field(default_factory=Tally)
    stable: Tally = field(default_factory=Tally)
    elapsed_s: float = 0.0
    baked_s: float = 0.0
    idle_s: float = 0.0
    unseen_s: float = 0.0
    held: tuple[Finding, ...] = ()

    def begin_again(self) -> None:
        """What it had shown is void; the time that it has taken is not."""
        self.canary, self.stable, self.baked_s, self.idle_s = Tally(), Tally(), 0.0, 0.0

    def bake(self, interval: Interval, most_s: float) -> None:
        """Time in which nobody asked counts once somebody is answered: a counter that stands still may be a broken
        one."""
        self.idle_s += interval.seconds
        if interval.canary.requests and (interval.stable.requests or not self.compares):
            self.baked_s += min(self.idle_s, most_s)
            self.idle_s = 0.0
