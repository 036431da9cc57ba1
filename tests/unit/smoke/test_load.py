"""Asking a server: a real one on loopback, which is good or bad in ways that smoke must tell apart."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.load.client import Address, Broken, Connection, Reply, Unanswered, get
from tasks.load.openloop import Offered, Said
from tasks.smoke.load import Latency, ask, ask_at_once, compare, measure, merged
from tests.unit.smoke.servers import GOLDEN, PATH, Closing, Doubler, Hanging, Refusing, Shared, serving


def test_right_answers_are_counted_and_timed() -> None:
    with serving(Doubler()) as address:
        answers, times = ask(address, PATH, GOLDEN, [GOLDEN.sample(row, 3) for row in range(10)], timeout_s=5)
    assert (answers.asked, answers.right, answers.failed, answers.batches) == (10, 10, 0, (3,))
    assert len(times) == 10


def test_a_model_that_shares_state_is_right_alone_and_wrong_at_once() -> None:
    with serving(Shared()) as address:
        alone, _ = ask(address, PATH, GOLDEN, [GOLDEN.sample(row, 1) for row in range(8)], timeout_s=5)
        at_once = ask_at_once(address, PATH, GOLDEN, (1, 2, 7), clients=4, rounds=3, within_s=5, timeout_s=5)
    assert alone.right == alone.asked == 8
    assert at_once.wrong > 0
    assert at_once.first_wrong is not None


def test_a_good_model_is_right_at_once_with_every_batch_size() -> None:
    with serving(Doubler()) as address:
        answers = ask_at_once(address, PATH, GOLDEN, (1, 2, 32), clients=4, rounds=2, within_s=5, timeout_s=5)
    assert answers.asked == answers.right == 4 * 3 * 2
    assert (answers.clients, answers.batches) == (4, (1, 2, 32))


@pytest.mark.parametrize(("model", "kind"), [(Refusing, "refused"), (Closing, "broken"), (Hanging, "unanswered")])
def test_refused_closed_and_hanging_are_told_apart(model: Callable[[], Doubler], kind: str) -> None:
    bad = model()
    with serving(bad) as address:
        answers, _ = ask(address, PATH, GOLDEN, [GOLDEN.sample(0, 1)] * 2, timeout_s=0.2)
        at_once = ask_at_once(address, PATH, GOLDEN, (1,), clients=2, rounds=1, within_s=1, timeout_s=0.2)
        if isinstance(bad, Hanging):
            bad.over.set()
    assert getattr(answers, kind) == answers.asked == 2
    assert getattr(at_once, kind) == at_once.asked == 2


def test_a_dead_server_is_not_asked_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answers, times = ask(Address("127.0.0.1", port), PATH, GOLDEN, [GOLDEN.sample(0, 1)] * 500, timeout_s=1)
    assert (answers.asked, answers.broken, times) == (3, 3, ())


def said(message: int, values: list[float], times: int) -> Said:
    output = {"name": "y", "datatype": "FP64", "shape": [len(values)], "data": values}
    return Said(message, Reply(200, orjson.dumps({"outputs": [output]})), times)


def offered(*answers: Said, refused: int = 0, overloaded: int = 0, first_refusal: Reply | None = None) -> Offered:
    times = (1.0,) * sum(answer.times for answer in answers)
    return Offered(10, times, refused, 5, 0.0, overloaded=overloaded, said=answers, first_refusal=first_refusal)


def test_what_was_answered_under_load_is_compared_with_its_own_sample() -> None:
    samples = [GOLDEN.sample(1, 1), GOLDEN.sample(2, 1)]
    right = merged([compare(offered(said(0, [2.0], 7), said(1, [4.0], 8)), GOLDEN, samples)])
    assert (right.asked, right.right, right.first_wrong) == (15, 15, None)
    crossed = merged([compare(offered(said(0, [2.0], 7), said(1, [2.0], 1)), GOLDEN, samples)])
    assert (crossed.right, crossed.wrong) == (7, 1)
    assert crossed.first_wrong is not None


def test_too_many_at_once_is_no_fault_and_an_error_under_load_is() -> None:
    samples = [GOLDEN.sample(1, 1)]
    busy = merged([compare(offered(said(0, [2.0], 7), refused=4, overloaded=4), GOLDEN, samples)])
    assert (busy.asked, busy.right, busy.failed) == (7, 7, 0)
    broke = offered(said(0, [2.0], 7), refused=4, overloaded=3, first_refusal=Reply(500, b"no memory"))
    answers = merged([compare(broke, GOLDEN, samples)])
    assert (answers.asked, answers.refused) == (8, 1)
    assert answers.first_refused is not None
    assert answers.first_refused.complaint == "status 500: no memory"


def test_latency_drops_the_warm_up() -> None:
    with serving(Doubler()) as address:
        answers, latency = measure(
            address, PATH, GOLDEN, 1, warmup=5, requests=20, at_least=5, within_s=10, timeout_s=5
        )
    assert answers.asked == answers.right == 25
    assert len(latency.times_ms) == 20


def test_latency_stops_when_the_time_is_over_but_not_before_enough_were_seen() -> None:
    with serving(Doubler()) as address:
        _, latency = measure(address, PATH, GOLDEN, 1, warmup=2, requests=10_000, at_least=7, within_s=0, timeout_s=5)
    assert len(latency.times_ms) == 7


def test_a_percentile_is_a_time_that_was_seen_and_none_of_nothing() -> None:
    assert Latency((), 1).percentile(0.99) is None
    assert Latency(tuple(float(value) for value in range(1, 101)), 1).percentile(0.99) == 99.0
    assert Latency((3.0, 1.0, 2.0), 1).percentile(0.5) == 2.0
    assert Latency((3.0, 1.0, 2.0), 1).percentile(0.99) == 3.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_not_exceeded_by_its_share_of_requests(times: list[float], share: float) -> None:
    bound = Latency(tuple(times), 1).percentile(share)
    assert bound in times
    assert sum(time <= bound for time in times) >= share * len(times) - 1e-9


@contextlib.contextmanager
def saying(*pieces: bytes) -> Iterator[Address]:
    """A server that says the same to everybody, piece by piece, and closes."""

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        yield Address("127.0.0.1", listener.getsockname()[1])
        thread.join()


def test_an_answer_in_pieces_is_put_together() -> None:
    pieces = (b"HTTP/1.1 200 OK\r\nCont", b"ent-Length: 4\r\n\r", b"\nab", b"cd")
    with saying(*pieces) as address, Connection(address, 5) as connection:
        reply = connection.request(get("/"))
    assert (reply.status, reply.body) == (200, b"abcd")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_half_an_answer_is_broken(answer: bytes) -> None:
    with saying(answer) as address, Connection(address, 5) as connection, pytest.raises(Broken):
        connection.request(get("/"))


def test_silence_is_unanswered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
        with Connection(address, 0.1) as connection, pytest.raises(Unanswered):
            connection.request(get("/"))
