"""One model behind the Open Inference Protocol v2: an RSGI application (Granian's interface).

Requests arrive on one event loop, which decodes and encodes small ones itself; large ones, preprocessing and inference
run in threads beside it, so that health answers come while a model works. While draining, readiness is gone and new
inference is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serving.body import Headers, read_body
from serving.front import EXTENSIONS, SERVER_NAME, SERVER_VERSION, Failure, Front, beside
from serving.inference import Answer, Inference
from serving.observation import REQUEST_ID, Observer
from serving.package import Served
from serving.protocol import (
    HEADER_LENGTH,
    Response,
    error_response,
    infer_response,
    json_response,
    parse_request,
    tensor_metadata,
)
from serving.request import InferRequest, largest_request_bytes

#: A further page: what a GET is answered, given its header `accept`, empty where there is none.
Page = Callable[[str], Response]


class _Scope(Protocol):
    """RSGI's request scope (Granian's specification, "HTTP protocol")."""

    proto: str
    http_version: str
    method: str
    path: str

    @property
    def headers(self) -> Headers: ...


class Application:
    """Routes requests to one model. The callable is an RSGI application.

    `pages` are further paths that answer GET, such as `/metrics`. `front` is what other protocols share with this one.
    """

    def __init__(
        self,
        served: Served,
        inference: Inference,
        observer: Observer | None = None,
        pages: Mapping[str, Page] | None = None,
    ) -> None:
        contract = served.contract
        self.front = front = Front(served, inference, observer)
        self._pages: dict[str, Page] = {"/openapi.json": self._openapi, **(pages or {})}
        self._limit = largest_request_bytes(served.raw)
        self._server = json_response({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)})
        self._model = json_response(
            {
                "name": contract.name,
                "versions": [contract.version],
                "platform": front.platform,
                "inputs": [tensor_metadata(spec) for spec in served.raw.inputs],
                "outputs": [tensor_metadata(spec) for spec in contract.signature.outputs],
            }
        )
        self._live = json_response({"live": True})
        self._description: Response | None = None

    async def __call__(self, scope: _Scope, proto: Any) -> None:
        response = await self._respond(scope, proto)
        proto.response_bytes(response.status, list(response.headers), response.body)

    async def _respond(self, scope: _Scope, proto: Any) -> Response:
        match scope.path.removesuffix("/").split("/")[1:]:
            case ["v2"]:
                return _get(scope, self._server)
            case ["v2", "health", "live"]:
                return _get(scope, self._live)
            case ["v2", "health", "ready"]:
                return _get(scope, self._ready({"ready": self.front.ready}))
            case ["v2", "models", name, *rest]:
                return await self._respond_model(scope, proto, name, rest)
            case _ if scope.path in self._pages:
                return _get(scope, self._pages[scope.path](scope.headers.get("accept") or ""))
        return error_response(404, f"there is no {scope.path}; the protocol's paths start at /v2")

    async def _respond_model(self, scope: _Scope, proto: Any, name: str, rest: list[str]) -> Response:
        version = None
        if rest[:1] == ["versions"]:
            version, rest = "/".join(rest[1:2]), rest[2:]
        if unknown := self.front.unknown(name, version):
            return error_response(404, unknown)
        match rest:
            case []:
                return _get(scope, self._model)
            case ["ready"]:
                return _get(scope, self._ready({"name": name, "ready": self.front.ready}))
            case ["infer"]:
                return await self._infer(scope, proto)
        return error_response(404, f"there is no {scope.path}; a model has /ready and /infer")

    def _ready(self, content: dict[str, object]) -> Response:
        return json_response(content, 200 if self.front.ready else 503)

    def _openapi(self, _accept: str) -> Response:
        """Built when somebody asks: most servers are never asked."""
        if self._description is None:
            from serving.openapi import describe

            served = self.front.served
            self._description = json_response(describe(served.contract, served.raw))
        return self._description

    async def _infer(self, scope: _Scope, proto: Any) -> Response:
        if scope.method != "POST":
            return _wrong_method(scope, "POST")
        served = self.front.served
        contract = served.contract

        async def read() -> InferRequest:
            body = await read_body(scope.headers, proto, self._limit)
            return await beside(len(body), parse_request, body, scope.headers.get(HEADER_LENGTH), served.raw)

        async def write(request: InferRequest, answer: Answer) -> Response:
            size = sum(array.nbytes for array in answer.outputs.values())
            outputs, signature = answer.outputs, contract.signature
            return await beside(size, infer_response, request, outputs, signature, contract.name, contract.version)

        def refuse(failure: Failure) -> Response:
            response = error_response(failure.status, failure.message)
            headers = response.headers
            if failure.retry_after_s is not None:
                headers = (*headers, ("retry-after", str(failure.retry_after_s)))
            if failure.status == 413 and not scope.http_version.startswith("2"):
                # The rest of the body is not read, so no other request may follow on this connection.
                headers = (*headers, ("connection", "close"))
            return Response(failure.status, response.body, headers)

        response, identity = await self.front.infer("http", read, write, refuse, called=scope.headers.get(REQUEST_ID))
        return Response(response.status, response.body, (*response.headers, (REQUEST_ID, identity)))


def _get(scope: _Scope, response: Response) -> Response:
    return response if scope.method == "GET" else _wrong_method(scope, "GET")


def _wrong_method(scope: _Scope, allowed: str) -> Response:
    response = error_response(405, f"{scope.path} takes {allowed}, found {scope.method}")
    return Response(405, response.body, (*response.headers, ("allow", allowed)))
