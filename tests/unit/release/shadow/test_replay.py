"""Sending over HTTP: the same request to both, gently, and what becomes of one that is not answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import numpy as np
import orjson
import pytest

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.contracts import Verdict
from tasks.load.client import Address
from tasks.release.contracts import Endpoint
from tasks.release.shadow import run_shadow
from tasks.release.shadow.replay import Fault, Pace, Target, replay
from tasks.release.shadow.requests import Origin, Request, Sizes, Table, plan
from tests.unit.release.shadow.versions import expectations, parity, version
from tests.unit.smoke.servers import Closing, Doubler, Refusing, serving

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT64, ("batch",)),),
    outputs=(TensorSpec("y", DType.FLOAT64, ("batch",)),),
    dynamic={"batch": DimRange(1, 64)},
)
ROWS = np.arange(40, dtype=np.float64)
#: Everything at once: nobody else is served by these servers.
FAST = Pace(connections=2, share=2.0)


class Counting(Doubler):
    """Counts requests, and how many are there at once."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            self.ids.append(orjson.loads(body)["id"])
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        super().handle(handler, body)
        with self._lock:
            self.at_once -= 1


class NoRoom(Doubler):
    """Has no room for every third request, the first time that it comes."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        identity = orjson.loads(body)["id"]
        if identity == "shadow-3" and identity not in self.seen:
            self.seen.add(identity)
            self.send(handler, 503, b'{"error": "the queue is full"}')
        else:
            super().handle(handler, body)


class SlightlyOff(Doubler):
    """Status 200, quick, and wrong for a few."""

    def answer(self, values: list[float]) -> list[float]:
        return [2 * value + (0.1 if value == 17 else 0) for value in values]


def requests(asked: int = 1000) -> tuple[Request, ...]:
    golden = Table(Origin.GOLDEN, {"x": ROWS[:4]}, 4, {"y": 2 * ROWS[:4]})
    return plan(asked, Sizes((1, 2, 7, 16), 16), [golden], (), Table(Origin.EVALUATION, {"x": ROWS}, len(ROWS)))


def target(address: Address) -> Target:
    return Target(Endpoint(host=address.host, port=address.port), "m", SIGNATURE)


def endpoint(address: Address) -> Endpoint:
    return Endpoint(host=address.host, port=address.port)


@pytest.fixture(scope="module")
def old() -> Iterator[Address]:
    with serving(Doubler()) as address:
        yield address


def test_two_packages_of_one_model_that_answer_alike_pass(old: Address) -> None:
    both = version(raw=SIGNATURE, parity=parity(1e-9))
    with serving(Doubler()) as new:
        wanted = expectations(new=both, old=both, p99_ms=5000.0)
        report = run_shadow(endpoint(old), endpoint(new), requests(), wanted, pace=FAST)
    assert (report.verdict, report.findings) == (Verdict.PASSED, ())
    assert (report.requests, report.errors, report.kind) == (1000, 0, "equivalent")
    assert report.agreement == 1


def test_an_answer_that_is_another_with_status_200_is_named(old: Address) -> None:
    both = version(raw=SIGNATURE, parity=parity(1e-9))
    with serving(SlightlyOff()) as new:
        wanted = expectations(new=both, old=both, p99_ms=5000.0)
        report = run_shadow(endpoint(old), endpoint(new), requests(), wanted, pace=FAST)
    assert report.verdict is Verdict.FAILED
    [found] = report.findings
    assert found.code == "SHADOW_ANSWER_DIFFERS"
    assert (found.evidence["row"], found.evidence["input.x"]) == (17, "17")
    assert (found.evidence["old"], found.evidence["new"]) == ("34", "34.1")


def test_each_request_is_sent_once_to_each_and_is_named_in_the_logs() -> None:
    before, after = Counting(), Counting()
    with serving(before) as old, serving(after) as new:
        seen = replay(requests(200)[:200], target(old), target(new), FAST)
    assert sorted(before.ids) == sorted(after.ids) == sorted(f"shadow-{number}" for number in range(200))
    assert [pair.id for pair in seen.pairs] == [f"shadow-{number}" for number in range(200)]
    assert max(before.most, after.most) <= 2


def test_what_was_recorded_is_not_asked_of_the_old_version_again() -> None:
    before, after = Counting(), Counting()
    tables = [Table(Origin.LOG, {"x": ROWS[place : place + 1]}, 1) for place in range(10)]
    recorded = [Request(f"r{place}", table, None, {"y": 2 * table.inputs["x"]}) for place, table in enumerate(tables)]
    with serving(before) as old, serving(after) as new:
        seen = replay(recorded, target(old), target(new), FAST)
    assert (len(before.ids), len(after.ids)) == (0, 10)
    assert all(pair.is_complete for pair in seen.pairs)


def test_the_old_version_is_asked_again_when_it_has_no_room() -> None:
    with serving(NoRoom()) as old, serving(Doubler()) as new:
        seen = replay(requests(10)[:10], target(old), target(new), FAST)
    assert all(pair.is_complete for pair in seen.pairs)


def test_the_new_version_that_has_no_room_has_no_answer() -> None:
    with serving(Doubler()) as old, serving(NoRoom()) as new:
        seen = replay(requests(10)[:10], target(old), target(new), FAST)
    assert [pair.new.fault for pair in seen.pairs if pair.new.fault] == [Fault.FAILED]


def test_a_dead_version_is_not_asked_a_thousand_times(old: Address) -> None:
    with serving(Closing()) as new:
        seen = replay(requests(), target(old), target(new), FAST)
    assert len(seen.pairs) < 30
    assert "in a row" in seen.stopped


def test_a_refusal_is_told_from_a_failure(old: Address) -> None:
    with serving(Refusing()) as new:
        seen = replay(requests(10)[:4], target(old), target(new), FAST)
    assert {pair.new.fault for pair in seen.pairs} == {Fault.REFUSED}
    assert "x has the wrong shape" in seen.pairs[0].new.said


def test_it_ends_when_it_is_told_to(old: Address) -> None:
    with serving(Doubler()) as new:
        seen = replay(requests(), target(old), target(new), FAST, is_over=lambda: True)
    assert (seen.pairs, seen.stopped) == ((), "it was stopped")


def test_a_connection_rests_for_as_long_as_its_share_asks(old: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of one worker for two connections: each is busy for a tenth of the time."""
    rested: list[float] = []
    monkeypatch.setattr("tasks.release.shadow.replay.time.sleep", rested.append)
    with serving(Doubler()) as new:
        seen = replay(requests(50)[:50], target(old), target(new), Pace(connections=2, share=0.2))
    busy_s = sum(pair.new.took_ms + pair.old.took_ms for pair in seen.pairs if pair.old is not None) / 1000
    assert sum(rested) == pytest.approx(9 * busy_s)


def test_a_server_that_nobody_named_is_no_pass(old: Address) -> None:
    with serving(Doubler()) as new, pytest.raises(ValueError, match="its server is named"):
        run_shadow(None, endpoint(new), requests(), expectations())
