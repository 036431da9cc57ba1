"""Which setting bears the highest rate within the objective: decisions over measurements, without clock or engine.

In: `probe`, which offers a rate to a setting and says whether the objective held (`tasks.load.objective`). Out: a
`Choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from serving.contract import Batching
from tasks.load.objective import OutOfTime, highest

#: By how much another setting must be better to be tried any further: less is noise.
_BETTER = 1.08
#: Offers a rate to a setting; whether the objective was kept. Raises `OutOfTime` when there is none left.
Probe = Callable[[Batching, float], bool]


@dataclass(frozen=True, slots=True)
class Choice:
    """The best setting that was found, and the rate that it bore. `complete` where time was left to try them all.

    `gain` is how many times as much as the default, both as the search found them.
    """

    setting: Batching
    rate: float
    gain: float
    complete: bool


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
    while probe(setting, best.rate * _BETTER):
        best = replace(best, setting=setting, rate=best.rate * _BETTER, gain=best.gain * _BETTER)
    return best


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
