"""The state machine of a release: each step is written down before it is taken, so that any process can go on.

    events.py       what can happen, when, and what it changes; pure
    machine.py      what happened → where it stands → what is to be done; pure
    serving.py      what serves a model, and what served before; pure
    ledger.py       the journal and `serving.json` on disk; trace.py: the looks
    protocols.py    what a release acts through; real.py: the real ones, gates.py: attestation and golden answers
    slices.py       one slice: do what is to be done, write down what came of it; acts.py: servers and router
    controller.py   everything that can be asked of a release; back.py: the way back; drive.py: by a process that stays
    opening.py      what a person names → a release that can begin, or why not
    standing.py     what is known of a model, for people
    api.py          the functions below

Nothing needs a process that stays. Every function returns within moments or with its slice, and can be called by any
process that shares SLIPWAY_HOME, Docker engine and network with the one before: again after that was killed, twice, or
by two at once. Whoever calls names itself in `by` ("anna", "airflow: release_model/manual__2026-11-24"), which the
journal keeps. All but the last give a `Release`.

open_release(name, settings, by=…, approved_by=None, port=None, recorded=None, again=True)
    Begins a release, or finds the one of the same package that goes on (`again`). Of the package that serves already,
    the release that made it so. Raises ReleaseUnderway (another package's goes on), GateBlocked (the package did not
    pass), BadInput (no such package or version). `name` is MODEL, MODEL@VERSION, a digest, or a tuned image.
advance(release_id, settings, by=…)
    One slice. PREPARING: attestation, server, golden answers (seconds). SHADOW: the replay (seconds to minutes); with
    `release.shadow` there and the phase still SHADOW it waits for `approve`. CANARY: one look, the judgement, one step
    where it says so, the router's weight asserted again (below 100 ms): call it every second. PROMOTING, ROLLING_BACK:
    to their end (seconds). HELD: the weight alone. Over: nothing.
approve(release_id, settings, by=…)         a person agrees, before or after shadow's evidence is there
refuse(release_id, why, settings, by=…)     a person does not, or did not answer in time: `why` is a Finding
leave(release_id, settings, by=…)           nobody looks any more: weight 0, HELD, RELEASE_UNWATCHED
resume(release_id, settings, by=…, decided=True)
    Go on. `decided=False` is for another try of the same task: it goes on unless the evidence wants a person.
rollback(model, settings, by=…, to=None, reason="")
    The package before, or `to`, whole; verified when it returns. Takes a release that goes on over.
restore(model, settings, by=…)              servers and router as they serve: after a reboot, or `make down`
finish(release_id, settings, by=…)
    Once `release.phase.is_over`: servers that nobody needs end, the page for people, MLflow's aliases and audit trail.
    TrackingUnavailable: nothing is lost, the next `finish` or `catch_up` has it.
catch_up(model, settings, by=…)             `finish` for all that are over → ids of those that MLflow does not know yet
standing(model, settings)                   → Standing: what serves, what goes on, with which weights and evidence

A task that was killed calls `open_release` again (it finds its own release), `resume(…, decided=False)`, and goes on
with `advance`. The outcome is `release.phase`; `release.findings` say why, `release.judgement` is the latest evidence.
"""

from __future__ import annotations

from tasks.release.controller.api import (
    advance,
    approve,
    catch_up,
    finish,
    leave,
    open_release,
    refuse,
    restore,
    resume,
    rollback,
    standing,
)
from tasks.release.controller.standing import Standing

__all__ = [
    "Standing",
    "advance",
    "approve",
    "catch_up",
    "finish",
    "leave",
    "open_release",
    "refuse",
    "restore",
    "resume",
    "rollback",
    "standing",
]
