"""Which setting bears the highest rate within the objective: decisions over measurements, without clock or engine.

In: `probe`, which offers a rate to a setting and says whether the objective held (`tasks.load.objective`). Out: a
`Choice`, and what became of it when it was measured again. A rate above one that was not kept shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from serving.contract import Batching
from tasks.load.objective import Held, OutOfTime, highest

#: By how much another setting must be better to be tried any further: less is noise.
BETTER = 1.08
#: The choice is measured so often again, on fresh containers, and must hold each time.
REPEATS = 3
#: Where it does not hold again, so much less is tried.
_STEP_DOWN = 0.9


@dataclass(frozen=True, slots=True)
class Borne:
    """What a setting was shown to bear: the highest rate that counts as kept, and the lowest that was not kept."""

    kept: float | None
    not_kept: float | None


def borne(measured: Iterable[tuple[float, Held]]) -> Borne:
    """What the measurements of one setting show together, in the order in which they were made.

    Of a rate that was measured again the last measurement counts, and a rate counts as kept only where every lower one
    that was measured does.
    """
    last = dict(measured)
    not_kept = min((rate for rate, what in last.items() if what is not Held.KEPT), default=None)
    kept = max((rate for rate in last if not_kept is None or rate < not_kept), default=None)
    return Borne(kept, not_kept)


#: Offers a rate to a setting; whether the objective was kept. Raises `OutOfTime` when there is none left.
Probe = Callable[[Batching, float], bool]


@dataclass(frozen=True, slots=True)
class Choice:
    """The best setting that was found, and the rate that it bore. `complete` where time was left to try them all.

    `gain` is how many times as much as the default, both as the search found them; 1 where the default was best.
    """

    setting: Batching
    rate: float
    gain: float
    complete: bool

    @property
    def is_default(self) -> bool:
        """Whether the image's own setting is the best: there is nothing to change."""
        return self.gain == 1


def choose(probe: Probe, default: Batching, max_batch: int, cpus: int, p99_ms: float, start: float) -> Choice | None:
    """Sweep threads and workers, then batch sizes, then windows, each from the best so far.

    A setting is measured further only where it bears more than the best one: one probe just above that tells. None
    where not even the default holds at any rate.

    Raises:
        OutOfTime: before any rate held.
    """
    rate = highest(lambda asked: probe(default, asked), start)
    if rate is None:
        return None
    best = Choice(default, rate, 1.0, complete=True)
    try:
        for axis in (parallelism(cpus), batch_rows(max_batch), windows(p99_ms)):
            base, tried = best.setting, {best.setting}
            for changes in axis:
                setting = replace(base, **changes)
                if setting in tried:
                    continue
                tried.add(setting)
                best = _climb(probe, setting, best)
    except OutOfTime:
        return replace(best, complete=False)
    return best


def _climb(probe: Probe, setting: Batching, best: Choice) -> Choice:
    while probe(setting, best.rate * BETTER):
        best = replace(best, setting=setting, rate=best.rate * BETTER, gain=best.gain * BETTER)
    return best


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A choice after it was measured again. `held` where it held each time, `out_of_time` where the budget was over
    before that could be said."""

    choice: Choice
    held: bool
    out_of_time: bool = False


def confirm(again: Probe, choice: Choice, default: Batching) -> Confirmed:
    """Measure the choice again by `again`, which takes a fresh container, at lower rates until it holds each time.

    Where that takes another setting to no more than the default was seen to bear, the default is asked for the same
    rate: where it bears that too, nothing was gained, and it stands.
    """
    default_bore = choice.rate / choice.gain
    try:
        while not _holds(again, choice.setting, choice.rate):
            choice = replace(choice, rate=choice.rate * _STEP_DOWN)
            if choice.rate < 1:
                return Confirmed(choice, held=False)
        beyond = choice.rate >= default_bore * BETTER
        if not choice.is_default and not beyond and _holds(again, default, choice.rate):
            choice = replace(choice, setting=default, gain=1.0)
    except OutOfTime:
        return Confirmed(choice, held=False, out_of_time=True)
    return Confirmed(choice, held=True)


def _holds(again: Probe, setting: Batching, rate: float) -> bool:
    return all(again(setting, rate) for _ in range(REPEATS))


def parallelism(cpus: int) -> Iterator[dict[str, int]]:
    """Threads of a batch, and batches at once: all CPUs for each of two, one CPU each, and half of them in between."""
    for threads in sorted({1, max(1, cpus // 2), cpus}, reverse=True):
        for workers in sorted({2, max(2, -(-cpus // threads)), cpus + 1}):
            yield {"threads": threads, "workers": workers}


def batch_rows(max_batch: int) -> Iterator[dict[str, int]]:
    """The largest batch, and a quarter each time down to single rows."""
    rows = max_batch
    while rows > 1:
        yield {"batch_rows": rows}
        rows = -(-rows // 4)
    yield {"batch_rows": 1}


def windows(p99_ms: float) -> Sequence[dict[str, float]]:
    """No window, and shares of the objective: more than a quarter of it leaves no time to work."""
    return [{"batch_window_ms": round(p99_ms * share, 3)} for share in (0.0, 0.02, 0.08, 0.25)]
