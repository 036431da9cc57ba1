"""What became of each request, for whoever watches: metrics, the log, the sampled record of predictions."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from serving.inference import Answer
from serving.log import log

#: The header by which clients and proxies say which request is which; every response carries it.
REQUEST_ID = "x-request-id"

#: Longest id that is taken over: it is repeated in a header and in every record of the request.
_LONGEST_ID = 128

#: No spaces: a header's value loses those at its ends.
_VISIBLE = re.compile(r"[!-~]+").fullmatch

_PROCESS = os.urandom(8).hex()
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One inference request, answered or not.

    `id` is what `request_id` made of the request. `error` is empty for an answer, else the kind of error: bad_request,
    too_large, overloaded, deadline, draining, model or internal. `inputs` are there once the request was decoded, which
    took `decode_s` from its arrival; `answer` when it was given, whose response took `postprocess_s` to write.
    `refused_input` is the input whose values a bad request was refused for, and the reason
    (`serving.tensors.BadRequest`).
    """

    id: str | None
    protocol: str
    status: int
    total_s: float
    error: str = ""
    message: str = ""
    inputs: Mapping[str, NDArray[Any]] | None = None
    answer: Answer | None = None
    refused_input: tuple[str, str] | None = None
    decode_s: float = 0.0
    postprocess_s: float = 0.0


class Observer(Protocol):
    """Is told each outcome, on the event loop, after the response was written: must be quick and never raise."""

    def observe(self, outcome: Outcome) -> None: ...


class Nobody:
    """Watches nothing."""

    def observe(self, outcome: Outcome) -> None:
        pass


class Observers:
    """Several observers as one. One that raises hurts neither the others nor the request; `failures` counts it."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        self.failures = 0

    def observe(self, outcome: Outcome) -> None:
        for observer in self._observers:
            try:
                observer.observe(outcome)
            except Exception as error:  # noqa: BLE001  watching must never take the server down
                self.failures += 1
                if self.failures == 1:  # the metric says how often; a line for each would fill the log
                    log("observer failed", observer=type(observer).__name__, error=f"{type(error).__name__}: {error}")


def request_id(*given: str | None) -> str:
    """The first of `given` that can be a header's value (1 to 128 visible ASCII characters), else one of our own.

    Given are the protocol's `id` and the header `x-request-id`, in this order. Our own is unique over processes.
    """
    for candidate in given:
        if candidate and len(candidate) <= _LONGEST_ID and _VISIBLE(candidate):
            return candidate
    return f"{_PROCESS}-{next(_NUMBERS)}"
