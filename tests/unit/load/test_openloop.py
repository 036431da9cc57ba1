"""A load that does not wait for answers: what is counted, from when, and what was answered."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import pytest

from tasks.load.client import Address, get
from tasks.load.openloop import Offered, arrivals, crowd, offer
from tests.unit.load.stalling import stalling


def test_a_refusal_and_a_missing_answer_are_late() -> None:
    offered = Offered(10, (1.0, 2.0, 30.0), refused=2, unanswered=1, late_send_ms=0)
    assert (offered.asked, offered.late(10.0)) == (6, 4)


def test_a_percentile_that_was_never_answered_is_none() -> None:
    offered = Offered(10, (1.0, 2.0, 3.0), refused=1, unanswered=0, late_send_ms=0)
    assert (offered.percentile(0.5), offered.percentile(0.99)) == (2.0, None)


def test_arrivals_are_a_poisson_process() -> None:
    times = list(arrivals(1000, 20, seed=1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(1 / 1000, rel=0.05)
    assert variance == pytest.approx(mean**2, rel=0.1)  # the exponential's


def test_requests_arrive_while_the_server_stalls() -> None:
    expected = len(list(arrivals(200, 0.3, seed=1)))

    def open_when_all_are_there() -> None:
        while server.asked < expected:
            time.sleep(0.001)
        server.gate.set()

    with stalling() as server:
        server.gate.clear()
        threading.Thread(target=open_when_all_are_there, daemon=True).start()
        offered = offer(server.address, [get("/")], 200, 0.3, limit_ms=60_000, patience_s=30, seed=1)
        assert server.asked == offered.asked == len(offered.times_ms) == expected > 20


def test_refusals_are_counted_as_what_they_are() -> None:
    with stalling(503) as server:
        offered = offer(server.address, [get("/")], 100, 0.1, limit_ms=10_000, patience_s=10, seed=1)
        assert offered.asked == offered.refused > 0


def test_who_is_never_answered_is_counted() -> None:
    with stalling() as server:
        server.gate.clear()
        offered = offer(server.address, [get("/")], 50, 0.2, limit_ms=10, patience_s=0.2, seed=1)
        assert offered.unanswered == offered.asked > 0


def test_a_hopeless_load_is_given_up() -> None:
    with stalling(503) as server:
        offered = offer(server.address, [get("/")], 2000, 10, limit_ms=10, patience_s=1, seed=1)
        assert offered.given_up


def test_the_warm_up_is_offered_and_not_counted() -> None:
    with stalling() as server:
        offered = offer(server.address, [get("/")], 200, 0.2, limit_ms=10_000, patience_s=10, seed=3, warm_up_s=0.2)
        counted = sum(due >= 0.2 for due in arrivals(200, 0.4, seed=3))
        assert offered.asked == counted
        assert server.asked == len(list(arrivals(200, 0.4, seed=3))) > counted > 0


def test_answers_are_kept_once_each_with_how_often_they_came() -> None:
    with stalling() as server:
        offered = offer(
            server.address, [get("/"), get("/x")], 200, 0.2, limit_ms=10_000, patience_s=10, seed=1, keep=True
        )
    assert {(said.message, said.reply.body) for said in offered.said} == {(0, b"ok"), (1, b"ok")}
    assert sum(said.times for said in offered.said) == offered.asked > 2


def test_too_much_at_once_is_told_from_other_refusals() -> None:
    for status, overloaded in ((503, True), (500, False)):
        with stalling(status) as server:
            offered = offer(server.address, [get("/")], 100, 0.1, limit_ms=10_000, patience_s=10, seed=1, keep=True)
        assert offered.overloaded == (offered.refused if overloaded else 0)
        assert (offered.first_refusal is None) is overloaded


def test_a_request_that_is_not_taken_in_holds_up_nobody() -> None:
    """The first connection's server reads nothing, so a large request stays unsent; the others are still answered."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        large = b"POST / HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n" + bytes(50_000_000)
        address = Address("127.0.0.1", deaf.getsockname()[1])
        offered = offer(address, [large], 40, 0.2, limit_ms=10, patience_s=0.1, seed=1)
    assert offered.unanswered == offered.asked == len(list(arrivals(40, 0.2, seed=1))) > 1


def test_a_crowd_is_there_all_the_time() -> None:
    with stalling() as server:
        server.gate.clear()

        def open_when_all_have_asked() -> None:
            while server.asked < 8:
                time.sleep(0.001)
            server.gate.set()

        threading.Thread(target=open_when_all_have_asked, daemon=True).start()
        came = crowd(server.address, [get("/")], clients=8, requests=40, patience_s=30)
    assert came.asked == len(came.times_ms) == 40
