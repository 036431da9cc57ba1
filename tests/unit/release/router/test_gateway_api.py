"""The second router: an HTTPRoute's weights, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PlatformError
from tasks.release.contracts import Endpoint, Route
from tasks.release.router.gateway_api import GatewayApiRouter, http_route
from tasks.release.router.http_route import check_http_route
from tasks.settings import Settings

STABLE = Endpoint(host="digits-1.models", port=8000)
CANARY = Endpoint(host="digits-2", port=8000)
ROUTE = Route(model="digits", port=8080, stable=STABLE, canary=CANARY, weight=5)


@pytest.fixture
def router(tmp_path: Path) -> GatewayApiRouter:
    return GatewayApiRouter("digits", None, Settings.from_environment({"SLIPWAY_HOME": str(tmp_path)}))


def backends(router: GatewayApiRouter) -> list[dict[str, Any]]:
    document = yaml.safe_load(router.path.read_text())
    check_http_route(document)
    found: list[dict[str, Any]] = document["spec"]["rules"][0]["backendRefs"]
    return found


def test_weights_are_of_ten_thousand_and_follow(router: GatewayApiRouter) -> None:
    router.ensure(ROUTE)
    assert [backend["weight"] for backend in backends(router)] == [9500, 500]
    router.set_weight(0.01)
    assert [backend["weight"] for backend in backends(router)] == [9999, 1]
    assert router.weight() == 0.01


def test_a_host_is_a_service_and_its_namespace(router: GatewayApiRouter) -> None:
    router.ensure(ROUTE)
    assert [(backend["name"], backend.get("namespace")) for backend in backends(router)] == [
        ("digits-1", "models"),
        ("digits-2", None),
    ]


def test_without_a_canary_there_is_one_backend(router: GatewayApiRouter) -> None:
    router.ensure(ROUTE.model_copy(update={"canary": None, "weight": 0}))
    assert [backend["weight"] for backend in backends(router)] == [10_000]
    with pytest.raises(PlatformError, match="no canary"):
        router.set_weight(1)


def test_asking_twice_writes_once(router: GatewayApiRouter) -> None:
    router.ensure(ROUTE)
    written = router.path.stat()
    router.ensure(ROUTE)
    router.set_weight(5)
    assert (router.path.stat().st_ino, router.path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_weight_that_somebody_changed_is_the_one_that_counts_and_is_set_right(router: GatewayApiRouter) -> None:
    router.ensure(ROUTE)
    router.path.write_text(router.path.read_text().replace("weight: 500\n", "weight: 700\n"))
    assert router.weight() == 7
    router.ensure(ROUTE)
    assert [backend["weight"] for backend in backends(router)] == [9500, 500]


def test_what_a_gateway_counts_is_not_known_here(router: GatewayApiRouter) -> None:
    router.ensure(ROUTE)
    assert router.counts() is None
    router.remove()
    router.remove()
    assert router.weight() is None
    with pytest.raises(PlatformError, match="not there"):
        router.set_weight(1)


@given(st.integers(0, 10_000), st.sampled_from(["slipway", "infra/public"]))
def test_every_route_holds_against_the_schema(share: int, gateway: str) -> None:
    document = http_route(ROUTE.model_copy(update={"weight": share / 100}), gateway)
    check_http_route(document)
    assert sum(backend["weight"] for backend in document["spec"]["rules"][0]["backendRefs"]) == 10_000


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("kind",), "HttpRoute", "kind"),
        (("spec", "rules", 0, "backendRefs", 0, "weight"), 1.5, "weight"),
        (("spec", "rules", 0, "backendRefs", 0, "weight"), -1, "weight"),
        (("spec", "rules", 0, "backendRefs", 0, "port"), 70_000, "port"),
        (("spec", "rules", 0, "backendRefs", 0, "wieght"), 1, "backendRefs"),
        (("spec", "rules", 0, "backendRefs"), [], "backendRefs"),
        (("metadata", "name"), "Digits", "name"),
        (("spec", "hostnames"), ["a"], "spec"),
    ],
)
def test_a_document_that_no_gateway_takes_is_refused_and_says_where(
    path: tuple[str | int, ...], value: object, where: str
) -> None:
    document = http_route(ROUTE, "slipway")
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(PlatformError, match=f"does not hold at .*{where}"):
        check_http_route(document)
