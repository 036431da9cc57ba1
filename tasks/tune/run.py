"""Tuning an image: what is measured in which order (`tasks.tune.bench` measures, `tasks.tune.search` decides).

In: an image, the objective, a budget of time. Out: a `Tuning` with every measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serving.contract import Batching, Signature
from serving.golden import read_golden
from serving.package import OlderContract, Refused, read_contract
from serving.preprocess import raw_signature
from serving.scheduling import scheduling
from tasks.errors import BadInput, PlatformError
from tasks.image.engine import Engine, ImageInfo
from tasks.load.objective import Held, OutOfTime
from tasks.smoke.golden import GoldenSamples
from tasks.smoke.quiet import DISTURBING
from tasks.tune.bench import COMPONENT, Bench, Measurement, Subject
from tasks.tune.search import Choice, choose, confirm

_IN_IMAGE = "/package"
#: Shares of the chosen rate at which the curve is measured.
_CURVE = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
#: The share of the budget that is left for repeats and the curve.
_RESERVED = 0.3


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found. `choice` is None where no rate held; `confirmed` where it held at every repetition and no lower
    rate of the curve failed, and `out_of_time` where the budget was over before all was measured that decides."""

    p99_ms: float
    rows: int
    cpus: float
    choice: Choice | None
    confirmed: bool
    out_of_time: bool
    measurements: tuple[Measurement, ...]
    seconds: float

    @property
    def curve(self) -> tuple[Measurement, ...]:
        """The chosen setting from low rates to beyond what it bears; of each rate the last measurement."""
        return tuple({item.rate: item for item in self.measurements if item.purpose == "curve"}.values())

    @property
    def disturbed(self) -> bool:
        """Whether other programs had so much of the CPUs that another day may say otherwise."""
        shares = sorted(item.taken_by_others for item in self.measurements)
        return bool(shares) and shares[len(shares) // 2] > DISTURBING


def open_image(image: ImageInfo, engine: Engine, work: Path, cpus: float, memory_bytes: int | None) -> Subject:
    """Read contract and golden samples out of an image.

    Raises:
        BadInput: it has none that this Slipway understands.
    """
    folder = work / "package"
    try:
        for name in ("contract.json", "golden.npz"):
            engine.copy_out(image.id, f"{_IN_IMAGE}/{name}", folder)
        contract = read_contract(folder)
        raw = raw_signature(contract.signature, contract.preprocess)
        found = read_golden(folder / contract.golden)
    except (PlatformError, Refused, OSError, ValueError) as error:
        said = str(error).replace(f"{folder}/", "")  # which is gone when somebody reads this
        advice = "" if isinstance(error, OlderContract) else ": give an image that `slipway package` made"
        raise BadInput(f"the image cannot be tuned: {said}{advice}") from error
    golden = GoldenSamples(found.inputs, found.outputs, contract.tolerances, raw)
    return Subject(image, contract, golden, cpus, memory_bytes)


def tune(
    subject: Subject,
    engine: Engine,
    *,
    p99_ms: float,
    rows: int | None,
    budget_s: float,
    tell: Callable[[Measurement], None],
) -> Tuning:
    """Find the setting with the highest rate that keeps the objective, and measure it again.

    `rows` are those of each request, unless given the fewest that the model takes.

    Raises:
        BadInput: the model does not take so many rows, or so few, or needs more memory than it was given.
        PlatformError: the server does not start, or does not answer rightly.
    """
    asked_rows = request_rows(subject.golden.raw, rows)
    engine.sweep(COMPONENT)
    began = time.monotonic()
    bench = Bench(subject, engine, asked_rows, p99_ms, began + budget_s * (1 - _RESERVED), tell)
    resolved = scheduling(subject.contract, cpus=max(1, round(subject.cpus)))
    default = Batching(
        batch_rows=resolved.limits.max_rows,
        batch_window_ms=1000 * resolved.limits.window_s,
        queue_rows=subject.contract.batching.queue_rows,
        workers=resolved.limits.workers,
        threads=resolved.threads,
    )
    with bench:
        choice, confirmed, out_of_time = None, False, False
        try:
            start = max(1.0, 0.5 / bench.alone(default))
            choice = choose(
                bench.probe, default, subject.contract.max_batch, max(1, round(subject.cpus)), p99_ms, start
            )
        except OutOfTime:
            out_of_time = True
        if choice is not None:
            bench.until = began + budget_s
            found = confirm(bench.probe_again, choice, default)
            out_of_time = found.out_of_time or not choice.complete
            choice, confirmed = found.choice, found.held and _keeps_below(bench, found.choice)
    return Tuning(
        p99_ms=p99_ms,
        rows=asked_rows,
        cpus=subject.cpus,
        choice=choice,
        confirmed=confirmed,
        out_of_time=out_of_time,
        measurements=tuple(bench.measurements),
        seconds=time.monotonic() - began,
    )


def request_rows(raw: Signature, asked: int | None) -> int:
    """The rows of each request: those that were asked for, where the model takes so many; else the fewest.

    Raises:
        BadInput: it does not.
    """
    if raw.batch is None:
        if asked not in {None, 1}:
            raise BadInput(f"--rows {asked}: the model has no batch dimension, so each request is one")
        return 1
    allowed = raw.dynamic[raw.batch]
    rows = asked or allowed.min
    if not allowed.min <= rows <= allowed.max:
        raise BadInput(f"--rows {rows}: the model takes from {allowed.min} to {allowed.max} rows in a request")
    return rows


def _keeps_below(bench: Bench, choice: Choice) -> bool:
    """Measure the curve, as far as the budget goes; whether no rate up to the choice's failed.

    One that does is measured once more: what a busy moment spoils would else take a whole search with it.
    """
    failed = set[float]()
    with suppress(OutOfTime):
        for rate in (share * choice.rate for share in _CURVE):
            if bench.measure(choice.setting, rate, "curve").held is Held.KEPT or rate > choice.rate:
                continue
            failed.add(rate)
            if bench.measure(choice.setting, rate, "curve").held is Held.KEPT:
                failed.remove(rate)
    return not failed
