"""What becomes of a request that is not answered: the same failure, in HTTP's words, in gRPC's, and to the observer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from serving.application import Application
from serving.contract import DimRange, DType, ServingContract, Signature, TensorSpec
from serving.golden import Golden
from serving.inference import Answer, DeadlineExceeded, Inference, Overloaded, Timings
from serving.messages import MESSAGES
from serving.observation import Outcome
from serving.package import Served, WrongAnswer
from serving.rpc import Rpc
from serving.runners import RunnerError
from serving.tensors import BadRequest
from tests.integration.serving.process import free_port

SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch",)),),
    (TensorSpec("y", DType.FLOAT32, ("batch",)),),
    {"batch": DimRange(1, 4)},
)
CONTRACT = ServingContract("m", "1", "onnx", "onnx", "m.onnx", (), SIGNATURE, (), {}, "golden.npz", 4, {})
BODY = orjson.dumps({"id": "a", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]})


class Nothing:
    """A runner that is never asked."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise AssertionError("nobody runs the model here")

    def close(self) -> None:
        pass


class Answering(Inference):
    """Answers with what it is told: an error, or the input itself. Remembers the deadlines that it was given."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.deadlines: list[float | None] = []

    async def answer(self, inputs: Mapping[str, NDArray[Any]], deadline: float | None = None) -> Answer:
        self.deadlines.append(deadline)
        if self.error is not None:
            raise self.error
        return Answer({"y": inputs["x"]}, Timings(0, 0, 0, 1))


@dataclass
class Watching:
    """Keeps every outcome."""

    seen: list[Outcome] = field(default_factory=list)

    def observe(self, outcome: Outcome) -> None:
        self.seen.append(outcome)


@dataclass
class Exchange:
    """A request to the application and its response, as ASGI has them."""

    body: bytes = BODY
    headers: dict[str, str] = field(default_factory=lambda: {"content-length": str(len(BODY))})
    method: str = "POST"
    path: str = "/v2/models/m/infer"
    status: int = 0
    content: Any = None
    answered: dict[str, str] = field(default_factory=dict)

    async def answered_by(self, application: Application) -> Exchange:
        named = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": self.method, "path": self.path, "headers": named}
        await application(scope, self.receive, self.send)
        return self

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.content = orjson.loads(message["body"])


def application(error: BaseException | None = None) -> tuple[Application, Answering, Watching]:
    inference, watching = Answering(error), Watching()
    served = Served(CONTRACT, SIGNATURE, Golden({}, {}), Nothing())
    return Application(served, inference, watching), inference, watching


FAILURES = [
    (BadRequest("no"), 400, "bad_request", grpc.StatusCode.INVALID_ARGUMENT),
    (Overloaded("full", 2.5), 503, "overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceeded("late"), 504, "deadline", grpc.StatusCode.DEADLINE_EXCEEDED),
    (RunnerError("broke"), 500, "model", grpc.StatusCode.INTERNAL),
    (WrongAnswer("odd"), 500, "model", grpc.StatusCode.INTERNAL),
    (ZeroDivisionError("secret"), 500, "internal", grpc.StatusCode.INTERNAL),
]
NAMES = [type(error).__name__ for error, *_ in FAILURES]


@pytest.mark.parametrize(("error", "status", "kind", "code"), FAILURES, ids=NAMES)
def test_a_failure_has_its_status_and_is_observed(error: Exception, status: int, kind: str, code: Any) -> None:
    front, _, watching = application(error)
    exchange = asyncio.run(Exchange().answered_by(front))
    assert exchange.status == status
    assert exchange.content.keys() == {"error"}
    assert "secret" not in exchange.content["error"]
    assert exchange.answered.get("retry-after") == ("3" if kind == "overloaded" else None)
    [outcome] = watching.seen
    assert (outcome.id, outcome.protocol, outcome.status, outcome.error) == ("a", "http", status, kind)
    assert outcome.inputs is not None


@pytest.mark.parametrize(("error", "status", "kind", "code"), FAILURES, ids=NAMES)
def test_a_failure_has_its_code_over_grpc(error: Exception, status: int, kind: str, code: Any) -> None:
    front, _, watching = application(error)

    async def ask(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(channel)
        return caught.value

    failure = over_grpc(front, ask)
    assert failure.code() is code
    assert "secret" not in (failure.details() or "")
    pushback = dict(failure.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    assert pushback == ("3000" if kind == "overloaded" else None)
    [outcome] = watching.seen
    assert (outcome.protocol, outcome.status, outcome.error) == ("grpc", status, kind)


def test_an_answer_is_observed_with_what_reading_and_writing_took() -> None:
    front, _, watching = application()
    assert asyncio.run(Exchange().answered_by(front)).status == 200
    [outcome] = watching.seen
    assert outcome.decode_s > 0
    assert outcome.postprocess_s > 0
    assert outcome.decode_s + outcome.postprocess_s < outcome.total_s


def test_while_draining_http_and_grpc_refuse_and_are_not_ready() -> None:
    front, inference, watching = application()
    front.front.draining = True

    async def ask(channel: grpc.aio.Channel) -> tuple[Any, bytes, bytes]:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(channel)
        return caught.value, await ready(b""), await health(b"")

    refused, ready, health = over_grpc(front, ask)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert not MESSAGES["ServerReadyResponse"].FromString(ready).ready
    assert MESSAGES["HealthCheckResponse"].FromString(health).status == 2
    exchange = asyncio.run(Exchange().answered_by(front))
    assert (exchange.status, exchange.answered["retry-after"]) == (503, "1")
    assert [outcome.error for outcome in watching.seen] == ["draining", "draining"]
    assert inference.deadlines == []


def test_the_nearer_of_timeout_and_deadline_is_the_deadline() -> None:
    front, inference, _ = application()

    async def ask(channel: grpc.aio.Channel) -> None:
        for timeout_us, deadline_s in ((0, None), (5_000_000, None), (5_000_000, 90), (90_000_000, 5)):
            await infer(channel, timeout_us, deadline_s)

    began = time.monotonic()
    over_grpc(front, ask)
    first, *others = inference.deadlines
    assert first is None
    assert all(deadline is not None and began < deadline < began + 40 for deadline in others)


def test_a_call_that_its_client_gives_up_is_observed_as_cancelled() -> None:
    front, inference, watching = application()

    async def ask(channel: grpc.aio.Channel) -> None:
        reached = asyncio.Event()

        async def never(inputs: Any, deadline: float | None = None) -> Answer:
            reached.set()
            await asyncio.Future()
            raise AssertionError

        inference.answer = never  # type: ignore[method-assign]
        call = asyncio.ensure_future(infer(channel))
        await reached.wait()
        call.cancel()
        while not watching.seen:
            await asyncio.sleep(0.005)

    over_grpc(front, ask)
    assert [(outcome.status, outcome.error) for outcome in watching.seen] == [(499, "cancelled")]
    assert asyncio.run(front.front.drained(0))


async def infer(channel: grpc.aio.Channel, timeout_us: int = 0, deadline_s: float | None = None) -> Any:
    request = MESSAGES["ModelInferRequest"](model_name="m", id="a")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(1)
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    response = MESSAGES["ModelInferResponse"].FromString(await call(request.SerializeToString(), timeout=deadline_s))
    assert np.float32(response.outputs[0].contents.fp32_contents[0]) == 1
    return response


def over_grpc(front: Application, ask: Any) -> Any:
    """What `ask(channel)` comes to, against a gRPC server in this process."""

    async def run() -> Any:
        address = f"127.0.0.1:{free_port()}"
        server = Rpc(front.front, address)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                return await ask(channel)
        finally:
            await server.stop(0)

    return asyncio.run(run())
