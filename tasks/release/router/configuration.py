"""A route → HAProxy's whole configuration, as a text; and back, so that the file is the only copy of the desired state.

How it splits: each request gets a number from 0 to 9999, a hash of the header that the route names, and goes to the
canary when that is below `proc.canary`, a variable of the process. So the same header value stays where it is, more
weight only ever adds to those who meet the canary, and steps are 0.01 %. The variable is changed at run time
(`tasks.release.router.runtime`); its value at the start stands in the file.

How a broken canary is kept from users: a request whose attempt on the canary fails (no connection, none or half an
answer's head, a 5xx) is asked again of the stable version, and a canary whose health check fails gets none. Both
happen within the backend `canary`, whose second server is the stable version, so what it answered there is what the
canary did not: `tasks.release.router.statistics` counts it against the canary.

Everything but addresses and weight is the route's `structure`: only when that changes must HAProxy be reloaded.
"""

from __future__ import annotations

import zlib

from pydantic import ValidationError

from tasks.contracts import digest_of
from tasks.release.contracts import Endpoint, Route

#: The weight's smallest step is 0.01 %: so many make a whole.
WHOLE = 10_000

#: Where the container has the folder with configuration and socket.
FOLDER = "/run/router"
FILE, SOCKET = "haproxy.cfg", "master.sock"

#: Where a canary would be that is not there: port 1 (tcpmux), where nothing listens. It is asked for nothing.
NOWHERE = Endpoint(host="127.0.0.1", port=1)

_ROUTE = "# route: "

#: Bytes of a request, head and body, that HAProxy can keep to send them again; a larger one is not retried once its
#: body has left. Memory is taken for requests in flight alone, a few of these each.
_BUFFER_BYTES = 1 << 16

#: Attempts beside the first that a request of the stable version has there: a connection that idled may have ended just
#: then.
RETRIES = 2

#: Seconds that a server may take to answer: as long as smoke waits for it (`tasks.smoke.trial.Effort.of`), or so many
#: times the objective. Then it hangs, and the request is one that failed.
_SERVER_S, _OBJECTIVES = 30, 20
#: What idle connections of users are kept: as long as the server keeps its own (`serving.listener`).
_IDLE_S = 75

_TEMPLATE = """\
{route}
# Written by Slipway; a change by hand is lost with the next release.
global
    log stdout format raw local0 notice
    maxconn 4000
    tune.bufsize {buffer_bytes}
    hard-stop-after {leaving_s}s
    set-var proc.canary int({canary_share})
    set-var proc.structure str({structure})
    set-var proc.counting date(0,us)

defaults
    mode http
    log global
    timeout connect 1s
    timeout client {server_s}s
    timeout server {server_s}s
    timeout http-request 30s
    timeout http-keep-alive {idle_s}s
    timeout queue 5s
    timeout check 2s
    # After a reload, a connection that idles gets its next answer from the old process, and is closed with that.
    option idle-close-on-response
    option dontlog-normal
    option dontlognull
    # A request is whole before it leaves, or it could not be sent again.
    option http-buffer-request
    option httpchk
    http-check send meth GET uri /v2/health/ready ver HTTP/1.1 hdr host {model}
    http-check expect status 200
    default-server inter 1s fastinter 250ms fall 2 rise 2

frontend users
    bind 127.0.0.1:{port}
    http-request set-header x-request-id %[uuid()] unless {{ req.hdr(x-request-id) -m found }}
    http-request set-var(txn.began) date(0,us)
    http-request set-var(txn.key) req.fhdr(x-request-id)
    http-request set-var(txn.key) req.fhdr({split_by}) if {{ req.hdr({split_by}) -m found }}
    http-request set-var(txn.share) var(txn.key),xxh32({seed}),mod({whole})
    use_backend canary if {{ var(txn.share),sub(proc.canary) lt 0 }}
    default_backend stable

backend stable
    retries {retries}
    retry-on conn-failure empty-response{slow_stable}
    server stable {stable} check

backend canary
    retry-on conn-failure empty-response junk-response response-timeout 500 502 503 504{slow_canary}
    # The balancing algorithm knows the second server alone, so that every retry goes there.
    option redispatch 1
    retries 3
    use-server canary if TRUE
    # (Not shutdown-sessions: it also breaks off requests that are still connecting, which nobody asks again.)
    default-server observe layer7 error-limit 5 on-error mark-down
    server canary {canary} weight 0 check{without_canary}
    server instead {stable} track stable/stable

# Answers that took longer than the objective.
backend slow
    stick-table type string len 8 size 2 nopurge store gpc0
"""

_SLOW = """
    http-request track-sc0 str({arm}) table slow
    acl is_late date(0,us),sub(txn.began) gt {objective_us}
    http-response sc-inc-gpc0(0) if is_late {{ status lt 500 }} {{ srv_name {arm} }}"""


def configuration(route: Route) -> str:
    """The whole file. Its first line is the route itself (`route_of`)."""
    return _text(route, structure(route))


def structure(route: Route) -> str:
    """What a running HAProxy cannot be told: the digest of everything but addresses and weight."""
    plain = route.model_copy(update={"stable": NOWHERE, "canary": NOWHERE, "weight": 0})
    return digest_of(_text(plain, "")).removeprefix("sha256:")[:12]


def route_of(text: str) -> Route | None:
    """The route that a file was written for; None where it is none of Slipway's."""
    first = text.partition("\n")[0]
    if not first.startswith(_ROUTE):
        return None
    try:
        return Route.model_validate_json(first.removeprefix(_ROUTE))
    except ValidationError:
        return None


def share_of(percent: float) -> int:
    """Percent → what `proc.canary` holds."""
    return round(percent * WHOLE / 100)


def percent_of(share: int) -> float:
    """What `proc.canary` holds → percent."""
    return share * 100 / WHOLE


def address_of(endpoint: Endpoint) -> str:
    """As HAProxy writes it."""
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


def _text(route: Route, structure: str) -> str:
    def slow(arm: str) -> str:
        return "" if route.p99_ms is None else _SLOW.format(arm=arm, objective_us=round(route.p99_ms * 1000))

    server_s = max(_SERVER_S, round(_OBJECTIVES * (route.p99_ms or 0) / 1000))
    return _TEMPLATE.format(
        route=_ROUTE + route.model_dump_json(),
        structure=structure,
        model=route.model,
        port=route.port,
        split_by=route.split_by,
        # Of its own for each model, or the same users would meet every model's canary first.
        seed=zlib.crc32(route.model.encode()) >> 1,
        canary_share=share_of(route.weight),
        whole=WHOLE,
        retries=RETRIES,
        stable=address_of(route.stable),
        canary=address_of(route.canary or NOWHERE),
        without_canary="" if route.canary else " disabled",
        slow_stable=slow("stable"),
        slow_canary=slow("canary"),
        buffer_bytes=_BUFFER_BYTES,
        server_s=server_s,
        idle_s=_IDLE_S,
        # A process that was replaced: a connection that idles, its last request, and that once more.
        leaving_s=_IDLE_S + 2 * server_s,
    )
