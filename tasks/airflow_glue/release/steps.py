"""The body of each task of `release_model` and `rollback_model`: what it does there, and what Airflow shows beside it.

A release goes by its id: what is known of it is in the controller's journal, and every task that is tried again, or
cleared, goes on with that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime

from airflow.sdk import get_current_context

from tasks.airflow_glue.evidence import pull, push, require, task_instance
from tasks.airflow_glue.plainly import plainly
from tasks.airflow_glue.project import absolute
from tasks.airflow_glue.release.assets import offered
from tasks.airflow_glue.release.control import Asked, Releases, releases
from tasks.airflow_glue.release.news import end_of, progress, why
from tasks.airflow_glue.release.notify import refuse_unusable, tell
from tasks.airflow_glue.release.question import question
from tasks.contracts import Contract, Finding, LineageRecord, Owner, Package
from tasks.errors import BadInput, GateBlocked, TrackingUnavailable
from tasks.narrowing import refuse_unknown
from tasks.release.contracts import Phase, Release
from tasks.settings import Settings

_log = logging.getLogger(__name__)

PREPARE, SHADOW, APPROVE, CANARY, OUTCOME = "prepare", "shadow", "approve", "canary", "outcome"
BACK = "back"

#: The key that `shadow` leaves its `Question` under.
ASKED = "asked"

#: Who answered where no person did.
NOBODY = "nobody"

#: The keys that the addresses of a release's report and of its MLflow run are left under.
REPORT, MLFLOW = "report", "mlflow"

#: What the controller finds of a release whose watcher has left.
UNWATCHED = "RELEASE_UNWATCHED"

#: Between two slices of work, s: starting a server and replaying requests take longer by far.
_EVERY_S = 0.5


class Answer(Contract):
    """What became of the question to a person."""

    is_approved: bool
    by: str
    at: datetime | None = None
    reason: str = ""
    is_late: bool = False


@plainly
def prepare() -> None:
    """Open the release: the package's attestation is verified, its server started and asked its golden samples.

    Refused when another release of the model is not over, when the evidence does not verify, or when a notifier that is
    configured cannot be used. Goes on with the release that this run has opened before.
    """
    context = get_current_context()
    params = context["params"]
    refuse_unknown(context["dag_run"].conf or {}, params)
    refuse_unusable()
    control = releases(this_run())
    release = control.open(_asked())
    _log.info("%s: package %s, instead of %s", release.id, release.candidate.package, _replaced(release))
    _go_on(control, release, lambda now: now.phase is not Phase.PREPARING)


@plainly
def shadow() -> None:
    """Replay recorded requests to the new and the old version and compare the answers. No user meets the new one.

    Leaves the evidence for whoever is asked next.
    """
    control = releases(this_run())
    release = _go_on(control, require(Release, PREPARE), lambda now: now.shadow is not None)
    package, record, replaced, is_asked = _packages(release)
    push(question(release, package, record, replaced, is_asked=is_asked), key=ASKED)


@plainly
def outcome() -> None:
    """The release's outcome is the run's: green only when the new package has all traffic.

    Ends a release that would otherwise be left: rejected, not approved in time, or its canary's task given up.
    """
    opened = pull(Release, PREPARE)
    if opened is None:
        raise GateBlocked("no release was opened: the log of `prepare` says why")
    control, answer = releases(this_run()), pull(Answer, APPROVE)
    release = control.finish(opened.id)
    if not (release.phase.is_over or _waits_for_a_person(release)):
        by = this_run() if answer is None or answer.by == NOBODY else answer.by
        release = control.refuse(release.id, by, left(answer))
        while not release.phase.is_over:
            release = control.look(release.id)
    release = _followed(control, release)
    push(release)
    _link(release)
    context = get_current_context()
    if (news := end_of(release, _run_url())) is not None:
        tell(news, context)
    if release.phase is not Phase.PROMOTED:
        raise GateBlocked(f"{release.model}: {release.phase}\n{why(release)}")


@plainly
def back() -> None:
    """The previous package has all traffic: the router first, then golden samples, then MLflow's aliases."""
    context = get_current_context()
    params = context["params"]
    refuse_unknown(context["dag_run"].conf or {}, params)
    control = releases(this_run())
    release = control.back(params["model"], params["reason"])
    release = _followed(control, release)
    push(release)
    _link(release)
    if (news := end_of(release, _run_url())) is not None:
        tell(news, context)
    if release.phase is not Phase.ROLLED_BACK:
        raise GateBlocked(f"{release.model} did not go back: {release.phase}\n{why(release)}")
    _log.info("%s: package %s serves again", release.model, _replaced(release))


def this_run() -> str:
    """Who acts, for the audit trail: the same for every try of the same run."""
    run = get_current_context()["dag_run"]
    user = getattr(run, "triggering_user_name", None)
    return f"airflow {run.dag_id} {run.run_id}{f' ({user})' if user else ''}"


# --- shared by the steps ------------------------------------------------------------------------------------------


def _asked() -> Asked:
    """What this run is to release: what a person filled in, or the package that started it."""
    context = get_current_context()
    params = context["params"]
    ready = offered(context["triggering_asset_events"])
    if not ready and params["model"] is None:
        raise BadInput("no model was given: fill in Model, or let a package start its release (release.automatic)")
    recorded = None if params["recorded"] is None else str(absolute(params["recorded"]))
    if not ready:
        return Asked(model=params["model"], version=params["version"], port=params["port"], recorded=recorded)
    if others := {item.model for item in ready} - {ready[0].model}:
        _log.warning(
            "packages of several models came together, and one run releases one: start it for %s", ", ".join(others)
        )
    return Asked(model=ready[0].model, version=ready[0].package, port=params["port"], recorded=recorded)


def _go_on(control: Releases, release: Release, until: Callable[[Release], bool]) -> Release:
    """Work until a phase is done, leave what came of it, and fail where a gate said no."""
    told = ""
    while not until(release) and not release.phase.is_over:
        release = control.look(release.id)
        if (now := progress(release)) != told:
            _log.info(now)
            told = now
        if not until(release):
            time.sleep(_EVERY_S)
    push(release)
    if release.phase is Phase.REFUSED or release.phase is Phase.ROLLED_BACK:
        raise GateBlocked(f"{release.model}: {release.phase}\n{why(release)}")
    return release


def _link(release: Release) -> None:
    """Leave where the release is to be seen."""
    from tasks.lineage import packages
    from tasks.lineage.tracking import run_url
    from tasks.release.controller.ledger import Ledger, tracked
    from tasks.store import open_store

    settings = Settings.from_environment()
    if release.report is not None:
        task_instance().xcom_push(key=REPORT, value=f"/slipway/releases/{release.id}")
    run = tracked(Ledger(settings.home, release.model).place(release.id) / "journal.jsonl")
    known = {item.package.digest: item.record for item in packages(open_store(settings.store_uri))}
    record = known.get(release.candidate.package)
    if run is not None and record is not None and (url := run_url(settings.tracking_uri, record.experiment_id, run)):
        task_instance().xcom_push(key=MLFLOW, value=url)


def _waits_for_a_person(release: Release) -> bool:
    """Held by its evidence. One that is held because nobody looks any more was given up: its task was stopped."""
    return release.phase is Phase.HELD and UNWATCHED not in {finding.code for finding in release.findings}


def _followed(control: Releases, release: Release) -> Release:
    """MLflow's aliases and audit trail follow. Where MLflow stays away, users are served all the same, and whatever
    asks the controller next catches up: the last try goes on without."""
    ti = task_instance()
    try:
        return control.finish(release.id)
    except TrackingUnavailable as error:
        if ti.try_number <= ti.max_tries:
            raise
        _log.error("MLflow does not know of it yet, the next release of the model catches up: %s", error)
        return release


def left(answer: Answer | None) -> Finding:
    """Why a release ends that its evidence did not end."""
    if answer is None or answer.is_approved:
        return Finding(
            code="RELEASE_ABANDONED",
            owner=Owner.PLATFORM,
            message="the task that watched the canary was given up before the evidence had decided",
            advice="the log of `canary` says why; clear `prepare` to begin again",
        )
    if answer.is_late:
        return Finding(
            code="RELEASE_NOT_APPROVED",
            owner=Owner.MODEL,
            message=f"nobody approved it in time: {answer.reason}",
            advice="look at shadow's evidence and begin again: clear `prepare`",
        )
    return Finding(
        code="RELEASE_REJECTED",
        owner=Owner.MODEL,
        message=f"{answer.by} rejected it{f': {answer.reason}' if answer.reason else ', without a reason'}",
        advice=f"ask {answer.by}; a package that was mended is another one, with its own release",
    )


def _packages(release: Release) -> tuple[Package, LineageRecord | None, Package | None, bool]:
    """What the question is about: the new package and its record, the old one, and whether a person is asked at all."""
    from tasks.lineage import packages, spec_of
    from tasks.store import open_store

    store = open_store(Settings.from_environment().store_uri)
    known = {item.package.digest: item for item in packages(store)}
    mine = known[release.candidate.package]
    spec = spec_of(mine.package, store)
    replaced = None if release.stable is None else known.get(release.stable.package)
    # Of a spec that is not known, a person is asked; of a package that serves already, nobody.
    is_asked = not release.phase.is_over and (spec is None or spec.release.approval)
    return mine.package, mine.record, None if replaced is None else replaced.package, is_asked


def _replaced(release: Release) -> str:
    return "nothing" if release.stable is None else release.stable.package


def _run_url() -> str | None:
    """This run in Airflow's pages."""
    from airflow.sdk.configuration import conf

    base = conf.get("api", "base_url", fallback="")
    run = get_current_context()["dag_run"]
    return f"{base.rstrip('/')}/dags/{run.dag_id}/runs/{run.run_id}" if base else None
