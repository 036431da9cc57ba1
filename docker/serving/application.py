"""One model behind the Open Inference Protocol v2: an RSGI application (Granian's interface).

Requests arrive on one event loop; decoding, preprocessing, inference and encoding run in a small thread pool beside
it, so that health answers come while a model works. While draining, readiness is gone and new inference is refused.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from serving.log import log
from serving.package import Served, WrongAnswer
from serving.protocol import (
    HEADER_LENGTH,
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
    """Routes requests to one model. The callable is an RSGI application."""

    def __init__(self, served: Served, pool: ThreadPoolExecutor) -> None:
        contract = served.contract
        self._served = served
        self._pool = pool
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

    async def drained(self, grace_s: float) -> bool:
        """Wait until nothing is in flight; whether that came within `grace_s`."""
        deadline = time.monotonic() + grace_s
        while self._in_flight:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _respond(self, scope: _Scope, proto: Any) -> Response:
        if scope.proto != "http":
            return error_response(400, "only HTTP is spoken here")
        match scope.path.removesuffix("/").split("/")[1:]:
            case ["v2"]:
                return self._get(scope, self._server)
            case ["v2", "health", "live"]:
                return self._get(scope, self._live)
            case ["v2", "health", "ready"]:
                return self._get(scope, self._ready({"ready": not self.draining}))
            case ["v2", "models", name, *rest]:
                return await self._respond_model(scope, proto, name, rest)
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
        if self.draining:
            refused = error_response(503, "the server is shutting down")
            return Response(503, refused.body, (*refused.headers, ("retry-after", "1")))
        encoding = scope.headers.get("content-encoding")
        if encoding not in (None, "identity"):
            return error_response(415, f"requests must not be encoded, found Content-Encoding {encoding!r}")
        self._in_flight += 1
        try:
            body = await self._body(scope, proto)
            if body is None:
                return self._too_long(scope)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._answer, body, scope.headers.get(HEADER_LENGTH))
        finally:
            self._in_flight -= 1

    def _too_long(self, scope: _Scope) -> Response:
        """413, and the connection ends: its rest is not read, so no other request may follow on it."""
        refused = error_response(413, f"a request that fits the contract is at most {self._limit} bytes long")
        closing = () if scope.http_version.startswith("2") else (("connection", "close"),)
        return Response(413, refused.body, (*refused.headers, *closing))

    async def _body(self, scope: _Scope, proto: Any) -> bytes | None:
        """The request's body; `None` when it is longer than any that fits."""
        if self._limit is None:
            return bytes(await proto())
        length = scope.headers.get("content-length")
        if length is not None and length.isdigit():
            return bytes(await proto()) if int(length) <= self._limit else None
        received = bytearray()
        async for piece in proto:
            received += piece
            if len(received) > self._limit:
                return None
        return bytes(received)

    def _answer(self, body: bytes, header_length: str | None) -> Response:
        """A whole inference, in a thread of the pool. Whatever happens, there is a response."""
        served = self._served
        contract = served.contract
        try:
            request = parse_request(body, header_length, served.raw)
            answers = served.predict(request.inputs)
            return infer_response(request, answers, contract.signature, contract.name, contract.version)
        except BadRequest as error:
            return error_response(400, str(error))
        except UnspeakableOutput as error:
            return error_response(500, str(error))
        except (RunnerError, WrongAnswer) as error:
            log("inference failed", error=str(error))
            return error_response(500, str(error))
        except Exception as error:  # noqa: BLE001  a request must never take the server down
            log("inference failed", error=f"{type(error).__name__}: {error}")
            return error_response(500, f"the server failed on this request: {type(error).__name__}")


def _wrong_method(scope: _Scope, allowed: str) -> Response:
    response = error_response(405, f"{scope.path} takes {allowed}, found {scope.method}")
    return Response(405, response.body, (*response.headers, ("allow", allowed)))
