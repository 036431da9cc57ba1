"""A running server under more than one client's load: the highest rate that it bears, and its fullest moment.

In: an address, golden samples, the objective. Out: `Borne`, and what of all that was answered was wrong. Both loads
compare what they were answered: some servers are right as long as nobody waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tasks.load.client import Address, Broken, post
from tasks.load.objective import Held, OutOfTime, held, highest, requests_needed
from tasks.load.openloop import CONNECTIONS, Offered, crowd, offer
from tasks.smoke.golden import GoldenSamples, Sample
from tasks.smoke.load import Answers, Tally, ask, compare, merged
from tasks.smoke.observation import Borne, Crowd
from tasks.smoke.quiet import DISTURBING
from tasks.smoke.spent import spent

#: Different samples that a load asks for in turn: enough that no answer fits them all.
_SAMPLES = 16
#: A probe lasts until three times the requests that could show the objective at all have come, so that a few late ones
#: do not decide, and no less than a second: the server must have time to fall behind.
_PROBE_REQUESTS = 3 * requests_needed()
_PROBE_S = 1.0
#: Of a slow model fewer have to do, so that there is time for more than one rate; a few more than what is needed, since
#: arrivals are random.
_FEWEST_REQUESTS = round(1.1 * requests_needed())
#: The part of the time for all rates that one may take with more than those.
_ONE_RATE = 0.25
#: Before each rate is counted: caches fill, and the server learns how long its model takes.
_WARM_UP_S = 0.25
#: A server that does not show its page of metrics within this is measured without it.
_PAGE_S = 2.0
#: A crowd's bytes in flight: as much again as a server lets wait (`serving.scheduling`).
_CROWD_BYTES = 512 << 20
_CROWD = min(256, CONNECTIONS)
#: Seconds that a server may need for everybody in a crowd, so that none of them is still being worked on long after.
_CROWD_S = 1.0
#: A crowd is answered so often. The first time finds the server empty.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, where, and how long one answer may take before nothing is waited for any more."""

    address: Address
    path: str
    golden: GoldenSamples
    request_within_s: float

    def message(self, sample: Sample) -> bytes:
        return post(self.path, sample.body.content, sample.body.json_bytes)

    def samples(self, batch: int) -> list[Sample]:
        """Different ones of that many rows, as far as there are."""
        return [self.golden.sample(row * batch, batch) for row in range(min(self.golden.rows, _SAMPLES))]

    def still_answers(self, batch: int) -> Answers:
        """What it says to one client after a load; that nothing comes is a failure, unlike under the load."""
        return ask(
            self.address,
            self.path,
            self.golden,
            [self.golden.sample(0, batch)],
            timeout_s=self.request_within_s,
        )[0]


@dataclass(frozen=True, slots=True)
class Meter:
    """What this host tells of a container while a load is on it.

    `cpu_seconds` is what the container has used, None where the kernel does not say; `others` begins a period, and what
    it gives ends it: the share of the CPUs that others took.
    """

    cpu_seconds: Callable[[], float | None]
    others: Callable[[], Callable[[], float]]


class _Search:
    """Offers one rate after the other, and keeps the best that held."""

    def __init__(self, target: Target, batch: int, p99_ms: float, meter: Meter, until: float, budget_s: float) -> None:
        self._target, self._p99_ms, self._meter = target, p99_ms, meter
        self._until, self._longest_s = until, _ONE_RATE * budget_s
        self._samples = target.samples(batch)
        self._messages = [target.message(sample) for sample in self._samples]
        self.tallies: list[Tally] = []
        self.best: Borne | None = None
        self.probes = 0

    def holds(self, rate: float) -> bool:
        """Whether the objective is kept, as far as is shown. Disturbed, it has a second chance."""
        kept, others = self._offer(rate)
        if not kept and others > DISTURBING:
            kept, _ = self._offer(rate)
        return kept

    def _offer(self, rate: float) -> tuple[bool, float]:
        seconds = max(_PROBE_S, min(_PROBE_REQUESTS / rate, max(self._longest_s, _FEWEST_REQUESTS / rate)))
        if time.monotonic() + seconds > self._until:
            raise OutOfTime
        address = self._target.address
        before, used_s, ends = spent(address, _PAGE_S), self._meter.cpu_seconds(), self._meter.others()
        began = time.monotonic()
        offered = offer(
            address,
            self._messages,
            rate,
            seconds,
            limit_ms=self._p99_ms,
            patience_s=max(1.0, 5 * self._p99_ms / 1000),
            seed=self.probes,
            warm_up_s=_WARM_UP_S,
            keep=True,
        )
        took_s = time.monotonic() - began
        others, used_after_s, after = ends(), self._meter.cpu_seconds(), spent(address, _PAGE_S)
        self.probes += 1
        tally = compare(offered, self._target.golden, self._samples)
        self.tallies.append(tally)
        if tally.counts["wrong"] or tally.counts["refused"] or (offered.unanswered and not offered.times_ms):
            raise _NotRight
        if offered.given_up or held(offered.asked, offered.late(self._p99_ms)) is not Held.KEPT:
            return False, others
        if self.best is None or rate > self.best.rate:
            cpu_s = None if used_s is None or used_after_s is None else used_after_s - used_s
            self.best = Borne(
                rate=rate,
                asked=offered.asked,
                mean_ms=sum(offered.times_ms) / len(offered.times_ms),
                p99_ms=offered.percentile(0.99),
                late_send_ms=offered.late_send_ms,
                cpus=None if cpu_s is None else cpu_s / took_s,
                spent=None if before is None or after is None else after.since(before),
            )
        return True, others


class _NotRight(Exception):
    """The server answers wrongly, with errors, or not at all: how quick it is does not matter any more."""


def bear(
    target: Target, batch: int, *, p50_ms: float, p99_ms: float, budget_s: float, meter: Meter
) -> tuple[Borne | None, Answers]:
    """The highest rate of Poisson arrivals at which the objective was kept, and whether all answers were right.

    Begins at half of what one client alone would reach (`p50_ms`). None where none held, or `budget_s` was too short to
    show it.
    """
    search = _Search(target, batch, p99_ms, meter, time.monotonic() + budget_s, budget_s)
    with suppress(OutOfTime, _NotRight, Broken, OSError):  # a server that broke off shows in what comes after
        highest(search.holds, max(1.0, 500 / p50_ms))
    after = target.still_answers(batch)
    answers = merged(search.tallies)
    return search.best, _with(answers, after)


def fullest(target: Target, batch: int) -> Crowd | None:
    """As many clients as the server answers within `_CROWD_S`, and no more than fill its queue; None where it does not
    answer a single one."""
    samples = target.samples(batch)[:1]
    answers, times = ask(target.address, target.path, target.golden, samples, timeout_s=target.request_within_s)
    if not times or answers.failed:
        return None
    bytes_each = len(target.message(samples[0]))
    clients = min(_CROWD, _CROWD_BYTES // bytes_each, int(_CROWD_S / times[0]))
    return Crowd(max(4, clients), batch, times[0])


def press(target: Target, of: Crowd) -> Answers:
    """Be that crowd for some turns; what was answered, and whether the server still answers afterwards."""
    samples = target.samples(of.batch)
    messages = [target.message(sample) for sample in samples]
    offered: Offered | None = None
    with suppress(Broken, OSError):  # shows in what comes after
        offered = crowd(
            target.address,
            messages,
            clients=of.clients,
            requests=_TURNS * of.clients,
            patience_s=4 * _TURNS * _CROWD_S,
        )
    tallies = [] if offered is None else [compare(offered, target.golden, samples)]
    return _with(merged(tallies, of.clients), target.still_answers(of.batch))


def _with(under_load: Answers, after: Answers) -> Answers:
    """Both together: what was wrong under load, and what failed once it was over."""
    counts = {
        kind: getattr(under_load, kind) + getattr(after, kind)
        for kind in ("asked", "right", "wrong", "refused", "unanswered", "broken")
    }
    return Answers(
        **counts,
        clients=max(under_load.clients, after.clients),
        batches=tuple(sorted({*under_load.batches, *after.batches})),
        first_wrong=under_load.first_wrong or after.first_wrong,
        first_refused=under_load.first_refused or after.first_refused,
        first_failure=under_load.first_failure or after.first_failure,
    )
