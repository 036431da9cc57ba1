"""Sending golden samples to a server and holding every answer against the source model's.

In: an address, the samples. Out: `Answers` (what was asked, what was wrong) and `Latency`. Ways of asking:

    one after the other    `ask`           each sample once, in order: correctness, and closed-loop latency
    at the same time       `ask_at_once`   several clients, each with samples of its own: correctness under concurrency
    under load             `compare`       what `tasks.load.openloop` was answered, looked at when the load is over

A closed loop waits for one answer before it asks again, so it tells how long an answer takes on an idle server, and
nothing about how many requests per second it stands (coordinated omission: a slow answer also delays the question
that would have seen the queue).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from serving.golden import Margin, merge
from tasks.load.client import Address, Broken, Connection, Reply, Unanswered, post
from tasks.load.openloop import Offered
from tasks.smoke.golden import GoldenSamples, Sample


@dataclass(frozen=True, slots=True)
class Wrong:
    """One request that was not answered as the source model would: what was asked, and one clause about the answer."""

    batch: int
    complaint: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of a number of requests. They add up: asked = right + wrong + refused + unanswered + broken.

    `margins` are by output the worst of all answers, right and wrong.
    """

    asked: int = 0
    right: int = 0
    wrong: int = 0
    refused: int = 0
    unanswered: int = 0
    broken: int = 0
    clients: int = 1
    batches: tuple[int, ...] = ()
    first_wrong: Wrong | None = None
    first_refused: Wrong | None = None
    first_failure: str | None = None
    margins: Mapping[str, Margin] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Requests that got no answer at all."""
        return self.unanswered + self.broken


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of single requests in milliseconds, warm-up dropped."""

    times_ms: tuple[float, ...]
    batch: int

    def percentile(self, share: float) -> float | None:
        """The nearest-rank percentile: the smallest time that `share` of all requests did not exceed. None of none."""
        if not self.times_ms:
            return None
        ranked = sorted(self.times_ms)
        return ranked[max(1, math.ceil(share * len(ranked))) - 1]


_KINDS = ("right", "wrong", "refused", "unanswered", "broken")


@dataclass(slots=True)
class Tally:
    """Counts answers; one for each client, merged at the end."""

    golden: GoldenSamples
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    batches: set[int] = field(default_factory=set)
    first: dict[str, Wrong] = field(default_factory=dict)
    margins: dict[str, Margin] = field(default_factory=dict)

    def ask(self, connection: Connection, sample: Sample, message: bytes) -> float | None:
        """Send one sample and judge its answer; how long the answer took in seconds, None where none came."""
        self.batches.add(sample.batch)
        started = time.perf_counter()
        try:
            reply = connection.request(message)
        except Unanswered as error:
            self.count("unanswered", sample, str(error))
            return None
        except Broken as error:
            self.count("broken", sample, str(error))
            return None
        took = time.perf_counter() - started
        if reply.status != 200:
            text = reply.body[:300].decode(errors="replace")
            self.count("refused", sample, f"status {reply.status}: {text}")
        else:
            self.judge(sample, reply)
        return took

    def judge(self, sample: Sample, reply: Reply, times: int = 1) -> None:
        """Count an answer that came so often as right or wrong."""
        compared = self.golden.compare(reply, sample.expected)
        self.margins = merge(self.margins, compared.margins)
        self.count("wrong" if compared.complaint else "right", sample, compared.complaint, times)

    def count(self, kind: str, sample: Sample, complaint: str | None, times: int = 1) -> None:
        """So many answers of a kind; the first complaint of each is kept."""
        self.counts[kind] += times
        if complaint:
            self.first.setdefault(kind, Wrong(sample.batch, complaint))


def ask(
    address: Address,
    path: str,
    golden: GoldenSamples,
    samples: Iterable[Sample],
    *,
    timeout_s: float,
    stop_after_failures: int = 3,
) -> tuple[Answers, tuple[float, ...]]:
    """Send samples one after the other on one connection; what became of them, and each answer's time in seconds.

    Gives up after `stop_after_failures` requests in a row without an answer: a dead server is not asked 500 times.
    """
    tally, times, in_a_row = Tally(golden), [], 0
    with Connection(address, timeout_s) as connection:
        for sample in samples:
            took = tally.ask(connection, sample, post(path, sample.body.content, sample.body.json_bytes))
            if took is not None:
                times.append(took)
            in_a_row = in_a_row + 1 if took is None else 0
            if in_a_row >= stop_after_failures:
                break
    return merged([tally]), tuple(times)


def measure(
    address: Address,
    path: str,
    golden: GoldenSamples,
    batch: int,
    *,
    warmup: int,
    requests: int,
    at_least: int,
    within_s: float,
    timeout_s: float,
) -> tuple[Answers, Latency]:
    """Closed-loop latency of one client at one batch size; every answer is also compared.

    The first `warmup` answers are dropped. Stops at `requests` measured answers, or at the first after `within_s`
    seconds once `at_least` are there.
    """
    deadline = time.monotonic() + within_s
    prepared = [golden.sample(row, batch) for row in range(0, min(golden.rows, 16 * batch), batch)]

    def endless() -> Iterable[Sample]:
        count = 0
        while count < warmup + requests and (count < warmup + at_least or time.monotonic() < deadline):
            yield prepared[count % len(prepared)]
            count += 1

    answers, times = ask(address, path, golden, endless(), timeout_s=timeout_s)
    return answers, Latency(tuple(1000 * took for took in islice(times, warmup, None)), batch)


def ask_at_once(
    address: Address,
    path: str,
    golden: GoldenSamples,
    batches: Sequence[int],
    *,
    clients: int,
    rounds: int,
    within_s: float,
    timeout_s: float,
) -> Answers:
    """Let `clients` send samples at the same time, each its own rows, through every batch size `rounds` times.

    All start together. Clients begin with different batch sizes, so that a server which batches across requests has
    to keep unequal ones apart. Nobody starts a new request after `within_s` seconds.
    """
    barrier, deadline = threading.Barrier(clients), time.monotonic() + within_s

    def work(client: int, samples: Sequence[Sample]) -> Tally:
        tally, in_a_row = Tally(golden), 0
        prepared = [(sample, post(path, sample.body.content, sample.body.json_bytes)) for sample in samples]
        barrier.wait()
        with Connection(address, timeout_s) as connection:
            for turn, (sample, message) in enumerate(prepared * rounds):
                if in_a_row >= 2 or (turn and time.monotonic() > deadline):
                    break
                in_a_row = in_a_row + 1 if tally.ask(connection, sample, message) is None else 0
        return tally

    orders = [[batches[(client + step) % len(batches)] for step in range(len(batches))] for client in range(clients)]
    own = [
        [golden.sample(7 * client + 3 * step, batch) for step, batch in enumerate(order)]
        for client, order in enumerate(orders)
    ]
    with ThreadPoolExecutor(clients) as pool:
        return merged(list(pool.map(work, range(clients), own)))


def compare(offered: Offered, golden: GoldenSamples, samples: Sequence[Sample]) -> Tally:
    """Hold what was answered under load against the source model; message n of the load was `samples[n]`.

    Too late, or refused because too many came at once, is what a load is for: that is not counted here.
    """
    tally = Tally(golden)
    for said in offered.said:
        sample = samples[said.message]
        tally.batches.add(sample.batch)
        tally.judge(sample, said.reply, said.times)
    if others := offered.refused - offered.overloaded:
        first = offered.first_refusal
        text = f"status {first.status}: {first.body[:300].decode(errors='replace')}" if first else "no answer was kept"
        tally.count("refused", samples[0], text, others)
    return tally


def merged(tallies: Sequence[Tally], clients: int | None = None) -> Answers:
    """All of them as one. `clients` is how many asked at the same time; one for each tally, unless given."""
    total = {kind: sum(tally.counts[kind] for tally in tallies) for kind in _KINDS}
    first = {kind: tally.first[kind] for tally in reversed(tallies) for kind in tally.first}
    failure = first.get("unanswered") or first.get("broken")
    return Answers(
        asked=sum(total.values()),
        clients=len(tallies) if clients is None else clients,
        batches=tuple(sorted({batch for tally in tallies for batch in tally.batches})),
        first_wrong=first.get("wrong"),
        first_refused=first.get("refused"),
        first_failure=failure.complaint if failure else None,
        margins=merge(*(tally.margins for tally in tallies)),
        **total,
    )
