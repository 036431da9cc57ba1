"""From a request's arrays to the model's answer: the one way in for every front (HTTP, gRPC, `score`).

In: raw inputs that fit the contract. Out: an `Answer` with what each part of it took. What cannot be answered raises;
the front says it in its protocol's words.

Everything here happens on the event loop, so that nothing needs a lock; `serving.batching` decides which requests form
a batch. What takes long (preprocessing, a batch) is done in threads, and comes back by one call for a whole batch. What
was measured to take less than a thread's waking costs is done at once, on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batch, Full, Limits, Line, Part, Ticket
from serving.cpus import available_cpus
from serving.pace import Drain, Pace, Stopwatch, Took
from serving.package import Served
from serving.preprocess import extras
from serving.scheduling import scheduling

#: Batches that the event loop runs itself: handing one to a thread and taking it back costs 0.06 to 0.1 ms, and all
#: other requests wait for what the loop does.
_ON_LOOP_S = 0.000_25
#: Requests that are not even put into the line: going through it costs as much as they do (0.1 ms on a core that also
#: runs other things in between, as it does when requests come one by one).
_AT_ONCE_S = 0.000_1
#: Outputs beyond this many bytes are put together in a thread.
_LARGE_BYTES = 1 << 18

_CLOSED = "the server is shutting down"

Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")


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


@dataclass(eq=False, slots=True)
class _Request(Ticket):
    """A request in line: what the model is to be given, and who waits for the answer."""

    prepared: Arrays = field(kw_only=True)
    row_work: int = field(kw_only=True)
    future: asyncio.Future[None] = field(kw_only=True)
    answers: dict[int, dict[str, NDArray[Any]]] = field(default_factory=dict, kw_only=True)
    began: float = field(default=0.0, kw_only=True)
    ended: float = field(default=0.0, kw_only=True)
    batch_rows: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class _Ran:
    """A batch that was run: for each part its outputs, or why there are none."""

    began: float
    took: Took
    results: Sequence[dict[str, NDArray[Any]] | Exception]


class Inference:
    """Answers requests in batches, on a pool's threads and where it is quicker on the event loop.

    `pool` has a thread for each of the workers of `limits`, which are the contract's own unless given.
    """

    def __init__(self, served: Served, pool: ThreadPoolExecutor, limits: Limits | None = None) -> None:
        self._served = served
        self._pool = pool
        self._line = Line[_Request](limits or scheduling(served.contract).limits)
        # Decoding images takes a CPU for each of them; two at least, so that a large one holds up nobody.
        self._beside = ThreadPoolExecutor(max(2, available_cpus()), thread_name_prefix="preprocess")
        self._names = [spec.name for spec in served.contract.signature.inputs]
        self._decodes = bool(extras(served.contract.preprocess))
        self._batched = served.contract.signature.batch is not None
        self._pace, self._prepare_pace, self._drain = Pace(), Pace(), Drain()
        self._preparing = 0
        self._is_woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def waiting_rows(self) -> int:
        """Rows that were taken in and are not being worked on yet."""
        return self._line.rows

    @property
    def busy(self) -> int:
        """Batches and requests that threads are at."""
        return self._line.busy + self._preparing

    async def answer(self, inputs: Arrays, deadline: float | None = None) -> Answer:
        """The answer to raw inputs; `deadline` is on `time.monotonic()`'s clock.

        Raises:
            BadRequest: preprocessing takes a value out of the range of the model's dtype.
            RunnerError, WrongAnswer: the model failed, or broke its signature.
            Overloaded: the queue is full, or the server ends.
            DeadlineExceeded: the deadline came first.
        """
        asked = time.monotonic()
        if deadline is not None and asked >= deadline:
            raise DeadlineExceeded("the deadline was over before the request was taken")
        rows = self._served.rows(inputs)
        self._admit(rows)
        try:
            prepared = await self._prepare(inputs, deadline)
            self._check_open()
        except BaseException as error:
            self._line.leave(rows)
            if self._closed and isinstance(error, asyncio.CancelledError):
                self._check_open()  # it was `close` that cancelled the preprocessing
            raise
        ready = time.monotonic()
        row_work = sum([prepared[name].size for name in self._names]) // max(1, rows)
        if self._is_at_once(rows, row_work):
            outputs, took = self._run_at_once(prepared, rows, row_work)
            return Answer(outputs, Timings(0.0, ready - asked, took.wall_s, rows))
        request = self._enter(prepared, rows, row_work, ready, deadline)
        try:
            await request.future
        finally:  # also when whoever asked has gone
            self._line.remove(request)
        timings = Timings(request.began - ready, ready - asked, request.ended - request.began, request.batch_rows)
        return Answer(await _whole(request), timings)

    def close(self) -> int:
        """Refuse whatever still waits and whatever comes; how many requests that were waiting."""
        self._closed = True
        waiting = list(self._line.clear())
        for ticket in waiting:
            _fail(ticket, Overloaded(_CLOSED))
        self._beside.shutdown(wait=False, cancel_futures=True)
        return len(waiting)

    # --- the way in -----------------------------------------------------------------------------------------------

    def _admit(self, rows: int) -> None:
        self._check_open()
        try:
            self._line.admit(rows)
        except Full as error:
            seconds = self._drain.seconds(error.surplus)
            raise Overloaded(
                f"{error.waiting} rows are waiting, and no more than {self._line.limits.queue_rows} may: "
                f"there will be room for {rows} in about {1.0 if seconds is None else seconds:.1f} s",
                1.0 if seconds is None else seconds,
            ) from error

    def _check_open(self) -> None:
        if self._closed:
            raise Overloaded(_CLOSED)

    async def _prepare(self, inputs: Arrays, deadline: float | None) -> Arrays:
        """Preprocess a request by itself: on the loop where that was quick so far, else in a thread.

        Images and texts always in a thread: how long they take does not follow from their length.
        """
        prepare = self._served.prepare
        if not self._served.contract.preprocess:
            return prepare(inputs)
        work = sum([array.nbytes for array in inputs.values()])
        if not self._decodes and self._prepare_pace.is_below(_ON_LOOP_S, work):
            prepared, took = _timed(prepare, inputs, None)
        else:
            self._preparing += 1
            try:
                async with asyncio.timeout_at(deadline):
                    prepared, took = await asyncio.get_running_loop().run_in_executor(
                        self._beside, _timed, prepare, inputs, deadline
                    )
            except TimeoutError:
                raise DeadlineExceeded("the deadline came while the request was preprocessed") from None
            finally:
                self._preparing -= 1
        self._prepare_pace.saw(work, took)
        return prepared

    def _is_at_once(self, rows: int, row_work: int) -> bool:
        """Whether nobody else is there, and the model is so quick that nobody will have come before it is done."""
        return (
            self._line.rows == rows <= self._line.limits.max_rows
            and not self._line.busy
            and self._pace.is_below(_AT_ONCE_S, rows * row_work)
        )

    def _run_at_once(self, prepared: Arrays, rows: int, row_work: int) -> tuple[dict[str, NDArray[Any]], Took]:
        watch = Stopwatch()
        try:
            outputs = self._served.run(prepared)
        finally:
            took = watch.took()
            self._pace.saw(rows * row_work, took)
            self._line.leave(rows)
        return outputs, took

    def _enter(self, prepared: Arrays, rows: int, row_work: int, ready: float, deadline: float | None) -> _Request:
        """Put a request into the line."""
        loop = asyncio.get_running_loop()
        work = row_work * min(rows, self._line.limits.max_rows)
        request = _Request(
            key=tuple(prepared[name].shape[1:] for name in self._names) if self._batched else None,
            rows=rows,
            arrived=ready,
            deadline=deadline,
            work=work,
            seconds=self._pace.seconds(work),
            prepared=prepared,
            row_work=row_work,
            future=loop.create_future(),
        )
        self._line.add(request)
        if deadline is not None:
            timer = loop.call_at(deadline, self._expire, request)
            request.future.add_done_callback(lambda _: timer.cancel())
        self._wake()
        return request

    def _expire(self, request: _Request) -> None:
        self._line.remove(request)
        _fail(request, DeadlineExceeded("the deadline came before the answer"))

    # --- batches --------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Look for a batch once the loop has taken in what is there: what came together goes together."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_woken = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        began = time.monotonic()
        while True:
            now = time.monotonic()
            batch = self._line.next(now)
            if batch is None:
                return
            if isinstance(batch, float):
                self._timer = asyncio.get_running_loop().call_at(batch, self._dispatch)
                return
            if self._line.busy == 1:
                self._drain.began(now)
            if self._pace.is_below(_ON_LOOP_S, _work(batch)):
                self._end(batch, _run(self._served, batch))
                if time.monotonic() - began < _ON_LOOP_S:
                    continue
                self._wake()  # and let others have the loop in between
                return
            self._pool.submit(self._work, batch, asyncio.get_running_loop())

    def _work(self, batch: Batch[_Request], loop: asyncio.AbstractEventLoop) -> None:
        """Run a batch: in a worker's thread."""
        ran = _run(self._served, batch)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(self._end, batch, ran)

    def _end(self, batch: Batch[_Request], ran: _Ran) -> None:
        self._line.done(batch)
        self._pace.saw(_work(batch), ran.took)
        ended = ran.began + ran.took.wall_s
        self._drain.left(ended, batch.rows)
        for part, result in zip(batch.parts, ran.results, strict=True):
            request = part.ticket
            if isinstance(result, Exception):
                self._line.remove(request)
                _fail(request, result)
                continue
            request.began = request.began or ran.began
            request.ended = ended
            request.batch_rows = max(request.batch_rows, batch.rows)
            request.answers[part.index] = result
            if len(request.answers) == len(request.sizes) and not request.future.done():
                request.future.set_result(None)
        if self._line.rows:
            self._wake()


async def _whole(request: _Request) -> dict[str, NDArray[Any]]:
    """The outputs of a request, put together of its parts."""
    if len(request.answers) == 1:
        return request.answers[0]
    parts = [request.answers[index] for index in range(len(request.answers))]
    if sum(array.nbytes for part in parts for array in part.values()) <= _LARGE_BYTES:
        return _joined(parts)
    return await asyncio.get_running_loop().run_in_executor(None, _joined, parts)


def _fail(request: _Request, error: Exception) -> None:
    if not request.future.done():
        request.future.set_exception(error)


def _timed(work: Callable[[Arrays], T], inputs: Arrays, deadline: float | None) -> tuple[T, Took]:
    """What the work gives, and what it took; nothing is begun after the deadline."""
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlineExceeded("the deadline came before the request was preprocessed")
    watch = Stopwatch()
    return work(inputs), watch.took()


def _work(batch: Batch[_Request]) -> int:
    """Elements that the model is given. The rows of a batch are all of one shape."""
    return batch.rows * batch.parts[0].ticket.row_work


def _given(part: Part[_Request]) -> Arrays:
    prepared = part.ticket.prepared
    if part.rows == part.ticket.rows:
        return prepared
    return {name: array[part.start : part.stop] for name, array in prepared.items()}


def _joined(parts: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run(served: Served, batch: Batch[_Request]) -> _Ran:
    began, watch = time.monotonic(), Stopwatch()
    results = _results(served, batch.parts)
    return _Ran(began, watch.took(), results)


def _results(served: Served, parts: Sequence[Part[_Request]]) -> list[dict[str, NDArray[Any]] | Exception]:
    """Run parts together. Where that fails, in halves, so that what one of them breaks is its own alone."""
    given = [_given(part) for part in parts]
    try:
        if len(parts) == 1:
            return [served.run(given[0])]
        outputs = served.run(_joined(given))
    except Exception as error:  # noqa: BLE001  whatever a model does, it is the answer to the requests in the batch
        if len(parts) == 1:
            return [error]
        half = len(parts) // 2
        return [*_results(served, parts[:half]), *_results(served, parts[half:])]
    results: list[dict[str, NDArray[Any]] | Exception] = []
    start = 0
    for part in parts:
        results.append({name: array[start : start + part.rows] for name, array in outputs.items()})
        start += part.rows
    return results
