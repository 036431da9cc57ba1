"""The shadow gate: gathered requests to both versions, and the judge's report.

In: where both listen, what to send, what to expect; or a release and a store, from which all of it follows. Out: a
`ShadowReport`. No user meets the new version here, and users of the old one must not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.release.contracts import Endpoint, Release, ShadowReport
from tasks.release.shadow.expectations import Expectations, Version
from tasks.release.shadow.gather import gather, known
from tasks.release.shadow.judge import judge
from tasks.release.shadow.replay import Pace, Target, replay
from tasks.release.shadow.requests import Request
from tasks.store import Store
from tasks.workspace import scratch


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
    release: Release,
    stable: Endpoint,
    canary: Endpoint,
    recorded: Path | None = None,
    *,
    store: Store,
    work: Path,
    pace: Pace | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> ShadowReport:
    """The same of a release: packages, specs, evaluation data and golden samples are read from the store.

    Args:
        release: what is released against what; `shadow_spec` says how much is asked.
        stable, canary: where both listen; of a model's first release, only the latter is asked.
        recorded: the prediction log that the stable version's servers write (`serving.prediction_log`), if any.
        work: a folder; what is fetched into it is removed again.

    Raises:
        BadInput: the store does not have the packages, or not with their specs.
    """
    before = None if release.stable is None else known(release.stable, store)
    with scratch(work) as folder:
        found = gather(before, known(release.candidate, store), release.shadow_spec, store, folder, recorded)
        old = None if before is None else stable
        return run_shadow(
            old, canary, found.requests, found.expectations, source=found.source, pace=pace, is_over=is_over
        )


def _target(endpoint: Endpoint, version: Version) -> Target:
    return Target(endpoint, version.model, version.raw)
