"""Who gets which share of one model's traffic, behind `tasks.release.contracts.Router`.

    haproxy        a HAProxy in a container of this machine: splits requests by a hash, counts, hides failures
    gateway-api    the weights of a Kubernetes HTTPRoute, written to a file: whichever gateway watches them splits

Adding one is a module with a class that takes (model, engine, settings), and a line in `ROUTERS`.
"""

from __future__ import annotations

import importlib
from typing import cast

from tasks.errors import BadInput
from tasks.image.engine import Engine
from tasks.release.contracts import Router
from tasks.settings import Settings

#: Name → `module:class`, imported only when asked for.
ROUTERS: dict[str, str] = {
    "haproxy": "tasks.release.router.haproxy:HaproxyRouter",
    "gateway-api": "tasks.release.router.gateway_api:GatewayApiRouter",
}


def find_router(name: str, model: str, engine: Engine, settings: Settings) -> Router:
    """The router of that name for one model; nothing is started by that.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in ROUTERS:
        raise BadInput(f"there is no router {name!r}; there are {', '.join(ROUTERS)}")
    module, _, attribute = ROUTERS[name].partition(":")
    return cast(Router, getattr(importlib.import_module(module), attribute)(model, engine, settings))
