"""Slipway's page in Airflow: in the navigation, and only for those who may read the runs."""

from __future__ import annotations

import httpx
import pytest

from scripts.airflow_home import credentials
from tests.e2e.conftest import Slipway

pytestmark = pytest.mark.e2e


PAGES = ("/slipway/packages", "/slipway/matrix/digits", "/slipway/releases", "/slipway/releases/digits-1")


@pytest.mark.parametrize("path", [*PAGES, "/slipway/docs", "/slipway/openapi.json"])
def test_strangers_see_nothing(slipway: Slipway, path: str) -> None:
    answer = httpx.get(slipway.where.airflow + path, trust_env=False)
    assert answer.status_code in {401, 404}
    assert path not in PAGES or answer.status_code == 401


def test_who_is_signed_in_sees_the_packages(slipway: Slipway) -> None:
    user = credentials(slipway.settings)
    who = {"username": user.name, "password": user.password}
    with httpx.Client(base_url=slipway.where.airflow, trust_env=False) as client:
        token = client.post("/auth/token", json=who).json()["access_token"]
        by_header = client.get("/slipway/packages", headers={"Authorization": f"Bearer {token}"})
        client.cookies.set("_token", token)
        by_cookie = client.get("/slipway/packages")
        unknown = client.get("/slipway/matrix/not-packaged")
    assert by_header.status_code == by_cookie.status_code == 200
    assert "Packages" in by_header.text
    assert unknown.status_code == 404
    assert "no package of a model" in unknown.text


def test_a_release_that_nobody_knows_is_said_not_to_be_there(slipway: Slipway) -> None:
    assert slipway.page("/slipway/releases").status_code == 200
    unknown = slipway.page("/slipway/releases/digits-1")
    assert unknown.status_code == 404
    assert "there is no report" in unknown.text


def test_airflow_has_the_pages_in_its_navigation(slipway: Slipway) -> None:
    (plugin,) = [found for found in slipway.api.plugins() if found["name"] == "slipway"]
    views = plugin["external_views"]
    assert [view["href"] for view in views] == ["/slipway/packages", "/slipway/releases"]
    assert {view["destination"] for view in views} == {"nav"}
