"""A route as HAProxy's configuration, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.release.contracts import Endpoint, Route
from tasks.release.router.configuration import address_of, configuration, percent_of, route_of, share_of, structure

STABLE, CANARY = Endpoint(host="10.0.0.2", port=8000), Endpoint(host="10.0.0.3", port=8000)
ROUTE = Route(model="digits", port=8080, stable=STABLE, canary=CANARY, weight=5, p99_ms=50)


def variable(text: str, name: str) -> str:
    found = re.search(rf"set-var proc\.{name} \w+\((\w*)\)", text)
    assert found is not None
    return found[1]


def changed(**changes: object) -> Route:
    return ROUTE.model_copy(update=changes)


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["x-request-id", "x-user"]), st.integers(1, 65535))
def test_the_file_alone_says_which_route_it_was_written_for(share: int, alone: bool, header: str, port: int) -> None:
    route = changed(weight=percent_of(share), split_by=header, port=port, canary=None if alone else CANARY)
    assert route_of(configuration(route)) == route


@given(st.integers(0, 10_000))
def test_every_step_of_a_hundredth_of_a_percent_is_kept(share: int) -> None:
    assert share_of(percent_of(share)) == share
    assert variable(configuration(changed(weight=percent_of(share))), "canary") == str(share)


@pytest.mark.parametrize("text", ["", "global\n", "# route: {}\n", "# route: {broken\n", '# route: {"model": 1}'])
def test_a_file_of_somebody_else_is_no_route(text: str) -> None:
    assert route_of(text) is None


def test_users_are_listened_to_on_loopback_alone() -> None:
    assert re.findall(r"^\s+bind (\S+)", configuration(ROUTE), re.MULTILINE) == ["127.0.0.1:8080"]


def test_the_first_attempt_goes_to_the_canary_and_every_other_to_the_stable_version() -> None:
    backend = configuration(ROUTE).partition("backend canary\n")[2].partition("\nbackend")[0]
    assert "use-server canary if TRUE" in backend
    assert "server canary 10.0.0.3:8000 weight 0 check" in backend
    assert "server instead 10.0.0.2:8000 track stable/stable" in backend


def test_without_a_canary_its_server_is_disabled_and_asked_nothing() -> None:
    assert re.search(r"server canary 127\.0\.0\.1:1 .* disabled$", configuration(changed(canary=None)), re.MULTILINE)


@pytest.mark.parametrize(
    "changes",
    [{"weight": 100.0}, {"stable": CANARY}, {"canary": STABLE}, {"canary": None, "weight": 0.0}],
    ids=["weight", "stable", "canary", "none"],
)
def test_addresses_and_weight_need_no_reload(changes: dict[str, object]) -> None:
    assert structure(changed(**changes)) == structure(ROUTE)
    assert variable(configuration(changed(**changes)), "structure") == structure(ROUTE)


@pytest.mark.parametrize("changes", [{"port": 8081}, {"split_by": "x-user"}, {"p99_ms": 51.0}, {"p99_ms": None}])
def test_everything_else_does(changes: dict[str, object]) -> None:
    assert structure(changed(**changes)) != structure(ROUTE)


def test_each_model_splits_its_users_differently() -> None:
    seeds = {re.search(r"xxh32\((\d+)\)", configuration(changed(model=f"m{number}")))[1] for number in range(20)}  # type: ignore[index]
    assert len(seeds) == 20


def test_the_objective_is_counted_in_microseconds_for_each_arm_by_itself() -> None:
    text = configuration(changed(p99_ms=2.5))
    assert text.count("gt 2500\n") == 2
    assert "{ srv_name stable }" in text
    assert "{ srv_name canary }" in text
    assert "sc-inc-gpc0" not in configuration(changed(p99_ms=None))


def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    assert address_of(Endpoint(host="fd00::2", port=80)) == "[fd00::2]:80"
