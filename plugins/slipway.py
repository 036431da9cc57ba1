"""Puts Slipway's pages into Airflow's navigation. Thin: the pages are made in `tasks.overview`.

Airflow serves a plugin's routes to everybody unless they ask for more, so the whole application asks: who may read
runs of `package_model` may see what they made, and who may read those of `release_model` what became of it.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from tasks.errors import SlipwayError
from tasks.lineage import find_package, packages
from tasks.overview import render_matrix, render_page, render_releases, view_of
from tasks.placement import known_prices, matrix_of, recommend
from tasks.release.controller import standing
from tasks.settings import Settings
from tasks.store import open_store

_DAG, _RELEASE, _ROLLBACK = "package_model", "release_model", "rollback_model"
_MAY_READ_RELEASES = Depends(
    requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN, param_dag_id=_RELEASE)
)

app = FastAPI(
    title="Slipway",
    # The interactive documentation and the schema would be routes of their own, open to everybody.
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[
        Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN, param_dag_id=_DAG)),
    ],
)


@app.get("/packages")
def show_packages() -> HTMLResponse:
    """Every package that the store knows, by model."""
    try:
        views = [
            view_of(one.package, one.record) for one in packages(open_store(Settings.from_environment().store_uri))
        ]
        page = render_page(views, dag_url=f"/dags/{_DAG}")
    except SlipwayError as error:
        page = render_page([], dag_url=f"/dags/{_DAG}", problem=str(error))
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


@app.get("/matrix/{digest}")
def show_matrix(digest: str) -> HTMLResponse:
    """One package: each format on each instance type, and which of them to take."""
    try:
        known = [one.package for one in packages(open_store(Settings.from_environment().store_uri))]
        matrix = matrix_of(find_package(known, digest), known_prices())
        page, status = render_matrix(matrix, recommend(matrix)), 200
    except SlipwayError as error:
        page, status = render_page([], dag_url=f"/dags/{_DAG}", problem=str(error)), 404
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store"})


@app.get("/releases", dependencies=[_MAY_READ_RELEASES])
def show_releases() -> HTMLResponse:
    """Every model that was released: what serves, which share the new version has, and the evidence so far."""
    settings = Settings.from_environment()
    urls = {"release_url": f"/dags/{_RELEASE}", "rollback_url": f"/dags/{_ROLLBACK}"}
    try:
        names = dict.fromkeys(one.package.name for one in packages(open_store(settings.store_uri)))
        found = [standing(name, settings) for name in names]
        page = render_releases([model for model in found if model is not None], **urls)
    except SlipwayError as error:
        page = render_releases([], problem=str(error), **urls)
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


@app.get("/releases/{release_id}", dependencies=[_MAY_READ_RELEASES])
def show_release(release_id: str) -> HTMLResponse:
    """The page that a release left when it was over: evidence over time, step by step."""
    settings = Settings.from_environment()
    store = open_store(settings.store_uri)
    for name in dict.fromkeys(one.package.name for one in packages(store)):
        found = standing(name, settings) if release_id.startswith(f"{name}-") else None
        for release in found.last if found is not None else ():
            if release.id == release_id and release.report is not None:
                with store.open(release.report.digest) as page:
                    return HTMLResponse(page.read(), headers={"Cache-Control": "no-store"})
    nothing = render_releases([], problem=f"there is no report of a release {release_id!r}")
    return HTMLResponse(nothing, status_code=404, headers={"Cache-Control": "no-store"})


class SlipwayPlugin(AirflowPlugin):
    """Slipway's page."""

    name = "slipway"
    # Airflow declares these for instances and reads them from the class.
    fastapi_apps: list[Any] = [  # noqa: RUF012
        {"app": app, "url_prefix": "/slipway", "name": "Slipway"}
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Packages",
            "href": "/slipway/packages",
            "url_route": "packages",
            "destination": "nav",
            "nav_top_level": True,
        },
        {
            "name": "Releases",
            "href": "/slipway/releases",
            "url_route": "releases",
            "destination": "nav",
            "nav_top_level": True,
        },
    ]
