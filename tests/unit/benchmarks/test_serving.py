"""The driver of `make bench-serving`: what it counts as a request's latency, and what it calls a right answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.serving.candidates import PEERS, Candidate
from benchmarks.serving.load import Arrival, drive, poisson
from benchmarks.serving.models import Model, mlp
from benchmarks.serving.wire import BENTOML, LITSERVE, MLFLOW, OIP_BINARY, OIP_JSON, Answer, Wire, read_answer
from tasks.image import RUNTIMES
from tasks.image.libraries import locked_versions

_ASK = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[int]:
    """The port of a server of one connection; it sends `answer(n)` to the n-th request, and ends for `b""`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                count = 0
                while connection.recv(1 << 16):
                    said = answer(count)
                    count += 1
                    if not said:
                        return
                    connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join()


def test_the_wait_behind_a_server_that_stands_still_is_counted() -> None:
    stalls_s = 0.3

    def answer(count: int) -> bytes:
        if not count:
            time.sleep(stalls_s)
        return _ANSWER

    with answering(answer) as port:
        load = drive(port, [_ASK], [Arrival(0.0, 0), Arrival(0.1, 0), Arrival(0.2, 0)], connections=1)
    # A closed loop would have asked the second and third only after the stall, and found them quick.
    waited = sorted(load.latencies[0], reverse=True)
    assert all(took >= least for took, least in zip(waited, (stalls_s, stalls_s - 0.1, stalls_s - 0.2), strict=True))


def test_refusals_are_failures_and_have_no_latency() -> None:
    with answering(lambda _: b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n") as port:
        load = drive(port, [_ASK], [Arrival(0.0, 0), Arrival(0.01, 0)], connections=1)
    assert (load.failed, load.latencies[0]) == (2, ())


def test_a_closed_connection_fails_its_request_and_those_that_find_none() -> None:
    with answering(lambda _: b"") as port:
        load = drive(port, [_ASK], [Arrival(0.0, 0), Arrival(0.01, 0)], connections=1)
    assert (load.failed, load.latencies[0]) == (2, ())


def test_a_plan_has_its_rate_and_exactly_its_share_of_slow_requests() -> None:
    plan = poisson(1000, 10, every_nth_slow=100)
    assert sum(arrival.kind for arrival in plan) == 100
    assert plan[-1].at_s == pytest.approx(10, rel=0.05)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return mlp(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peers_run_the_onnxruntime_of_slipways_image(peer: Candidate) -> None:
    # Another version would be measured instead of another server: `make lock` after their requirements.in was changed.
    expected = RUNTIMES["onnx"].versions["onnxruntime"]
    assert locked_versions(peer.lock)["onnxruntime"] == expected


def _http(body: bytes, header: bytes = b"") -> Answer:
    answer = read_answer(b"HTTP/1.1 200 OK\r\n" + header + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (OIP_JSON, '{{"outputs": [{{"shape": [2, 10], "data": {flat}}}]}}'),
        (BENTOML, "{nested}"),
        (LITSERVE, '{{"y": {nested}}}'),
        (MLFLOW, '{{"predictions": {{"y": {nested}}}}}'),
    ],
    ids=lambda value: value.name if isinstance(value, Wire) else "",
)
def test_a_servers_answer_is_right_only_when_it_is_bare_onnxruntimes(model: Model, wire: Wire, body: str) -> None:
    expected = model.answers(model.rows(2))
    right, wrong = (
        _http(body.format(flat=values.ravel().tolist(), nested=values.tolist()).encode())
        for values in (expected, expected[::-1])
    )
    assert wire.is_right(right, expected)
    assert not wire.is_right(wrong, expected)


def test_a_binary_answer_is_read_behind_its_header(model: Model) -> None:
    expected = model.answers(model.rows(2))
    envelope = b'{"outputs": [{"shape": [2, 10], "parameters": {"binary_data_size": 80}}]}'
    answer = _http(envelope + expected.tobytes(), b"inference-header-content-length: %d\r\n" % len(envelope))
    assert OIP_BINARY.is_right(answer, expected)
    assert not OIP_BINARY.is_right(answer, expected + np.float32(0.01))
