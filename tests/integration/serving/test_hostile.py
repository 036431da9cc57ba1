"""Whatever is sent, there is an answer of the protocol, and a short one: asked in process, of the real application."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.application import Application
from serving.inference import Inference
from serving.package import open_package
from serving.protocol import HEADER_LENGTH
from tests.integration.serving.echo import SIGNATURE, samples, write_package

#: Enough to meet every branch on most days; each is a whole request.
few = settings(max_examples=40)

#: What a client may be told of a request that it made wrong: 500 is never the client's doing.
STATUSES = {200, 400, 413, 415, 504}
#: What no answer to a mistake exceeds, however long the mistake is.
SENTENCE_BYTES = 1000


class Exchange:
    """One request and its response, as ASGI has them; the body arrives in pieces of 64 KiB."""

    def __init__(self, body: bytes) -> None:
        self._left = body
        self.status, self.headers, self.content = 0, dict[str, str](), b""

    async def receive(self) -> dict[str, Any]:
        piece, self._left = self._left[: 1 << 16], self._left[1 << 16 :]
        return {"type": "http.request", "body": piece, "more_body": bool(self._left)}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.content = message["body"]


Ask = Callable[..., Exchange]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    served = open_package(write_package(tmp_path_factory.mktemp("echo") / "package"), 1)
    with ThreadPoolExecutor(1) as pool, asyncio.Runner() as runner:
        application = Application(served, Inference(served, pool))

        def ask(body: bytes, headers: Mapping[str, str] | None = None, path: str = "/v2/models/echo/infer") -> Exchange:
            exchange = Exchange(body)
            named = [(name.encode(), value.encode("latin-1", "replace")) for name, value in (headers or {}).items()]
            scope = {"type": "http", "method": "POST", "path": path, "headers": named}
            runner.run(application(scope, exchange.receive, exchange.send))
            return exchange

        yield ask
    served.runner.close()


def check(exchange: Exchange) -> None:
    assert exchange.status in STATUSES
    if exchange.status != 200:
        assert orjson.loads(exchange.content).keys() == {"error"}
        assert len(exchange.content) < SENTENCE_BYTES


def request(**changes: Any) -> dict[str, Any]:
    """A good request, with other values in the tensor of unsigned bytes."""
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.dtype.protocol_name,
            "shape": [2, 3],
            "data": samples()[spec.name].tolist(),
        }
        for spec in SIGNATURE.inputs
    ]
    inputs[1] |= changes
    return {"inputs": inputs}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SIZES = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, 2, 2**31, 2**32, 2**40, 2**62])
LENGTHS = st.text(max_size=12) | SIZES.map(str) | st.integers(0, 80).map(str) | st.just("9" * 5000)


def test_a_good_request_is_answered(ask: Ask) -> None:
    assert ask(orjson.dumps(request())).status == 200


@few
@given(body=st.binary(max_size=200), length=st.none() | LENGTHS)
@example(body=b"{}", length="9" * 5000)
@example(body=b'{"inputs": [{"name": "\xff"}]}', length=None)
def test_any_bytes_with_any_header_length(ask: Ask, body: bytes, length: str | None) -> None:
    check(ask(body, {} if length is None else {HEADER_LENGTH: length}))


@few
@given(key=st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), value=JSON)
def test_any_json_in_a_tensor(ask: Ask, key: str, value: Any) -> None:
    check(ask(orjson.dumps(request(**{key: value}))))


@few
@given(key=st.sampled_from(["id", "parameters", "inputs", "outputs", "other"]), value=JSON)
def test_any_json_in_a_request(ask: Ask, key: str, value: Any) -> None:
    check(ask(orjson.dumps(request() | {key: value})))


@few
@given(shape=st.lists(SIZES, max_size=6))
@example(shape=[2**40])
@example(shape=[2**40, 2**40])
@example(shape=[1] * 10_000)
def test_any_shape(ask: Ask, shape: list[int]) -> None:
    check(ask(orjson.dumps(request(shape=shape))))


@few
@given(size=SIZES, rest=st.binary(max_size=30), length=LENGTHS | st.none())
def test_any_size_of_a_binary_tensor(ask: Ask, size: int, rest: bytes, length: str | None) -> None:
    content = request(parameters={"binary_data_size": size})
    del content["inputs"][1]["data"]
    envelope = orjson.dumps(content)
    check(ask(envelope + rest, {HEADER_LENGTH: str(len(envelope)) if length is None else length}))


@few
@given(parameters=st.dictionaries(st.text(max_size=8) | st.sampled_from(
    ["timeout", "priority", "sequence_id", "binary_data_output", "triton_x", "shared_memory_region"]
), JSON, max_size=4))  # fmt: skip
@example(parameters={"x" * 100_000: None})
@example(parameters={"timeout": 1e300})
def test_any_parameters(ask: Ask, parameters: dict[str, Any]) -> None:
    check(ask(orjson.dumps(request() | {"parameters": parameters})))
    check(ask(orjson.dumps(request() | {"outputs": [{"name": "int8_out", "parameters": parameters}]})))


@few
@given(kind=st.text(max_size=20), encoding=st.sampled_from(["gzip", "deflate", "identity", "br", ""]), body=st.binary())
def test_any_content_type_and_encoding(ask: Ask, kind: str, encoding: str, body: bytes) -> None:
    check(ask(body, {"content-type": kind, "content-encoding": encoding}))


@few
@given(path=st.text(max_size=40).map(lambda text: f"/v2/models/{text}"))
def test_any_path_is_found_or_not(ask: Ask, path: str) -> None:
    assert ask(b"", path=path).status in (404, 405)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"inputs": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"inputs": [{"name": "uint8", "data": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}]}",
        b'{"id": "\xed\xa0\x80"}',
        b'{"inputs": [{"name": "uint8", "shape": [1' + b"0" * 5000 + b"]}]}",
    ],
    ids=["unclosed", "deep", "deep data", "half a surrogate", "a number of 5000 digits"],
)
def test_json_that_breaks_readers_is_400(ask: Ask, body: bytes) -> None:
    exchange = ask(body)
    check(exchange)
    assert exchange.status == 400


@pytest.mark.parametrize("shape", [[2**40, 2**20], [4, 8], [2**63 - 1, 1]])
def test_memory_follows_what_was_sent_and_not_what_was_promised(ask: Ask, shape: list[int]) -> None:
    content = request(shape=shape, parameters={"binary_data_size": 2**50})
    del content["inputs"][1]["data"]
    body = orjson.dumps(content)
    tracemalloc.start()
    try:
        assert ask(body, {HEADER_LENGTH: str(len(body))}).status == 400
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
