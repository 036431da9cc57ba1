"""The real HAProxy in its container, before stubs: what it splits, what it hides, what it counts."""

from __future__ import annotations

import http.client
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tasks.errors import PlatformError
from tasks.image import Engine
from tasks.release.contracts import Arm, Endpoint, Route
from tasks.release.router.haproxy import HaproxyRouter
from tasks.release.router.runtime import Master
from tasks.settings import Settings
from tests.integration.release.stubs import Mode, Stub, stub

pytestmark = pytest.mark.docker
P99_MS = 100


@pytest.fixture
def stable() -> Iterator[Stub]:
    with stub("stable") as made:
        yield made


@pytest.fixture
def canary() -> Iterator[Stub]:
    with stub("canary") as made:
        yield made


@pytest.fixture
def route(model: str, port: int, stable: Stub, canary: Stub) -> Route:
    return Route(model=model, port=port, stable=stable.endpoint, canary=canary.endpoint, weight=100, p99_ms=P99_MS)


@pytest.fixture
def router(engine: Engine, settings: Settings, model: str) -> HaproxyRouter:
    return HaproxyRouter(model, engine, settings)


def ask(port: int, *ids: str, body: bytes = b"{}", header: str = "x-request-id") -> list[str]:
    """Who answered each request, or how it failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    answers = []
    for identity in ids:
        try:
            connection.request("POST", "/v2/models/m/infer", body, {header: identity} if identity else {})
            answer = connection.getresponse()
            answer.read()
            answers.append(answer.getheader("x-arm", "") if answer.status == 200 else str(answer.status))
        except (OSError, http.client.HTTPException) as error:
            answers.append(type(error).__name__)
            connection.close()
    connection.close()
    return answers


def many(count: int, start: int = 0) -> list[str]:
    return [f"request-{number}" for number in range(start, start + count)]


def restart(router: HaproxyRouter, signal: str = "KILL") -> None:
    subprocess.run(["docker", "kill", "--signal", signal, router.container], check=True, capture_output=True)
    if signal == "KILL":  # by a person, after which the engine lets it lie
        subprocess.run(["docker", "start", router.container], check=True, capture_output=True)


# --- the split ----------------------------------------------------------------------------------------------------


def test_without_a_canary_everything_goes_to_the_stable_version(router: HaproxyRouter, route: Route) -> None:
    router.ensure(route.model_copy(update={"canary": None, "weight": 0}))
    assert set(ask(route.port, *many(200))) == {"stable"}
    assert router.weight() == 0


def test_the_split_is_sticky_and_monotone(router: HaproxyRouter, route: Route) -> None:
    router.ensure(route.model_copy(update={"weight": 0}))
    met: set[str] = set()
    for weight in (0, 0.01, 1, 5, 25, 50, 100):
        router.set_weight(weight)
        assert router.weight() == weight
        answers = dict(zip(many(1000), ask(route.port, *many(1000)), strict=True))
        now = {identity for identity, arm in answers.items() if arm == "canary"}
        assert met <= now
        assert len(now) == pytest.approx(10 * weight, abs=4 * (10 * weight * (1 - weight / 100)) ** 0.5 + 1)
        assert ask(route.port, *many(1000)) == list(answers.values())
        met = now
    assert len(met) == 1000


def test_another_header_may_decide_and_one_without_it_is_split_by_its_own_id(
    router: HaproxyRouter, route: Route
) -> None:
    router.ensure(route.model_copy(update={"split_by": "x-user", "weight": 50}))
    assert len(set(ask(route.port, *["the same user"] * 50, header="x-user"))) == 1
    assert set(ask(route.port, *[""] * 50)) == {"stable", "canary"}


def test_a_request_without_an_id_gets_one_of_its_own(router: HaproxyRouter, route: Route, canary: Stub) -> None:
    router.ensure(route)
    assert ask(route.port, "", "", "mine") == ["canary"] * 3
    assert len(canary.ids) == 3
    assert "mine" in canary.ids
    assert "" not in canary.ids


# --- what outlives what -------------------------------------------------------------------------------------------


def test_a_restarted_router_comes_up_with_the_weight_that_was_asked_for_last(
    router: HaproxyRouter, route: Route
) -> None:
    router.ensure(route)
    router.set_weight(25)
    restart(router)
    router.ensure(route.model_copy(update={"weight": 25}))
    restart(router)
    answers: list[str] = []
    while "stable" not in answers:  # no controller asserts anything
        answers = ask(route.port, *many(400))
    assert router.weight() == 25
    assert Counter(answers)["canary"] == pytest.approx(100, abs=40)


def test_a_reload_by_somebody_else_forgets_nothing(
    router: HaproxyRouter, route: Route, settings: Settings, model: str
) -> None:
    router.ensure(route)
    router.set_weight(0)
    master = Master(settings.home / "router" / model / "master.sock")
    before = master.workers()
    restart(router, "USR2")
    while master.workers()[:1] == before[:1]:
        pass
    assert router.weight() == 0
    assert set(ask(route.port, *many(100))) == {"stable"}


def test_asking_twice_changes_nothing(router: HaproxyRouter, route: Route) -> None:
    router.ensure(route)
    ask(route.port, *many(50))
    before = router.counts()
    router.ensure(route)
    router.set_weight(100)
    assert router.counts() == before
    assert before is not None
    assert before[Arm.CANARY].requests == 50


def test_a_promotion_moves_everything_to_the_new_version_without_a_reload(
    router: HaproxyRouter, route: Route, canary: Stub
) -> None:
    router.ensure(route)
    ask(route.port, *many(20))
    before = router.counts()
    router.ensure(route.model_copy(update={"stable": canary.endpoint, "canary": None, "weight": 0}))
    assert set(ask(route.port, *many(50))) == {"canary"}
    after = router.counts()
    assert before is not None
    assert after is not None
    assert after[Arm.STABLE].incarnation != before[Arm.STABLE].incarnation
    assert (after[Arm.STABLE].requests, after[Arm.CANARY].requests) == (50, 0)


def test_another_port_is_listened_on_after_a_reload(router: HaproxyRouter, route: Route) -> None:
    router.ensure(route)
    with stub("free") as other:
        port = other.endpoint.port
    router.ensure(route.model_copy(update={"port": port}))
    assert set(ask(port, *many(20))) == {"canary"}


def test_a_port_that_is_taken_is_said_and_nothing_is_left(
    router: HaproxyRouter, route: Route, stable: Stub, engine: Engine, model: str
) -> None:
    with pytest.raises(PlatformError, match=r"(?s)does not start.*bind"):
        router.ensure(route.model_copy(update={"port": stable.endpoint.port}))
    assert engine.containers(f"io.slipway.model={model}") == ()


def test_a_router_that_does_not_run_says_nothing(router: HaproxyRouter, route: Route) -> None:
    assert router.weight() is None
    assert router.counts() is None
    with pytest.raises(PlatformError, match="no route"):
        router.set_weight(1)
    router.ensure(route)
    router.remove()
    router.remove()
    assert router.weight() is None


def test_weight_for_a_canary_that_is_not_there_is_refused(router: HaproxyRouter, route: Route) -> None:
    router.ensure(route.model_copy(update={"canary": None, "weight": 0}))
    with pytest.raises(PlatformError, match="no canary"):
        router.set_weight(1)


# --- a canary that breaks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.FAIL, Mode.BUSY, Mode.EMPTY, Mode.RESET, Mode.JUNK])
def test_a_failure_of_the_canary_is_hidden_and_counted_once(
    router: HaproxyRouter, route: Route, canary: Stub, mode: Mode
) -> None:
    router.ensure(route)
    canary.mode = mode
    assert ask(route.port, *many(30)) == ["stable"] * 30
    found = router.counts()
    assert found is not None
    seen = found[Arm.CANARY]
    assert (seen.requests, seen.errors, seen.failed, seen.hidden) == (30, 0, 30, 30)
    assert found[Arm.STABLE].requests == 0


def test_a_canary_that_is_gone_costs_no_user_anything(router: HaproxyRouter, route: Route, canary: Stub) -> None:
    router.ensure(route)
    assert ask(route.port, *many(20)) == ["canary"] * 20
    canary.kill()
    assert ask(route.port, *many(200)) == ["stable"] * 200
    found = router.counts()
    assert found is not None
    seen = found[Arm.CANARY]
    assert (seen.requests, seen.errors, seen.failed, seen.hidden) == (220, 0, 200, 200)


def test_a_canary_whose_machine_is_gone_costs_no_user_more_than_a_second(router: HaproxyRouter, route: Route) -> None:
    # TEST-NET-1 (RFC 5737): nobody answers there, not even that nobody listens.
    router.ensure(route.model_copy(update={"canary": Endpoint(host="192.0.2.1", port=8000)}))
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.extend(ask(route.port, *many(20)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["stable"] * 160
    found = router.counts()
    assert found is not None
    assert (found[Arm.CANARY].requests, found[Arm.CANARY].failed) == (160, 160)


def test_requests_of_a_canary_that_hangs_are_answered_by_the_stable_version(
    router: HaproxyRouter, route: Route, canary: Stub
) -> None:
    router.ensure(route)
    canary.mode = Mode.HANG
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.extend(ask(route.port, "x"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["stable"] * 4
    found = router.counts()
    assert found is not None
    assert (found[Arm.CANARY].requests, found[Arm.CANARY].failed) == (4, 4)


def test_an_answer_that_breaks_off_reached_the_user_and_is_counted(
    router: HaproxyRouter, route: Route, canary: Stub
) -> None:
    router.ensure(route)
    canary.mode = Mode.HALF
    assert set(ask(route.port, *many(5))) == {"IncompleteRead"}
    found = router.counts()
    assert found is not None
    seen = found[Arm.CANARY]
    assert (seen.requests, seen.failed, seen.hidden) == (5, 5, 0)


def test_a_large_request_is_not_repeated_and_its_failure_is_an_error(
    router: HaproxyRouter, route: Route, canary: Stub
) -> None:
    router.ensure(route)
    canary.mode = Mode.FAIL
    assert ask(route.port, *many(3), body=b"x" * 300_000) == ["500"] * 3
    found = router.counts()
    assert found is not None
    assert (found[Arm.CANARY].errors, found[Arm.CANARY].failed) == (3, 0)


@pytest.mark.parametrize("mode", [Mode.FAIL, Mode.EMPTY])
def test_failures_of_the_stable_version_are_its_own(
    router: HaproxyRouter, route: Route, stable: Stub, mode: Mode
) -> None:
    router.ensure(route)
    router.set_weight(0)
    stable.mode = mode
    # Without an answer, HAProxy says so or closes the connection, which users may take as leave to ask again.
    assert set(ask(route.port, *many(5))) <= ({"500"} if mode is Mode.FAIL else {"502", "RemoteDisconnected"})
    found = router.counts()
    assert found is not None
    seen = found[Arm.STABLE]
    assert (seen.requests, seen.errors + seen.failed, seen.hidden) == (5, 5, 0)
    assert found[Arm.CANARY].requests == 0


def test_what_a_client_got_wrong_is_no_error(router: HaproxyRouter, route: Route, canary: Stub) -> None:
    router.ensure(route)
    canary.mode = Mode.BAD_REQUEST
    assert ask(route.port, *many(5)) == ["400"] * 5
    found = router.counts()
    assert found is not None
    assert (found[Arm.CANARY].requests, found[Arm.CANARY].errors, found[Arm.CANARY].failed) == (5, 0, 0)


def test_slow_answers_are_counted_by_the_objective(router: HaproxyRouter, route: Route, canary: Stub) -> None:
    router.ensure(route)
    ask(route.port, *many(5))
    canary.mode = Mode.SLOW
    assert ask(route.port, *many(4)) == ["canary"] * 4
    found = router.counts()
    assert found is not None
    assert (found[Arm.CANARY].requests, found[Arm.CANARY].slow, found[Arm.STABLE].slow) == (9, 4, 0)
