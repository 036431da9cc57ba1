"""What HTTP and gRPC have in common: one request through, whatever happens, and what became of it told to an observer.

A front brings three functions: how a request is read from its protocol, how the answer is written, and how a failure
is said. Between them lie readiness, the deadline, and the one way in (`serving.inference`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

from serving.inference import Answer, DeadlineExceeded, Inference, Overloaded
from serving.observation import Nobody, Observer, Outcome, request_id
from serving.package import Served, WrongAnswer
from serving.request import InferRequest
from serving.runners import RunnerError
from serving.tensors import BadRequest

#: Bodies up to this length are decoded and encoded on the event loop: a hop to a thread and back costs more than they
#: do (about 50 µs, against 10 µs for so many bytes of JSON).
_INLINE_BYTES = 1 << 14
#: What a client that went away would have got: nginx's status for it, which no client ever sees.
_CLIENT_GONE = 499

#: Format → the protocol's "platform", `<project>_<format>`.
_PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel", "torch": "pytorch_export"}

#: What the server calls itself, in both protocols.
SERVER_NAME, SERVER_VERSION, EXTENSIONS = "slipway", "2", ("binary_tensor_data",)

T = TypeVar("T")
R = TypeVar("R")


class Refused(Exception):
    """A request that is not answered: status, kind of error (`Outcome.error`), sentence, seconds to wait."""

    def __init__(self, status: int, kind: str, message: str, retry_after_s: int | None = None) -> None:
        self.status, self.kind, self.retry_after_s = status, kind, retry_after_s
        super().__init__(message)


def draining() -> Refused:
    """The server takes no new requests: another one may."""
    return Refused(503, "draining", "the server is shutting down", retry_after_s=1)


class ClientGone(Refused):
    """The client went away before its request was whole."""

    def __init__(self) -> None:
        super().__init__(_CLIENT_GONE, "cancelled", "the client went away")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer: an HTTP status, which gRPC has a code for, and the sentence for the client."""

    status: int
    kind: str
    message: str
    retry_after_s: int | None = None


#: What happened, as long as nothing is known of it.
_UNKNOWN = Failure(500, "internal", "the server failed on this request")


class Front:
    """One model, as requests of any protocol reach it. `started` says that every protocol's port is open."""

    def __init__(self, served: Served, inference: Inference, observer: Observer | None = None) -> None:
        self.served = served
        self.started = True
        self.draining = False
        self._inference = inference
        self._observer = observer or Nobody()
        self._in_flight = 0

    @property
    def ready(self) -> bool:
        return self.started and not self.draining

    @property
    def platform(self) -> str:
        runtime = self.served.contract.runtime
        return _PLATFORMS.get(runtime, runtime)

    def unknown(self, name: str, version: str | None) -> str | None:
        """The sentence for a model or version that this server does not have; None where it has it."""
        contract = self.served.contract
        if name != contract.name:
            return f"there is no model {name!r}; this server has {contract.name!r}"
        if version is not None and version != contract.version:
            return f"there is no version {version!r} of {name!r}; this server has {contract.version!r}"
        return None

    @property
    def in_flight(self) -> int:
        """Inference requests that have come and are not answered yet."""
        return self._in_flight

    async def drained(self, grace_s: float) -> bool:
        """Wait until nothing is in flight; whether that came within `grace_s`."""
        deadline = time.monotonic() + grace_s
        while self._in_flight:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def refused(self, protocol: str, error: Refused, called: str | None = None) -> None:
        """Tell the observer of a request that did not get as far as `infer`."""
        outcome = Outcome(request_id(called), protocol, error.status, 0.0, error.kind, str(error))
        asyncio.get_running_loop().call_soon(self._observer.observe, outcome)

    async def infer(
        self,
        protocol: str,
        read: Callable[[], Awaitable[InferRequest]],
        write: Callable[[InferRequest, Answer], Awaitable[T]],
        refuse: Callable[[Failure], R],
        waits_s: float | None = None,
        called: str | None = None,
    ) -> tuple[T | R, str]:
        """One inference. Whatever happens, there is a response; with it comes the request's id.

        `waits_s` is how long the client waits as far as the connection says it; the request may say less. `called` is
        what the connection calls the request (`x-request-id`), should it have no id itself.
        """
        began = time.monotonic()
        decode_s = postprocess_s = 0.0
        self._in_flight += 1
        request: InferRequest | None = None
        answer: Answer | None = None
        refused_input: tuple[str, str] | None = None
        failure: Failure | None = _UNKNOWN
        try:
            if self.draining:
                raise draining()
            request = await read()
            decode_s = time.monotonic() - began
            waits = [seconds for seconds in (waits_s, request.timeout_s) if seconds is not None]
            answer = await self._inference.answer(request.inputs, began + min(waits) if waits else None)
            answered = time.monotonic()
            response: T | R = await write(request, answer)
            postprocess_s = time.monotonic() - answered
            failure = None
        except asyncio.CancelledError:
            failure = failure_of(ClientGone())
            raise
        except Exception as error:  # noqa: BLE001  a request must never take the server down
            failure = failure_of(error)
            if isinstance(error, BadRequest) and error.input:
                refused_input = (error.input, error.reason)
            response = refuse(failure)
        finally:
            self._in_flight -= 1
            identity = request_id(None if request is None else request.id, called)
            status, kind, message = (
                (200, "", "") if failure is None else (failure.status, failure.kind, failure.message)
            )
            inputs = None if request is None else request.inputs
            total_s = time.monotonic() - began
            outcome = Outcome(
                identity,
                protocol,
                status,
                total_s,
                kind,
                message,
                inputs,
                answer,
                refused_input,
                decode_s,
                postprocess_s,
            )
            # Watching is not the client's time: it comes once the response was written.
            asyncio.get_running_loop().call_soon(self._observer.observe, outcome)
        return response, identity


def failure_of(error: Exception) -> Failure:
    """What an error is to the client."""
    match error:
        case Refused():
            return Failure(error.status, error.kind, str(error), error.retry_after_s)
        case BadRequest():
            return Failure(400, "bad_request", str(error))
        case Overloaded():
            return Failure(503, "overloaded", str(error), ceil(error.retry_after_s))
        case DeadlineExceeded():
            return Failure(504, "deadline", str(error))
        case RunnerError() | WrongAnswer():
            return Failure(500, "model", str(error))
    return Failure(500, "internal", f"the server failed on this request: {type(error).__name__}")


async def beside(size_bytes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do the work here when it is small, else in a thread beside the event loop."""
    if size_bytes <= _INLINE_BYTES:
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)
