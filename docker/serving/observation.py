"""What became of each request, for whoever watches: metrics, the log, the sampled record of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.inference import Answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """One inference request, answered or not.

    `error` is empty for an answer, else the kind of error: bad_request, too_large, overloaded, deadline, draining,
    model or internal. `inputs` are there once the request was decoded, `answer` when it was given.
    """

    id: str | None
    protocol: str
    status: int
    total_s: float
    error: str = ""
    message: str = ""
    inputs: Mapping[str, NDArray[Any]] | None = None
    answer: Answer | None = None


class Observer(Protocol):
    """Is told each outcome, on the event loop, after the response was written: must be quick and never raise."""

    def observe(self, outcome: Outcome) -> None: ...


class Nobody:
    """Watches nothing."""

    def observe(self, outcome: Outcome) -> None:
        pass
