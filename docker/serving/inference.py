"""From a request's arrays to the model's answer: the one way in for every front (HTTP, gRPC, `score`).

In: raw inputs that fit the contract. Out: an `Answer` with what each part of it took. What cannot be answered raises;
the front says it in its protocol's words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from serving.package import Served


class Overloaded(Exception):
    """The queue is full; asking again after `retry_after_s` may work."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeadlineExceeded(Exception):
    """The request's deadline came before its answer."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in seconds. `batch_rows` is the size of the batch that it was answered in."""

    queue_s: float
    preprocess_s: float
    inference_s: float
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs by name, and what they took."""

    outputs: dict[str, NDArray[Any]]
    timings: Timings


class Inference:
    """Answers requests on a pool of threads, so that the event loop stays free for health and metrics."""

    def __init__(self, served: Served, pool: ThreadPoolExecutor) -> None:
        self._served = served
        self._pool = pool

    async def answer(self, inputs: Mapping[str, NDArray[Any]], deadline: float | None = None) -> Answer:
        """The answer to raw inputs; `deadline` is on `time.monotonic()`'s clock.

        Raises:
            BadRequest: preprocessing takes a value out of the range of the model's dtype.
            RunnerError, WrongAnswer: the model failed, or broke its signature.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline came first.
        """
        asked = time.monotonic()
        if deadline is not None and asked >= deadline:
            raise DeadlineExceeded("the deadline was over before the request was taken")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, inputs, asked)

    def _answer(self, inputs: Mapping[str, NDArray[Any]], asked: float) -> Answer:
        served = self._served
        began = time.monotonic()
        prepared = served.prepare(inputs)
        ready = time.monotonic()
        outputs = served.run(inputs, prepared)
        timings = Timings(began - asked, ready - began, time.monotonic() - ready, served.rows(inputs))
        return Answer(outputs, timings)
