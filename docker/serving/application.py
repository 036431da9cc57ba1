"""One model behind the Open Inference Protocol v2: an RSGI application (Granian's interface).

Requests arrive on one event loop, which decodes and encodes small ones itself; large ones, preprocessing and inference
run in threads beside it, so that health answers come while a model works. While draining, readiness is gone and new
inference is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any, Protocol, TypeVar

from serving.inference import Answer, DeadlineExceeded, Inference, Overloaded
from serving.observation import REQUEST_ID, Nobody, Observer, Outcome, request_id
from serving.package import Served, WrongAnswer
from serving.protocol import (
    HEADER_LENGTH,
    InferRequest,
    Response,
    UnspeakableOutput,
    error_response,
    infer_response,
    json_response,
    largest_request_bytes,
    parse_request,
    tensor_metadata,
)
from serving.runners import RunnerError
from serving.tensors import BadRequest

#: Format → the protocol's "platform", `<project>_<format>`.
_PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel", "torch": "pytorch_export"}

#: Bodies up to this length are decoded and encoded on the event loop: a hop to a thread and back costs more than they
#: do (about 50 µs, against 10 µs for so many bytes of JSON).
_INLINE_BYTES = 1 << 14

T = TypeVar("T")

#: A further page: what a GET is answered, given its header `accept`, empty where there is none.
Page = Callable[[str], Response]


class _Headers(Protocol):
    def get(self, key: str, default: Any = None) -> Any: ...


class _Scope(Protocol):
    """RSGI's request scope (Granian's specification, "HTTP protocol")."""

    proto: str
    http_version: str
    method: str
    path: str

    @property
    def headers(self) -> _Headers: ...


class Application:
    """Routes requests to one model. The callable is an RSGI application.

    `pages` are further paths that answer GET, such as `/metrics`.
    """

    def __init__(
        self,
        served: Served,
        inference: Inference,
        observer: Observer | None = None,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        contract = served.contract
        self._served = served
        self._inference = inference
        self._observer = observer or Nobody()
        self._pages = dict(pages or {})
        self._limit = largest_request_bytes(served.raw)
        self._in_flight = 0
        self.draining = False
        self._server = json_response({"name": "slipway", "version": "2", "extensions": ["binary_tensor_data"]})
        self._model = json_response(
            {
                "name": contract.name,
                "versions": [contract.version],
                "platform": _PLATFORMS.get(contract.runtime, contract.runtime),
                "inputs": [tensor_metadata(spec) for spec in served.raw.inputs],
                "outputs": [tensor_metadata(spec) for spec in contract.signature.outputs],
            }
        )
        self._live = json_response({"live": True})

    async def __call__(self, scope: _Scope, proto: Any) -> None:
        response = await self._respond(scope, proto)
        proto.response_bytes(response.status, list(response.headers), response.body)

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

    async def _respond(self, scope: _Scope, proto: Any) -> Response:
        match scope.path.removesuffix("/").split("/")[1:]:
            case ["v2"]:
                return self._get(scope, self._server)
            case ["v2", "health", "live"]:
                return self._get(scope, self._live)
            case ["v2", "health", "ready"]:
                return self._get(scope, self._ready({"ready": not self.draining}))
            case ["v2", "models", name, *rest]:
                return await self._respond_model(scope, proto, name, rest)
            case _ if scope.path in self._pages:
                return self._get(scope, self._pages[scope.path](scope.headers.get("accept") or ""))
        return error_response(404, f"there is no {scope.path}; the protocol's paths start at /v2")

    async def _respond_model(self, scope: _Scope, proto: Any, name: str, rest: list[str]) -> Response:
        contract = self._served.contract
        if name != contract.name:
            return error_response(404, f"there is no model {name!r}; this server has {contract.name!r}")
        if rest[:1] == ["versions"]:
            version, rest = "/".join(rest[1:2]), rest[2:]
            if version != contract.version:
                return error_response(
                    404, f"there is no version {version!r} of {name!r}; this server has {contract.version!r}"
                )
        match rest:
            case []:
                return self._get(scope, self._model)
            case ["ready"]:
                return self._get(scope, self._ready({"name": name, "ready": not self.draining}))
            case ["infer"]:
                return await self._infer(scope, proto)
        return error_response(404, f"there is no {scope.path}; a model has /ready and /infer")

    def _get(self, scope: _Scope, response: Response) -> Response:
        return response if scope.method == "GET" else _wrong_method(scope, "GET")

    def _ready(self, content: dict[str, object]) -> Response:
        return json_response(content, 503 if self.draining else 200)

    async def _infer(self, scope: _Scope, proto: Any) -> Response:
        if scope.method != "POST":
            return _wrong_method(scope, "POST")
        began = time.monotonic()
        self._in_flight += 1
        outcome = Outcome(None, "http", 500, 0.0, "internal")
        try:
            response, outcome = await self._observed(scope, proto)
        finally:
            self._in_flight -= 1
            identity = request_id(outcome.id, scope.headers.get(REQUEST_ID))
            outcome = replace(outcome, id=identity, total_s=time.monotonic() - began)
            # Watching is not the client's time: it comes once the response was written.
            asyncio.get_running_loop().call_soon(self._observer.observe, outcome)
        return replace(response, headers=(*response.headers, (REQUEST_ID, identity)))

    async def _observed(self, scope: _Scope, proto: Any) -> tuple[Response, Outcome]:
        """A whole inference. Whatever happens, there is a response."""
        request: InferRequest | None = None
        answer: Answer | None = None
        try:
            if self.draining:
                raise _Refused(503, "draining", "the server is shutting down", ("retry-after", "1"))
            encoding = scope.headers.get("content-encoding")
            if encoding not in (None, "identity"):
                raise _Refused(415, "bad_request", f"requests must not be encoded, found Content-Encoding {encoding!r}")
            body = await self._body(scope, proto)
            request = await _beside(len(body), parse_request, body, scope.headers.get(HEADER_LENGTH), self._served.raw)
            answer = await self._inference.answer(request.inputs)
            response = await _beside(
                sum(array.nbytes for array in answer.outputs.values()),
                self._encode, request, answer,
            )  # fmt: skip
            return response, Outcome(request.id, "http", 200, 0.0, inputs=request.inputs, answer=answer)
        except Exception as error:  # noqa: BLE001  a request must never take the server down
            status, kind, message, headers = _refusal(error)
            response = error_response(status, message)
            identity, inputs = (None, None) if request is None else (request.id, request.inputs)
            refused = (error.input, error.reason) if isinstance(error, BadRequest) and error.input else None
            outcome = Outcome(identity, "http", status, 0.0, kind, message, inputs, answer, refused)
            return replace(response, headers=(*response.headers, *headers)), outcome

    def _encode(self, request: InferRequest, answer: Answer) -> Response:
        contract = self._served.contract
        return infer_response(request, answer.outputs, contract.signature, contract.name, contract.version)

    def _too_long(self, scope: _Scope) -> Exception:
        """413, and the connection ends: its rest is not read, so no other request may follow on it."""
        closing = () if scope.http_version.startswith("2") else (("connection", "close"),)
        return _Refused(
            413, "too_large", f"a request that fits the contract is at most {self._limit} bytes long", *closing
        )

    async def _body(self, scope: _Scope, proto: Any) -> bytes:
        """The request's body.

        Raises:
            _Refused: it is longer than any that fits.
        """
        if self._limit is None:
            return bytes(await proto())
        length = scope.headers.get("content-length")
        if length is not None and length.isdigit():
            if int(length) > self._limit:
                raise self._too_long(scope)
            return bytes(await proto())
        received = bytearray()
        async for piece in proto:
            received += piece
            if len(received) > self._limit:
                raise self._too_long(scope)
        return bytes(received)


class _Refused(Exception):
    """A request that is not answered: status, kind of error (`Outcome.error`), sentence, further headers."""

    def __init__(self, status: int, kind: str, message: str, *headers: tuple[str, str]) -> None:
        self.status, self.kind, self.headers = status, kind, headers
        super().__init__(message)


def _refusal(error: Exception) -> tuple[int, str, str, tuple[tuple[str, str], ...]]:
    """What an error is to the client: status, kind, sentence, further headers."""
    match error:
        case _Refused():
            return error.status, error.kind, str(error), error.headers
        case BadRequest():
            return 400, "bad_request", str(error), ()
        case Overloaded():
            return 503, "overloaded", str(error), (("retry-after", str(ceil(error.retry_after_s))),)
        case DeadlineExceeded():
            return 504, "deadline", str(error), ()
        case UnspeakableOutput() | RunnerError() | WrongAnswer():
            return 500, "model", str(error), ()
    return 500, "internal", f"the server failed on this request: {type(error).__name__}", ()


async def _beside(size_bytes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do the work here when it is small, else in a thread beside the event loop."""
    if size_bytes <= _INLINE_BYTES:
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def _wrong_method(scope: _Scope, allowed: str) -> Response:
    response = error_response(405, f"{scope.path} takes {allowed}, found {scope.method}")
    return Response(405, response.body, (*response.headers, ("allow", allowed)))
