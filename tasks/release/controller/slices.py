"""One slice of a release: read the journal, see what is to be done, do it, write down what came of it.

What takes moments (a look, the router) happens under the model's lock; what takes longer (starting a server, shadow)
outside of it, and its result only counts if nothing else was written down meanwhile. So a rollback never waits, and
what was decided before it changes nothing after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import EngineUnavailable, PlatformError, TrackingUnavailable
from tasks.release.contracts import Arm, Counted, Decision, Endpoint, Judgement, Phase, Release, Sample, TraceHead
from tasks.release.controller import findings, serving
from tasks.release.controller.acts import Acts, Arms, Lost
from tasks.release.controller.events import (
    OVER,
    Judged,
    Later,
    Prepared,
    Promoted,
    Refused,
    RolledBack,
    Shadowed,
    State,
    Withdrawn,
)
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.machine import Action, next_action
from tasks.release.controller.protocols import GoldenAnswers, Outside
from tasks.release.controller.trace import Trace


class Overtaken(Exception):
    """Something else was written down since this slice began: what it found out does not count any more."""


@dataclass
class Watched:
    """What this process knows of a release that it looks at; losing it costs a moment, never evidence."""

    head: TraceHead
    trace: Trace
    counted: Counted | None = None
    arms: Arms | None = None
    is_up: bool = False


class Slices:
    """Moves the releases below `home` on. `by` is who it does so for; `passing` is told where it is."""

    def __init__(self, home: Path, outside: Outside, by: str, passing: Callable[[str], None] = lambda _: None) -> None:
        self.home, self.outside, self.by, self.passing = home, outside, by, passing
        self.acts = Acts(outside, passing)
        self._watched: dict[str, Watched] = {}

    def advance(self, release_id: str) -> Release:
        """One slice; where the release stands then, with the latest judgement. Of one that is over, nothing is done.

        Raises:
            PlatformError: engine or router do not do their part. Nothing is decided then: the same call goes on.
        """
        ledger = self.ledger(release_id)
        slow = {
            Action.PREPARE: self._prepare,
            Action.SHADOW: self._shadow,
            Action.PROMOTE: self._promote,
            Action.ROLL_BACK: self._roll_back,
        }
        try:
            with ledger.locked():
                state = ledger.state(release_id)
                action = next_action(state.release, self.judgement(ledger, state))
                if action not in slow:
                    return self.seen(ledger, self._quickly(ledger, state, action))
            return self.seen(ledger, slow[action](ledger, state))
        except Overtaken:
            return self.seen(ledger, ledger.state(release_id))

    def ledger(self, release_id: str) -> Ledger:
        """`<model>-<UTC time>-<first digits>` → the model's."""
        return Ledger(self.home, release_id.rsplit("-", 2)[0])

    # --- under the lock -------------------------------------------------------------------------------------------

    def _quickly(self, ledger: Ledger, state: State, action: Action) -> State:
        judgement = self.judgement(ledger, state)
        if action is Action.DECIDE and judgement is not None:
            return self._decide(ledger, state, judgement)
        if action is Action.LOOK:
            return self._look(ledger, state)
        if action is Action.HOLD:
            self.acts.assert_weight(state.release)
        return state

    def _look(self, ledger: Ledger, state: State) -> State:
        """Both arms' counts under the weight that the router really had; then the weight that it is to have."""
        release, watched = state.release, self.watch(ledger, state)
        weight = self.outside.router(release.model).weight()
        if weight is None or not watched.is_up or watched.counted is None:
            weight = weight or 0.0  # as it is: requests under another one belong to the next look
            try:
                watched.counted = self._bring_up(state, watched, weight)
            except Lost as error:
                state = self.record(ledger, state, Withdrawn(findings=(error.finding,)))
                self.acts.assert_weight(state.release)
                return state
        counts = watched.counted.read()
        self.passing("counted")
        stable, canary = counts.get(Arm.STABLE), counts.get(Arm.CANARY)
        watched.is_up = stable is not None and canary is not None  # or the next look sees to the servers
        at = self.outside.clock.now().timestamp()
        judgement = watched.trace.add(Sample(at=at, step=release.step, weight=weight, stable=stable, canary=canary))
        self.passing("looked")
        if judgement.decision is not Decision.WAIT:
            return self._decide(ledger, state, judgement)
        self.acts.assert_weight(release)
        return state

    def _bring_up(self, state: State, watched: Watched, weight: float) -> Counted:
        """Both servers run, the router knows them; what counts them."""
        arms = self.acts.both_up(state.release)
        self.acts.split(state, arms, weight)
        if watched.counted is None or watched.arms != arms:
            watched.counted = self.outside.counted(state.release, arms.stable, arms.canary)
        watched.arms, watched.is_up = arms, True
        return watched.counted

    def _decide(self, ledger: Ledger, state: State, judgement: Judgement) -> State:
        state = self.record(ledger, state, Judged(judgement=judgement))
        self.acts.assert_weight(state.release)
        return state

    # --- longer ---------------------------------------------------------------------------------------------------

    def _prepare(self, ledger: Ledger, state: State) -> State:
        """The attestation, then the server, then its golden answers."""
        release = state.release
        found = self.outside.attested(release)
        if found:
            return self._record_if_still(ledger, state, Refused(findings=found))
        self.passing("attested")
        try:
            endpoint = self.outside.arms.start(release.model, release.candidate)
        except EngineUnavailable:
            raise
        except PlatformError as error:
            return self._record_if_still(
                ledger, state, Refused(findings=(findings.not_ready(release.candidate, error),))
            )
        self.passing("candidate started")
        answers = self.outside.golden(release.model, release.candidate, endpoint)
        return self._record_if_still(
            ledger,
            state,
            Refused(findings=answers.findings) if answers.findings else Prepared(golden_rows=answers.rows),
        )

    def _shadow(self, ledger: Ledger, state: State) -> State:
        try:
            arms = self.acts.both_up(state.release)
        except Lost as error:
            return self._record_if_still(ledger, state, Refused(findings=(error.finding,)))
        recorded = None if state.recorded is None else Path(state.recorded)
        report = self.outside.shadow(state.release, arms.stable, arms.canary, recorded)
        self.passing("shadowed")
        state = self._record_if_still(ledger, state, Shadowed(report=report))
        if state.release.phase is Phase.CANARY:
            with contextlib.suppress(TrackingUnavailable):  # caught up once it is over
                self.outside.champion.announce(state.release)
        return state

    def _promote(self, ledger: Ledger, state: State) -> State:
        """Everything to the new package, asked through the router before it is called the stable one."""
        release = state.release
        try:
            with self._unless_overtaken(ledger, state):
                self.acts.split(state, self.acts.both_up(release), release.weight)
            answers = self.outside.golden(release.model, release.candidate, users(state.port))
        except Lost as error:
            answers = GoldenAnswers(findings=(error.finding,))
        if answers.findings and release.stable is not None:
            return self._record_if_still(ledger, state, Withdrawn(findings=answers.findings))
        if answers.findings:
            with self._unless_overtaken(ledger, state):
                self.outside.router(release.model).remove()
                return self.record(ledger, state, Refused(findings=answers.findings))
        with self._unless_overtaken(ledger, state):
            now = serving.promoted(ledger.serving(), state, at=self.outside.clock.now())
            ledger.keep(now)
            self.passing("serving written")
            self.acts.serve(now)
            return self.record(ledger, state, Promoted())

    def _roll_back(self, ledger: Ledger, state: State) -> State:
        """The router first, then the question whether the stable package answers."""
        release, before = state.release, ledger.serving()
        answers = GoldenAnswers()
        if release.stable is None or before is None:
            with self._unless_overtaken(ledger, state):
                self.outside.router(release.model).remove()
        else:
            now = serving.rolled_back(before, release.stable, at=self.outside.clock.now(), release=release.id)
            with self._unless_overtaken(ledger, state):
                self.acts.serve(now)
                ledger.keep(now)
                self.passing("serving written")
            answers = self.outside.golden(release.model, release.stable, users(now.port))
        return self._record_if_still(ledger, state, RolledBack(findings=answers.findings))

    # --- writing down ---------------------------------------------------------------------------------------------

    def record(self, ledger: Ledger, state: State, event: Later) -> State:
        """One more event. Under the lock."""
        self.passing(f"before {event.kind}")
        after = ledger.record(state, event, self.by, self.outside.clock.now())
        self.passing(f"after {event.kind}")
        return after

    def _record_if_still(self, ledger: Ledger, state: State, event: Later) -> State:
        with self._unless_overtaken(ledger, state):
            return self.record(ledger, state, event)

    @contextlib.contextmanager
    def _unless_overtaken(self, ledger: Ledger, state: State) -> Iterator[None]:
        """Hold the lock, and be sure that nothing was written down since `state`.

        Raises:
            Overtaken: something was.
        """
        with ledger.locked():
            if ledger.state(state.release.id).sequence != state.sequence:
                raise Overtaken
            yield

    # --- what was seen --------------------------------------------------------------------------------------------

    def watch(self, ledger: Ledger, state: State) -> Watched:
        """What this process knows of the release; judged anew where what was agreed has changed."""
        release = state.release
        known, head = self._watched.get(release.id), TraceHead(plan=release.plan, shadow=release.shadow)
        if known is None or known.head != head:
            path = ledger.place(release.id) / "trace.jsonl"
            known = Watched(head, Trace(path, head, self.outside.judge(head.plan, head.shadow)))
            self._watched[release.id] = known
        return known

    def judgement(self, ledger: Ledger, state: State) -> Judgement | None:
        """What all looks so far say, where that still decides anything: a way back needs no trace."""
        if state.release.phase in {Phase.CANARY, Phase.HELD}:
            return self.watch(ledger, state).trace.catch_up()
        return None

    def seen(self, ledger: Ledger, state: State) -> Release:
        """The release with what its looks say so far, which the journal has only where they decided."""
        if state.release.phase in OVER:
            self._watched.pop(state.release.id, None)
        judgement = self.judgement(ledger, state)
        return state.release if judgement is None else state.release.model_copy(update={"judgement": judgement})


def users(port: int) -> Endpoint:
    """Where users ask."""
    return Endpoint(host="127.0.0.1", port=port)
