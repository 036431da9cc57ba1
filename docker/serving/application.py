"""One model behind the Open Inference Protocol v2: an ASGI application.

Requests arrive on one event loop, which decodes and encodes small ones itself; large ones, preprocessing and inference
run in threads beside it, so that health answers come while a model works. While draining, readiness is gone and new
inference is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.body import Headers, Receive, Room, read_body
from serving.front import EXTENSIONS, SERVER_NAME, SERVER_VERSION, ClientGone, Failure, Front, Refused, beside
from serving.inference import Answer, Inference
from serving.machine import memory_limit
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
#: Takes the messages of a response.
Send = Callable[[dict[str, Any]], Awaitable[None]]


#: The share of the container's memory that may hold what has arrived of requests that are not whole: a quarter, beside
#: the runtime, the model and the queue.
_ARRIVING_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """An HTTP request, but for its body."""

    method: str
    path: str
    headers: Headers
    scope: Mapping[str, Any]


class Application:
    """Routes requests to one model. The callable is an ASGI application ("HTTP & WebSocket ASGI Message Format").

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
        memory = memory_limit()
        self._room = Room(None if memory is None else int(memory * _ARRIVING_SHARE))
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

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        response = await self._respond(Asked(scope["method"], scope["path"], headers, scope), receive)
        fields = [(name.encode(), value.encode("latin-1")) for name, value in response.headers]
        fields.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.status, "headers": fields})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, asked: Asked, receive: Receive) -> Response:
        match asked.path.removesuffix("/").split("/")[1:]:
            case ["v2"]:
                return _get(asked, self._server)
            case ["v2", "health", "live"]:
                return _get(asked, self._live)
            case ["v2", "health", "ready"]:
                return _get(asked, self._ready({"ready": self.front.ready}))
            case ["v2", "models", name, *rest]:
                return await self._respond_model(asked, receive, name, rest)
            case _ if asked.path in self._pages:
                return _get(asked, self._pages[asked.path](asked.headers.get("accept") or ""))
        return error_response(404, f"there is no {asked.path}; the protocol's paths start at /v2")

    async def _respond_model(self, asked: Asked, receive: Receive, name: str, rest: list[str]) -> Response:
        version = None
        if rest[:1] == ["versions"]:
            version, rest = "/".join(rest[1:2]), rest[2:]
        if unknown := self.front.unknown(name, version):
            if rest == ["infer"]:
                error = Refused(404, "not_found", unknown)
                self.front.refused("http", error, asked.headers.get(REQUEST_ID))
            return error_response(404, unknown)
        match rest:
            case []:
                return _get(asked, self._model)
            case ["ready"]:
                return _get(asked, self._ready({"name": name, "ready": self.front.ready}))
            case ["infer"]:
                return await self._infer(asked, receive)
        return error_response(404, f"there is no {asked.path}; a model has /ready and /infer")

    def _ready(self, content: dict[str, object]) -> Response:
        return json_response(content, 200 if self.front.ready else 503)

    def _openapi(self, _accept: str) -> Response:
        """Built when somebody asks: most servers are never asked."""
        if self._description is None:
            from serving.openapi import describe

            served = self.front.served
            self._description = json_response(describe(served.contract, served.raw))
        return self._description

    async def _infer(self, asked: Asked, receive: Receive) -> Response:
        if asked.method != "POST":
            return _wrong_method(asked, "POST")
        served = self.front.served
        contract = served.contract

        async def read() -> InferRequest:
            try:
                body = await read_body(asked.headers, receive, self._limit, self._room)
            except ClientGone as error:
                raise asked.scope.get("refusal", error) from None  # it was the listener that gave it up
            return await beside(len(body), parse_request, body, asked.headers.get(HEADER_LENGTH), served.raw)

        async def write(request: InferRequest, answer: Answer) -> Response:
            size = sum(array.nbytes for array in answer.outputs.values())
            outputs, signature = answer.outputs, contract.signature
            return await beside(size, infer_response, request, outputs, signature, contract.name, contract.version)

        def refuse(failure: Failure) -> Response:
            response = error_response(failure.status, failure.message)
            headers = response.headers
            if failure.kind == "draining":
                headers = (*headers, ("connection", "close"))
            if failure.retry_after_s is not None:
                headers = (*headers, ("retry-after", str(failure.retry_after_s)))
            return Response(failure.status, response.body, headers)

        response, identity = await self.front.infer("http", read, write, refuse, called=asked.headers.get(REQUEST_ID))
        return Response(response.status, response.body, (*response.headers, (REQUEST_ID, identity)))


def _get(asked: Asked, response: Response) -> Response:
    return response if asked.method in ("GET", "HEAD") else _wrong_method(asked, "GET, HEAD")


def _wrong_method(asked: Asked, allowed: str) -> Response:
    response = error_response(405, f"{asked.path} takes {allowed}, found {asked.method}")
    return Response(405, response.body, (*response.headers, ("allow", allowed)))
