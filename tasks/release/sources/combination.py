"""What a server counted, and what the router counted for it → one arm's counts. Pure.

Requests, errors and slow answers are the router's where it counts: it alone knows of requests that reached no server,
and its figures are without those that reach a server past it (golden samples, shadow traffic, health checks). Rows and
predictions are the server's. Where the router was not told the objective, slow answers are the server's too, by the
edge of its histogram that `ServerCounts.edge_ms` names.
"""

from __future__ import annotations

from tasks.release.contracts import ArmCounts, RouterCounts
from tasks.release.sources.page import ServerCounts


def combined(server: ServerCounts, router: RouterCounts | None) -> ArmCounts:
    """One arm. Whatever either of them counts anew is counted anew."""
    if router is None:
        incarnation, requests, errors = server.incarnation, server.requests, server.errors
        late = server.late
    else:
        incarnation = f"{server.incarnation}/{router.incarnation}"
        requests, errors = router.requests, router.errors + router.failed
        late = server.late if router.slow is None else router.slow
    errors = min(errors, requests)
    return ArmCounts(
        incarnation=incarnation,
        requests=requests,
        errors=errors,
        # A slow answer is counted when it begins, a request when it has ended: for that long there may be one too many.
        slow=min(requests, late + errors),
        rows=server.rows,
        answered=server.answered,
        predictions=server.predictions,
        invalid=server.invalid,
    )
