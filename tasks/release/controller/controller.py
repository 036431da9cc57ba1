"""Everything that can be asked of a release, by a person, a DAG or a process that goes on with another's.

Holds nothing that a killed process would take along: each call reads the journal first, and writes down before it acts.
"""

from __future__ import annotations

from pathlib import Path

from tasks.contracts import Finding
from tasks.release.contracts import Phase, Release, TraceHead
from tasks.release.controller import findings
from tasks.release.controller.events import (
    BEFORE_USERS,
    OVER,
    WITHDRAWABLE,
    Approved,
    Followed,
    Left,
    Refused,
    Reported,
    Resumed,
    State,
    Withdrawn,
)
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.opening import Asked, Candidate, begin, existing
from tasks.release.controller.slices import Overtaken, Slices
from tasks.release.controller.trace import looks


class Controller(Slices):
    """A release's controller. Several at once, in as many processes, do no harm."""

    def open(self, candidate: Candidate, asked: Asked, *, again: bool) -> Release:
        """Begin a release; see `tasks.release.controller.api.open_release`."""
        ledger = Ledger(self.home, candidate.package.name)
        with ledger.locked():
            there = existing(candidate.deployed, ledger, again=again)
            if there is not None:
                return there
            self.passing("before opened")
            state = begin(candidate, asked, ledger, self.outside.clock.now())
            self.passing("after opened")
        return state.release

    def approve(self, release_id: str) -> Release:
        """`by` agrees that users meet the new version. Once they do, it changes nothing any more."""
        ledger = self.ledger(release_id)
        with ledger.locked():
            state = ledger.state(release_id)
            if state.release.phase in BEFORE_USERS and state.approved_by is None:
                state = self.record(ledger, state, Approved())
        return self.seen(ledger, state)

    def refuse(self, release_id: str, why: Finding) -> Release:
        """Somebody does not agree, or did not answer in time. One that users met already is withdrawn."""
        ledger = self.ledger(release_id)
        with ledger.locked():
            state = ledger.state(release_id)
            if state.release.phase in BEFORE_USERS:
                state = self.record(ledger, state, Refused(findings=(why,)))
            else:
                state = self._withdraw(ledger, state, why)
        return self.seen(ledger, state)

    def withdraw(self, release_id: str, reason: str) -> Release:
        """Back to the stable package, whatever the evidence. The router is told before this returns."""
        ledger = self.ledger(release_id)
        with ledger.locked():
            state = self._withdraw(ledger, ledger.state(release_id), findings.asked_back(self.by, reason))
        return self.seen(ledger, state)

    def leave(self, release_id: str) -> Release:
        """Nobody will watch it any more: no user meets the canary from now on."""
        ledger = self.ledger(release_id)
        with ledger.locked():
            state = ledger.state(release_id)
            if state.release.phase is Phase.CANARY:
                state = self.record(ledger, state, Left(findings=(findings.unwatched(self.by),)))
                self.acts.assert_weight(state.release)
        return self.seen(ledger, state)

    def resume(self, release_id: str, *, decided: bool = True) -> Release:
        """Go on with it: held by the evidence or by nobody watching, or its process is gone. The evidence stays; a step
        that had used up its time gets as much again.

        `decided` is a person's word. Without it, one that is held because its evidence does not decide stays held.
        """
        ledger = self.ledger(release_id)
        with ledger.locked():
            state = ledger.state(release_id)
            if state.release.phase not in OVER and (decided or not findings.needs_a_person(state.release)):
                trace = self.watch(ledger, state).trace
                now = self.outside.clock.now().timestamp()
                extend_s = state.release.plan.extend_s + more_time(state.release, trace.path, now)
                state = self.record(ledger, state, Resumed(extend_s=extend_s))
                trace.agree_anew(TraceHead(plan=state.release.plan, shadow=state.release.shadow))
        return self.seen(ledger, state)

    def restore(self, model: str) -> None:
        """Let servers and router be what `serving.json` says: after a reboot, or when somebody changed them by hand."""
        ledger = Ledger(self.home, model)
        now = ledger.serving()
        if now is not None:
            with ledger.locked():
                self.acts.serve(now)
            self.acts.warm(now)

    def finish(self, release_id: str) -> Release:
        """What follows once a release is over: servers that nothing needs end, the page for people, and MLflow's word.
        Again until MLflow took it.

        Raises:
            TrackingUnavailable: MLflow does not answer; the journal has everything, and a later call catches up.
        """
        ledger = self.ledger(release_id)
        state = ledger.state(release_id)
        folder = ledger.place(release_id)
        if state.release.phase not in OVER or state.followed:
            return state.release
        with ledger.locked():
            self.acts.retire(ledger, state.release)
        try:
            if state.release.report is None:
                page = self.outside.report(state, folder)
                if page is not None:
                    state = self._record_if_still(ledger, state, Reported(report=page))
            underway = ledger.underway()
            run_id = self.outside.champion.follow(
                state, ledger.serving(), None if underway is None else underway.release, folder
            )
            return self._record_if_still(ledger, state, Followed(run_id=run_id)).release
        except Overtaken:  # another process finishes it as well
            return ledger.state(release_id).release

    def unfinished(self, model: str) -> tuple[State, ...]:
        """Releases that are over and of which MLflow does not know yet, the oldest first."""
        begun = Ledger(self.home, model).begun()
        return tuple(state for state in begun if state.release.phase in OVER and not state.followed)[::-1]

    def _withdraw(self, ledger: Ledger, state: State, why: Finding) -> State:
        if state.release.phase in WITHDRAWABLE:
            state = self.record(ledger, state, Withdrawn(findings=(why,)))
        if state.release.phase is Phase.ROLLING_BACK:
            self.acts.assert_weight(state.release)
        return state


def more_time(release: Release, trace: Path, now: float) -> float:
    """Seconds that a release gets beyond its plan when somebody goes on with it: those in which nobody looked, and
    where it is held, all that its step has had. It decides nothing but when to ask a person again."""
    seen = [look.at for look in looks(trace) if look.step == release.step]
    if not seen or release.phase not in {Phase.CANARY, Phase.HELD}:
        return 0
    return max(0, now - (seen[0] if release.phase is Phase.HELD else seen[-1]))
