"""The shadow gate: gathered requests to both versions, and the judge's report.

In: where both listen, what to send, what to expect; or two deployed packages and a store, from which both follow.
Out: a `ShadowReport`. No user meets the new version here, and users of the old one must not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.release.contracts import Deployed, Endpoint, ShadowReport
from tasks.release.shadow.expectations import Expectations, Version
from tasks.release.shadow.gather import gather, known
from tasks.release.shadow.judge import judge
from tasks.release.shadow.replay import Pace, Target, replay
from tasks.release.shadow.requests import Request
from tasks.spec import ShadowSpec
from tasks.store import Store


def run_shadow(
    old: Endpoint | None,
    new: Endpoint,
    requests: Sequence[Request],
    expectations: Expectations,
    *,
    source: str = "",
    pace: Pace | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> ShadowReport:
    """Send the requests to both and judge the answers. `is_over` ends it early, which is inconclusive.

    Raises:
        ValueError: there is an old version to compare with and no server of it to ask, or the other way round.
    """
    if (old is None) is not (expectations.old is None):
        raise ValueError("an old version is compared where its server is named, and only there")
    before = None if old is None or expectations.old is None else _target(old, expectations.old)
    seen = replay(requests, before, _target(new, expectations.new), pace, is_over)
    return judge(seen, expectations, source)


def shadow(
    stable: Deployed | None,
    candidate: Deployed,
    old: Endpoint | None,
    new: Endpoint,
    wanted: ShadowSpec,
    store: Store,
    work: Path,
    *,
    log: Path | None = None,
    pace: Pace | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> ShadowReport:
    """The same from what is deployed: packages, specs, evaluation data and golden samples are read from the store.

    Args:
        stable, old: the version in production, and where its server listens; both None where there is none.
        candidate, new: the version to be.
        wanted: the candidate's `release.shadow`.
        work: a folder for what is fetched.
        log: the prediction log that the old version's servers write (`serving.prediction_log`), where there is one.

    Raises:
        BadInput: the store does not have the packages, or not with their specs.
    """
    before = None if stable is None else known(stable, store)
    found = gather(before, known(candidate, store), wanted, store, work, log)
    return run_shadow(old, new, found.requests, found.expectations, source=found.source, pace=pace, is_over=is_over)


def _target(endpoint: Endpoint, version: Version) -> Target:
    return Target(endpoint, version.model, version.raw)
