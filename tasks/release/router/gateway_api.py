"""The weights of a Kubernetes HTTPRoute: a file for each model, for whoever applies it (GitOps, kubectl).

    <home>/gateway/<model>.yaml

Arms are Services: an endpoint's host is its name, or `name.namespace`. Two things differ from HAProxy, because the
Gateway API has neither: a gateway draws for each request anew, so no header decides (`Route.split_by` stays in an
annotation); and what it counts is in its own metrics, so `counts` is None and Prometheus is the source.

    SLIPWAY_GATEWAY     the Gateway that the route hangs on, `name` or `namespace/name`; `slipway` unless told otherwise
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.errors import PlatformError
from tasks.image.engine import Engine
from tasks.release.contracts import Arm, Endpoint, Route, RouterCounts
from tasks.release.router.configuration import WHOLE, percent_of, share_of
from tasks.release.router.http_route import check_http_route
from tasks.release.router.written import write_whole
from tasks.settings import Settings
from tasks.workspace import locked

VARIABLE = "SLIPWAY_GATEWAY"

#: The route that a file was written for: what its fields do not say stands there.
_ANNOTATION = "slipway.io/route"


class GatewayApiRouter:
    """See `tasks.release.contracts.Router`. What a gateway really does is not seen from here: `weight` is what the file
    says."""

    def __init__(self, model: str, _engine: Engine | None, settings: Settings) -> None:
        self._model = model
        self._path = settings.home / "gateway" / f"{model}.yaml"
        self._lock = settings.home / "locks" / f"gateway-{model}.lock"
        self._gateway = os.environ.get(VARIABLE) or "slipway"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def ensure(self, route: Route) -> None:
        with locked(self._lock):
            self._write(route)

    def set_weight(self, percent: float) -> None:
        with locked(self._lock):
            route = self._route()
            if route is None:
                raise PlatformError(f"{self._path} is not there, or not Slipway's: a release writes one")
            if percent and route.canary is None:
                raise PlatformError(f"the route of {self._model} has no canary that could get {percent:g} %")
            self._write(route.model_copy(update={"weight": percent}))

    def weight(self) -> float | None:
        route = self._route()
        return None if route is None else route.weight

    def counts(self) -> Mapping[Arm, RouterCounts] | None:
        return None

    def remove(self) -> None:
        with locked(self._lock):
            self._path.unlink(missing_ok=True)

    def _write(self, route: Route) -> None:
        import yaml

        if self._route() == route:
            return  # whoever watches the file has nothing to do
        document = http_route(route, self._gateway)
        check_http_route(document)
        write_whole(self._path, yaml.safe_dump(document, sort_keys=False))

    def _route(self) -> Route | None:
        import yaml

        try:
            document = yaml.safe_load(self._path.read_text())
            route = Route.model_validate_json(document["metadata"]["annotations"][_ANNOTATION])
            refs = document["spec"]["rules"][0]["backendRefs"]
            weight = percent_of(refs[1]["weight"]) if len(refs) > 1 else 0.0
        except (OSError, yaml.YAMLError, ValidationError, KeyError, IndexError, TypeError):
            return None
        return route.model_copy(update={"weight": weight})  # the field decides, should somebody have changed it


def http_route(route: Route, gateway: str) -> dict[str, Any]:
    """The document: weights are of 10,000, so that a step of 0.01 % is 1."""
    share = share_of(route.weight) if route.canary is not None else 0
    backends = [_backend(route.stable, WHOLE - share)]
    if route.canary is not None:
        backends.append(_backend(route.canary, share))
    namespace, _, name = gateway.rpartition("/")
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": route.model,
            "labels": {"app.kubernetes.io/managed-by": "slipway"},
            "annotations": {_ANNOTATION: route.model_dump_json()},
        },
        "spec": {
            "parentRefs": [{"name": name, **({"namespace": namespace} if namespace else {})}],
            "rules": [{"backendRefs": backends}],
        },
    }


def _backend(endpoint: Endpoint, weight: int) -> dict[str, Any]:
    name, _, rest = endpoint.host.partition(".")
    namespace = rest.partition(".")[0]
    return {"name": name, **({"namespace": namespace} if namespace else {}), "port": endpoint.port, "weight": weight}
