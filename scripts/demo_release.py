"""The second half of `make demo`: a package takes traffic over under load, and a broken one is taken back by itself.

In: the first version of digits-cnn, packaged. What happens, all through Airflow and the real router:

    first       proven and answering, it takes everything: there is nothing to be compared with
    retrained   shadow → approval → 1 → 5 → 25 → 50 → 100 %, under load
    rescaled    the same, until the evidence says that it answers otherwise than it should; users keep the one before

What was done before is not done again. Approval is given over Airflow's API, as a person would give it in its pages.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from scripts.airflow_api import SETTLES_S, AirflowApi, Run
from scripts.users import Asked, Users, rows_of
from tasks.contracts import Package, Verdict
from tasks.errors import PlatformError
from tasks.figures import short
from tasks.pipeline import Pipeline
from tasks.release import controller
from tasks.release.contracts import Phase, Release
from tasks.settings import Settings
from tasks.spec import ModelSpec, load_spec

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "digits-cnn"
RETRAINED, RESCALED = EXAMPLE / "retrained.yaml", EXAMPLE / "rescaled.yaml"
MODEL, BY = "digits-cnn", "make demo"
PACKAGE, RELEASE = "package_model", "release_model"
_TIMEOUT_S = 1200
_GREEN, _RED = "green", "bold red"


@dataclass(frozen=True, slots=True)
class Shown:
    """How one release went, and what users met meanwhile."""

    release: Release
    asked: Asked
    took_s: float


def release_all(console: Console, api: AirflowApi, settings: Settings, first: Package) -> bool:
    """The whole second half; whether everything went as it should."""
    api.wait_for_dags(PACKAGE, RELEASE)
    api.unpause(RELEASE)
    console.print()
    standing = controller.standing(MODEL, settings)
    if standing is None or standing.serving is None:
        _begin(console, api, settings, first)
    else:
        controller.restore(MODEL, settings, by=BY)
    good = _packaged(console, api, settings, RETRAINED)
    bad = _packaged(console, api, settings, RESCALED)
    was_good, was_bad = _ended(settings, good), _ended(settings, bad)
    if was_good is Phase.PROMOTED and was_bad in {Phase.ROLLED_BACK, Phase.REFUSED} and _serves(settings, good):
        console.print(
            Text(
                f"✓ {MODEL}: {short(good.digest)} serves, {short(bad.digest)} was taken back earlier: "
                "nothing is released again",
                style=_GREEN,
            )
        )
        return True
    spec = load_spec(RETRAINED)
    port, rows = _port(settings), rows_of(EXAMPLE / "artifacts" / "eval.npz", "pixels")
    with Users(port, f"/v2/models/{MODEL}/infer", rows, p99_ms=spec.serving.p99_ms) as users:
        console.print(f"users ask http://127.0.0.1:{port}/v2/models/{MODEL}/infer from now on")
        promoted = _serves(settings, good) or _shown(console, _release(console, api, settings, good, users), good=True)
        taken_back = _shown(console, _release(console, api, settings, bad, users), good=False)
    asked = users.asked
    ok = promoted and taken_back and asked.failed == 0 and _serves(settings, good)
    console.print(
        Text.assemble(
            (
                f"{'✓' if ok else '✗'} users sent {asked.requests:,} requests and saw {asked.failed} errors",
                _GREEN if ok else _RED,
            ),
            f"; {short(good.digest)} {'serves' if _serves(settings, good) else 'does not serve'}",
        )
    )
    return ok


def _begin(console: Console, api: AirflowApi, settings: Settings, first: Package) -> None:
    """The model's first release, before it has users."""
    run = _start(api, first, "first")
    ended = _follow(console, api, settings, run, first)
    if ended is None or ended.phase is not Phase.PROMOTED:
        raise PlatformError(f"the first release of {MODEL} did not end as it should: see {_url(api, run)}")
    console.print(
        Text(f"✓ {MODEL} {short(first.digest)} serves: the first version has nothing to be compared with", style=_GREEN)
    )


def _packaged(console: Console, api: AirflowApi, settings: Settings, path: Path) -> Package:
    """The package of a spec, made through Airflow where it is not there yet."""
    spec = load_spec(path)
    if (package := _passed(settings, spec)) is None:
        run = api.trigger(PACKAGE, {"spec": str(path.relative_to(ROOT))}, run_id=f"demo__{path.stem}__{_stamp()}")
        console.print(f"{path.relative_to(ROOT)}: packaging")
        over = api.wait(run, _TIMEOUT_S)
        package = _passed(settings, spec)
        if package is None:
            raise PlatformError(f"{path.relative_to(ROOT)} was not packaged ({over.state}): see {_url(api, run)}")
    console.print(Text(f"✓ {path.relative_to(ROOT)} passed every gate: package {short(package.digest)}", style=_GREEN))
    return package


def _passed(settings: Settings, spec: ModelSpec) -> Package | None:
    package = Pipeline(settings).packaged(spec)
    return package if package is not None and package.verdict is Verdict.PASSED else None


def _release(console: Console, api: AirflowApi, settings: Settings, package: Package, users: Users) -> Shown | None:
    """One release through Airflow, followed to its end."""
    before, began = users.asked, time.monotonic()
    run = _start(api, package, short(package.digest))
    console.print(f"releasing {short(package.digest)}: {_url(api, run)}")
    ended = _follow(console, api, settings, run, package)
    after = users.asked
    if ended is None:
        console.print(Text(f"✗ no release was opened: see {_url(api, run)}", style=_RED))
        return None
    asked = Asked(after.requests - before.requests, after.failed - before.failed, after.slow - before.slow)
    return Shown(ended, asked, time.monotonic() - began)


def _follow(console: Console, api: AirflowApi, settings: Settings, run: Run, package: Package) -> Release | None:
    """Give approval when it is asked for, and say where the release stands whenever that changes."""
    told, approved, deadline = "", 0, time.monotonic() + _TIMEOUT_S
    while not (now := api.run(run)).is_over:
        if time.monotonic() > deadline:
            api.stop(now)
            raise PlatformError(f"the release is not over after {_TIMEOUT_S} s: see {_url(api, run)}")
        asks = next((task for task in api.tasks(run) if task.task_id == "approve"), None)
        if asks is not None and asks.state == "awaiting_input" and asks.try_number > approved:
            time.sleep(SETTLES_S)
            request = api.answer(run, "approve", "Approve", "shadow's evidence was looked at by make demo")
            console.print(f"  approved over the API, as a person would in Airflow's pages: {request}")
            approved = asks.try_number
        release = _latest(settings, package)
        if release is not None and (line := _line(release)) != told:
            console.print(f"  {line}")
            told = line
        time.sleep(0.5)
    return _latest(settings, package)


def _line(release: Release) -> str:
    match release.phase:
        case Phase.CANARY:
            return f"{release.weight:>4g} % of users meet {short(release.candidate.package)}"
        case Phase.SHADOW if release.shadow is not None:
            shadow = release.shadow
            agreed = "" if shadow.agreement is None else f", {shadow.agreement:.1%} answered alike"
            return f"shadow {shadow.verdict}: {shadow.requests} requests to both versions{agreed}"
        case _:
            return f"{str(release.phase).replace('_', ' ')}"


def _shown(console: Console, shown: Shown | None, *, good: bool) -> bool:
    """Say how a release ended; whether that is how it should."""
    if shown is None:
        return False
    release = shown.release
    ok = release.phase is Phase.PROMOTED if good else release.phase in {Phase.ROLLED_BACK, Phase.REFUSED}
    console.print(
        Text.assemble(
            (
                f"{'✓' if ok else '✗'} {short(release.candidate.package)} is {str(release.phase).replace('_', ' ')}",
                _GREEN if ok else _RED,
            ),
            f" after {shown.took_s:.0f} s; users meanwhile: {shown.asked.requests:,} requests, "
            f"{shown.asked.failed} errors",
        )
    )
    for finding in release.findings:
        console.print(Text(f"  caught by {finding.code}: {finding.message}"))
    if not good and release.judgement is not None:
        seen = release.judgement
        console.print(
            f"  at the {release.plan.steps[seen.step]:g} % step, after {seen.canary_requests} requests to it there"
        )
    return ok


# --- where it stands ----------------------------------------------------------------------------------------------


def _start(api: AirflowApi, package: Package, label: str) -> Run:
    return api.trigger(RELEASE, {"model": MODEL, "version": package.digest}, run_id=f"demo__{label}__{_stamp()}")


def _latest(settings: Settings, package: Package) -> Release | None:
    """The newest release of a package."""
    standing = controller.standing(MODEL, settings)
    known = () if standing is None else (*([standing.underway] if standing.underway else []), *standing.last)
    return next((release for release in known if release.candidate.package == package.digest), None)


def _ended(settings: Settings, package: Package) -> Phase | None:
    release = _latest(settings, package)
    return None if release is None else release.phase


def _serves(settings: Settings, package: Package) -> bool:
    standing = controller.standing(MODEL, settings)
    return bool(standing and standing.serving and standing.serving.current.package == package.digest)


def _port(settings: Settings) -> int:
    standing = controller.standing(MODEL, settings)
    if standing is None or standing.serving is None:
        raise PlatformError(f"nothing serves {MODEL}: `slipway status {MODEL}` says more")
    return standing.serving.port


def _url(api: AirflowApi, run: Run) -> str:
    return f"{api.url}/dags/{run.dag_id}/runs/{run.run_id}"


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
