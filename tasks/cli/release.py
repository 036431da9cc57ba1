"""Commands that change what serves, and the one that shows it: `release`, `rollback`, `status`."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.documents import standing_document
from tasks.cli.session import AsJson, Debug, Session, opened
from tasks.errors import ApprovalNeeded, BadInput, ReleaseUnderway, TrackingUnavailable
from tasks.release.contracts import Phase, Release

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tasks.release.controller import Standing
    from tasks.release.controller.controller import Controller
    from tasks.settings import Settings

#: Between two pictures of `--watch`.
_WATCH_S = 1.0


def release(
    package: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@VERSION]",
            help="A model's name, which stands for its newest package; with @VERSION that of the registered model; "
            "or a package's digest, or a tuned image.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="You agree, where the spec asks for approval.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the release of this model.")] = False,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="Where users ask; for a model's first release.")
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Recorded requests for shadow, instead of the server's own.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Let a package take the traffic over, step by step, on evidence; or take it back.

    Ctrl-C leaves a release that can be resumed; no user meets the new version while nobody watches.
    """
    from tasks.cli.watching import Progress
    from tasks.release.controller.ledger import Ledger
    from tasks.settings import Settings

    settings = Settings.from_environment()
    with opened(as_json, debug) as (session, _):
        mine = _controller(settings)
        now = _resume(mine, package, yes=yes) if resume else _begin(mine, settings, package, yes, port, recorded)
        if now is None:
            session.document({"model": package, "release": None})
            session.result(f"{package}: no release goes on; servers and router are as they should be")
            return 0
        if not now.phase.is_over:
            with Ledger(settings.home, now.model).watched() as is_mine, Progress(session.err) as progress:
                if not is_mine:
                    raise ReleaseUnderway(
                        f"another process of this machine watches the release of {now.model}: "
                        f"`slipway status {now.model} --watch` shows it, `slipway rollback {now.model}` ends it"
                    )
                now = _watch(mine, now, progress)
        return _conclude(session, mine, now, 0 if now.phase is Phase.PROMOTED else 1)


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model whose package before is to serve again.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION|DIGEST", help="Another package that served, instead of the one before."),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit trail.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Bring the package before back, whole, now: the router first, verified with golden requests.

    A release that goes on is ended by it. Asking again does not go further back; `--to` does.
    """
    from tasks.release.controller.back import roll_back
    from tasks.settings import Settings

    settings = Settings.from_environment()
    with opened(as_json, debug) as (session, _):
        mine = _controller(settings)
        ended = roll_back(mine, model, to, reason)
        wrong = [item for item in ended.findings if item.code == "RELEASE_GOLDEN_DIFFERS"]
        return _conclude(session, mine, ended, 1 if wrong else 0)


def status(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Show the newest package of each model, what serves, and the release that goes on: weights and evidence."""
    from tasks.settings import Settings

    settings = Settings.from_environment()
    with opened(as_json, debug) as (session, interruption):
        if watch and not as_json:
            _show_on(session, settings, model, interruption.check)
        shown, standings = _known(settings, model)
        session.document(
            {
                "packages": [standing_document(item) for item in shown],
                "releases": [item.model_dump(mode="json") for item in standings],
            }
        )
        if not as_json:
            session.result(*_status_lines(shown, standings, session.out.width, is_one=model is not None))
    return 0


# --- release ------------------------------------------------------------------------------------------------------


def _begin(
    mine: Controller, settings: Settings, name: str, yes: bool, port: int | None, recorded: Path | None
) -> Release:
    from tasks.lineage import packages
    from tasks.release.controller.opening import Asked, find_candidate
    from tasks.store import open_store

    if recorded is not None and not recorded.is_dir():
        raise BadInput(f"{recorded}: expected a folder of recorded requests, as `serving.prediction_log` writes them")
    store = open_store(settings.store_uri)
    candidate = find_candidate(name, list(packages(store)), store)
    if candidate.spec.release.approval and not yes and not sys.stdin.isatty():
        raise ApprovalNeeded(
            f"model.yaml of {candidate.package.name} asks for approval (release.approval), and nobody can be asked "
            "here: `--yes` says that you agree, `release.approval: false` asks nobody"
        )
    _catch_up(mine, candidate.package.name)
    folder = None if recorded is None else str(recorded.absolute())
    asked = Asked(by=mine.by, approved_by=mine.by if yes else None, port=port, recorded=folder)
    return mine.open(candidate, asked, again=False)


def _resume(mine: Controller, model: str, *, yes: bool) -> Release | None:
    """The release that goes on; where none does, what serves is put right."""
    from tasks.release.controller.ledger import Ledger

    name = model.partition("@")[0]
    ledger = Ledger(mine.home, name)
    underway = ledger.underway()
    if underway is None:
        if ledger.serving() is None:
            raise BadInput(f"{name} was never released: `slipway release {name}` begins, `slipway status` lists models")
        mine.restore(name)
        return None
    if yes:
        mine.approve(underway.release.id)
    return mine.resume(underway.release.id)


def _watch(mine: Controller, now: Release, seen: Any) -> Release:
    """To its end, or to where a person has to decide; whoever may not go on watching says so."""
    from tasks.release.controller.drive import drive

    try:
        while True:
            now = drive(mine, now, seen)
            if now.phase is not Phase.SHADOW:
                return now
            now = _ask(mine, now, seen)
            if now.phase is Phase.SHADOW:
                return now
    except BaseException:  # also Ctrl-C: nobody watches any more, so no user meets the new version
        mine.leave(now.id)
        raise


def _ask(mine: Controller, now: Release, seen: Any) -> Release:
    """The person at the terminal, with shadow's evidence before them; as it was where there is none."""
    from tasks.release.controller.findings import not_approved

    if not sys.stdin.isatty():
        return now
    seen.stop()
    if typer.confirm(f"Let users of {now.model} meet it, {now.plan.steps[0]:g} % at first?", err=True):
        return mine.approve(now.id)
    return mine.refuse(now.id, not_approved(mine.by))


def _conclude(session: Session, mine: Controller, now: Release, code: int) -> int:
    """Say how it ended, at once; then what follows, for which MLflow is needed."""
    from tasks.release.controller.ledger import Ledger

    serving = Ledger(mine.home, now.model).serving()
    if not session.as_json:
        from tasks.release.report import lines

        session.result(*lines(now))
        if serving is not None:
            session.result(f"{now.model} answers on http://127.0.0.1:{serving.port}")
        if now.phase is Phase.HELD:
            session.result(f"`slipway release --resume {now.model}` goes on, `slipway rollback {now.model}` ends it")
        if now.phase is Phase.SHADOW:
            session.result(f"it waits for approval: `slipway release --resume --yes {now.model}`")
    owed = _catch_up(mine, now.model)
    if owed:
        session.err.print(f"MLflow did not answer, the audit trail is in the journal and follows later: {owed}")
    state = mine.ledger(now.id).state(now.id)
    session.document(
        {
            "model": now.model,
            "release": (state.release if now.phase.is_over else now).model_dump(mode="json"),
            "serving": None if serving is None else serving.model_dump(mode="json"),
            "mlflow": state.followed,
        }
    )
    return code


def _catch_up(mine: Controller, model: str) -> str:
    """Finish whatever is over; why MLflow does not know of it yet, where it does not."""
    for state in mine.unfinished(model):
        try:
            mine.finish(state.release.id)
        except TrackingUnavailable as error:
            return str(error)
    return ""


def _controller(settings: Settings) -> Controller:
    from tasks.release.controller.controller import Controller
    from tasks.release.controller.real import outside

    return Controller(settings.home, outside(settings), _person())


def _person() -> str:
    """Who calls, for the journal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, under a user id without a name
        return str(os.getuid())


# --- status -------------------------------------------------------------------------------------------------------


def _known(settings: Settings, model: str | None) -> tuple[list[Any], list[Standing]]:
    """The newest package of each model, and what is known of its releases."""
    from tasks.lineage import packages, unknown_model
    from tasks.release.controller import standing
    from tasks.store import open_store

    newest: dict[str, Any] = {}
    for item in packages(open_store(settings.store_uri)):
        newest.setdefault(item.package.name, item)
    if model is not None and model not in newest:
        raise BadInput(unknown_model(model, list(newest)))
    shown = [newest[name] for name in sorted(newest) if model in {None, name}]
    found = (standing(item.package.name, settings) for item in shown)
    return shown, [item for item in found if item is not None]


def _status_lines(shown: list[Any], known: list[Standing], width: int, *, is_one: bool) -> Iterable[RenderableType]:
    from tasks.console import finding_lines, standings

    if not shown:
        yield "Nothing is packaged yet: `slipway package SPEC` does it."
        return
    yield from standings(shown, width)
    if is_one:
        yield from finding_lines(shown[0].package.findings)
    for standing in known:
        yield ""
        yield from _released(standing, with_history=is_one)


def _released(standing: Standing, *, with_history: bool) -> Iterable[RenderableType]:
    """What serves a model, what goes on, and how the last releases ended."""
    from tasks.release.report import lines
    from tasks.release.report.view import named, sentence

    serving = standing.serving
    if serving is not None:
        yield (
            f"{standing.model} answers on http://127.0.0.1:{serving.port} with {named(serving.current)} since "
            f"{serving.since:%Y-%m-%d %H:%M} UTC; to go back to: {named(next(iter(serving.previous), None))}"
        )
    if standing.underway is not None:
        yield from lines(standing.underway)
        if not standing.is_watched:
            yield f"no process of this machine watches it: `slipway release --resume {standing.model}` goes on"
        if standing.weight is not None and abs(standing.weight - standing.underway.weight) > _VISIBLE:
            yield f"the router sends {standing.weight:g} % to it now, and is to send {standing.underway.weight:g} %"
    if with_history:
        for each in standing.last:
            yield f"{each.started_at:%Y-%m-%d %H:%M} UTC  {each.phase.value.replace('_', ' '):<13} {sentence(each)}"


#: A weight that differs by less than this is shown as the same.
_VISIBLE = 0.005


def _show_on(session: Session, settings: Settings, model: str | None, check: Any) -> None:
    """The same again every second, in place; until Ctrl-C, which ends it without a word."""
    import time

    from rich.console import Group
    from rich.live import Live

    from tasks.terminal import Stopped

    try:
        with Live(console=session.out, auto_refresh=False) as live:
            while True:
                shown, standings = _known(settings, model)
                one = model is not None
                live.update(Group(*_status_lines(shown, standings, session.out.width, is_one=one)), refresh=True)
                time.sleep(_WATCH_S)
                check()
    except Stopped:
        return
