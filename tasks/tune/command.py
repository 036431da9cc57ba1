"""`slipway tune`: from an image's name to a tuned image, and how that looks to people and programs.

In: what was asked for. Out: `Tuned`. Nothing is left behind but the new image: containers and scratch folders go
whatever happens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from serving.contract import Batching
from tasks.attestation import signer
from tasks.contracts import TunedImage, Verdict
from tasks.errors import BadInput, SlipwayError
from tasks.image import connect
from tasks.image.engine import Engine, ImageInfo, serving_image
from tasks.lineage.history import packages, record_of
from tasks.load.objective import CONFIDENCE, Held
from tasks.settings import Settings
from tasks.smoke.quiet import DISTURBING
from tasks.store import Store, open_store
from tasks.tune.basis import Basis, basis_of
from tasks.tune.bench import Measurement
from tasks.tune.record import record
from tasks.tune.run import Tuning, open_image, tune
from tasks.tune.search import BETTER, REPEATS, Choice, borne
from tasks.tune.write import write_tuned
from tasks.workspace import scratch

_MARKS = {Held.KEPT: "✓", Held.BROKEN: "✗", Held.UNCLEAR: "?"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's arguments."""

    image: str
    budget_s: float
    p99_ms: float | None = None
    rows: int | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    write: bool = True


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out. `image` is the new one, where one was written; `run` is MLflow's."""

    asked: Asked
    tuning: Tuning
    image: TunedImage | None = None
    run: str | None = None
    note: str | None = None

    @property
    def verdict(self) -> Verdict:
        if self.tuning.choice is None and not self.tuning.out_of_time:
            return Verdict.FAILED
        return Verdict.PASSED if self.tuning.confirmed else Verdict.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        return 0 if self.verdict is Verdict.PASSED else 1

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            **plain(self.tuning),
            "image": self.asked.image,
            "verdict": self.verdict,
            "tuned": None if self.image is None else self.image.model_dump(mode="json"),
            "mlflow_run": self.run,
            "note": self.note,
        }

    def lines(self) -> list[RenderableType]:
        """For people."""
        tuning, choice = self.tuning, self.tuning.choice
        shown: list[RenderableType] = ["", _table(tuning)]
        busy = f"other programs had more than {DISTURBING:.0%} of the CPUs: measure again on a quiet machine"
        disturbed = [busy] if tuning.disturbed else []
        if choice is None:
            memory = self.asked.memory_mb
            given = f"{tuning.cpus:g} CPUs" + (f" and {memory} MiB" if memory else "")
            why = (
                "the budget was over before any did: --budget gives more"
                if tuning.out_of_time
                else f"on {given} a request takes too long even when few come: give the container more, raise "
                "serving.p99_ms, or take a faster format"
            )
            return [*shown, f"no rate was shown to keep {tuning.p99_ms:g} ms: {why}", *disturbed]
        shown += ["", f"{_said(choice.setting)}: {_why(choice)}", *_again(tuning, choice)]
        if not choice.complete:
            shown.append("the budget was over before all settings were tried: --budget gives more")
        shown += disturbed
        if tuning.curve:  # the budget may have been over before
            shown += ["", "latency by rate:", *(_bar(item, tuning.p99_ms) for item in tuning.curve)]
        if self.image is not None:
            shown += ["", f"written into {self.image.reference} ({self.image.digest}), and signed"]
        if tuning.confirmed and choice.is_default:
            shown += ["", f"no image is written: {self.asked.image} stands as it is"]
        elif tuning.confirmed:
            shown += ["to package it so from now on, in model.yaml:", f"  serving: {{{_keys(choice.setting)}}}"]
        shown += [f"MLflow run {self.run}"] if self.run else []
        shown += [self.note] if self.note else []
        return shown


def tuned(asked: Asked, show: Callable[[Text], None], check: Callable[[], None]) -> Tuned:
    """Tune an image, write the choice, record it.

    Raises:
        BadInput: there is no such image, it is none of Slipway's, or there is no objective.
        GateBlocked: the image's attestation does not verify, so nothing may be written that stands on it.
        EngineUnavailable, PlatformError: the engine, or the server in the image, does not do its part.
    """
    here = os.cpu_count() or 1
    if asked.cpus is not None and asked.cpus > here:
        raise BadInput(f"--cpus {asked.cpus:g}: this machine has {here}: tune on one like that which will serve")
    engine, settings = connect(), Settings.from_environment()
    image = serving_image(engine, asked.image)
    store = open_store(settings.store_uri)
    # before minutes of measuring, whose result could not be written
    basis = _basis(asked.image, image, engine, store, settings) if asked.write else None
    cpus = asked.cpus or float(len(os.sched_getaffinity(0)))
    memory = None if asked.memory_mb is None else asked.memory_mb << 20

    def tell(item: Measurement) -> None:
        show(_line(item))
        check()

    with scratch(settings.work) as work:
        subject = open_image(image, engine, work, cpus, memory)
        p99_ms = asked.p99_ms or subject.contract.p99_ms
        if p99_ms is None:
            raise BadInput(f"the contract of {asked.image} has no p99_ms: say --p99-ms")
        tuning = tune(subject, engine, p99_ms=p99_ms, rows=asked.rows, budget_s=asked.budget_s, tell=tell)
    if tuning.choice is None or tuning.choice.is_default or not tuning.confirmed or basis is None:
        return Tuned(asked, tuning)
    content = json.dumps(plain(tuning), indent=1).encode() + b"\n"
    written = write_tuned(basis, subject.contract, tuning, tuning.choice, content, engine, store, settings)
    try:
        run = record(written, record_of(basis.package, store), store, settings)
        note = None if run else "the package is not in MLflow, so MLflow was told nothing"
    except SlipwayError as error:
        run, note = None, f"not recorded: {error}"
    return Tuned(asked, tuning, written, run, note)


def _basis(asked: str, image: ImageInfo, engine: Engine, store: Store, settings: Settings) -> Basis:
    return basis_of(asked, image, list(packages(store)), store, engine, signer(settings).public_key)


def plain(tuning: Tuning) -> dict[str, Any]:
    """`tuning.json`: the objective, the choice, the curve and every measurement."""
    choice = tuning.choice
    return {
        "p99_ms": tuning.p99_ms,
        "confidence": CONFIDENCE,
        "rows": tuning.rows,
        "cpus": tuning.cpus,
        "seconds": round(tuning.seconds, 1),
        "confirmed": tuning.confirmed,
        "disturbed": tuning.disturbed,
        "out_of_time": tuning.out_of_time,
        "choice": None if choice is None else asdict(choice),
        "curve": [_measured(item) for item in tuning.curve],
        "measurements": [_measured(item) for item in tuning.measurements],
    }


def _measured(item: Measurement) -> dict[str, Any]:
    found = asdict(item)
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}


def _table(tuning: Tuning) -> Table:
    """The best rate that each setting was shown to bear, and what was tried beyond it."""
    table = Table(
        "threads", "workers", "batch rows", "window ms", "kept at", "p50 ms", "p99 ms", "not kept at", box=None
    )
    rows: dict[Batching, list[Measurement]] = {}
    for item in tuning.measurements:
        if item.purpose != "curve":
            rows.setdefault(item.setting, []).append(item)
    chosen = None if tuning.choice is None else tuning.choice.setting
    for setting, items in rows.items():
        shown = borne((item.rate, item.held) for item in items)
        kept = next((item for item in reversed(items) if item.rate == shown.kept), None)
        table.add_row(
            str(setting.threads),
            str(setting.workers),
            str(setting.batch_rows),
            f"{setting.batch_window_ms or 0:g}",
            "–" if kept is None else f"{kept.rate:,.0f}/s",
            *(("–", "–") if kept is None else (_ms(kept.p50_ms), _ms(kept.p99_ms))),
            "–" if shown.not_kept is None else f"{shown.not_kept:,.0f}/s",
            style="bold" if setting == chosen else None,
        )
    return table


def _why(choice: Choice) -> str:
    """Why this setting."""
    if choice.is_default:
        return f"the image's own setting; no other that was tried was shown to bear {BETTER - 1:.0%} more"
    return f"in the search it bore {choice.gain:.2f} × what the image's own setting did"


def _again(tuning: Tuning, choice: Choice) -> Iterator[str]:
    """What the setting bears, and what became of it when it was measured again."""
    bearing = (
        f"{choice.rate:,.0f} requests/s of {tuning.rows} row(s) within {tuning.p99_ms:g} ms on {tuning.cpus:g} CPUs"
    )
    repeats = [item for item in tuning.measurements if item.purpose == "repeat"]
    failed = sorted({item.rate for item in repeats if item.setting == choice.setting and item.held is not Held.KEPT})
    if failed:
        tried = " and ".join(f"{rate:,.0f}/s" for rate in dict.fromkeys((failed[-1], failed[0])))
        yield f"measured again on fresh containers, {tried} did not hold"
    if tuning.confirmed:
        yield f"bears {bearing}: it held each of {REPEATS} times that it was measured again"
        return
    below = [item.rate for item in tuning.curve if item.rate <= choice.rate and item.held is not Held.KEPT]
    if below:
        why = f"{below[0]:,.0f}/s of the curve, which is no more, did not hold"
    elif tuning.out_of_time:
        why = f"the budget was over before it had held {REPEATS} times on fresh containers: --budget gives more"
    else:
        why = "it did not hold each time that it was measured again"
    yield f"inconclusive whether it bears {bearing}: {why}; nothing was written"


def _line(item: Measurement) -> Text:
    return Text(
        f"{_MARKS[item.held]} {item.purpose:<7} {_said(item.setting):<58} {item.rate:>8,.0f}/s  "
        f"p99 {_ms(item.p99_ms):>8} ms  {item.late} of {item.asked} late"
    )


def _said(setting: Batching) -> str:
    return (
        f"threads {setting.threads}, workers {setting.workers}, batch rows {setting.batch_rows}, "
        f"window {setting.batch_window_ms or 0:g} ms"
    )


def _keys(setting: Batching) -> str:
    return ", ".join(
        f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {value}"
        for key, value in asdict(setting).items()
        if value is not None
    )


def _bar(item: Measurement, p99_ms: float) -> Text:
    """One rate: its 99th percentile as a bar, the objective being 40 characters."""
    length = 60 if item.p99_ms is None else min(60, round(40 * item.p99_ms / p99_ms))
    return Text(f"  {item.rate:>9,.0f}/s  p50 {_ms(item.p50_ms):>8}  p99 {_ms(item.p99_ms):>8}  {'█' * length}")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
