"""Running one stage, or taking the result that the store remembers of it.

In: a key (`tasks.reuse`) and how to compute. Out: a `StageRun`, reused or worked for. A remembered result is taken
while every object that it refers to is still there. Two processes that come to the same key at once do the work once:
the second waits, and takes the first one's result. Scratch folders go when the stage ends, and are swept after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from tasks import reuse
from tasks.contracts import (
    Artifact,
    Digest,
    ExportRun,
    Image,
    ImageRun,
    IngestRun,
    ParityRun,
    Report,
    SmokeRun,
    Verdict,
)
from tasks.settings import Settings
from tasks.store import Store
from tasks.workspace import locked, scratch, sweep

AnyRun: TypeAlias = IngestRun | ExportRun | ParityRun | ImageRun | SmokeRun
Run = TypeVar("Run", IngestRun, ExportRun, ParityRun, ImageRun, SmokeRun)


class Moment(StrEnum):
    """What just happened to a stage."""

    STARTED = "started"
    WAITING = "waiting"  # another process works on the same cell
    REUSED = "reused"
    FINISHED = "finished"
    STOPPED = "stopped"  # an exception ended it


@dataclass(frozen=True, slots=True)
class Event:
    """A stage's progress, for whoever shows it. `verdict` and `duration_s` are there once it is over."""

    moment: Moment
    stage: str
    label: str
    verdict: Verdict | None = None
    duration_s: float | None = None


class Memory:
    """What the store remembers of earlier runs."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        fresh: bool,
        tell: Callable[[Event], None],
        is_in_engine: Callable[[Image], bool],
    ) -> None:
        """With `fresh`, nothing is remembered, but results are kept for others. Sweeps what killed processes left."""
        self._store, self._settings = store, settings
        self._fresh, self._tell, self._is_in_engine = fresh, tell, is_in_engine
        sweep(settings.work)
        sweep(self._locks)

    def run(self, kind: type[Run], stage: str, label: str, key: Digest, compute: Callable[[Path], Any]) -> Run:
        """The result under `key`: remembered, or what `compute` makes of an empty scratch folder."""
        started = time.monotonic()

        def tell(moment: Moment, verdict: Verdict | None = None) -> None:
            over = moment not in {Moment.STARTED, Moment.WAITING}
            self._tell(Event(moment, stage, label, verdict, time.monotonic() - started if over else None))

        def reused(run: Run) -> Run:
            tell(Moment.REUSED, verdict_of(run.result))
            return run.model_copy(update={"label": label, "reused": True, "duration_s": time.monotonic() - started})

        if (earlier := self.recall(kind, stage, key)) is not None:
            return reused(earlier)
        tell(Moment.STARTED)
        lock = self._locks / f"{stage}-{key.removeprefix('sha256:')}.lock"
        try:
            with locked(lock, on_wait=lambda: tell(Moment.WAITING)):
                if (earlier := self.recall(kind, stage, key)) is not None:
                    return reused(earlier)
                with scratch(self._settings.work) as work:
                    result = compute(work)
                run = kind(
                    stage=stage,
                    label=label,
                    key=key,
                    reused=False,
                    duration_s=time.monotonic() - started,
                    made_at=datetime.now(UTC),
                    result=result,
                )
                if reuse.is_repeatable(stage, result):
                    self._store.put_result(stage, key, run.model_dump_json())
        except BaseException:
            tell(Moment.STOPPED)
            raise
        tell(Moment.FINISHED, verdict_of(result))
        return run

    def recall(self, kind: type[Run], stage: str, key: Digest) -> Run | None:
        """What is remembered under `key` and still stands: all its bytes in the store, its image in the engine."""
        text = None if self._fresh else self._store.get_result(stage, key)
        try:
            run = None if text is None else kind.model_validate_json(text)
        except ValidationError:  # another version of Slipway wrote it in another form
            return None
        if run is None or not reuse.is_whole(run, self._store):
            return None
        return None if isinstance(run.result, Image) and not self._is_in_engine(run.result) else run

    @property
    def _locks(self) -> Path:
        return self._settings.home / "locks"


def verdict_of(result: Any) -> Verdict | None:
    """A stage's answer, where it is a gate: its report's, or for an artifact that of its evaluation data."""
    report = result.evaluation.quality if isinstance(result, Artifact) else result
    return report.verdict if isinstance(report, Report) else None
