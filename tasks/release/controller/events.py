"""What can happen to a release: when it can, and what it changes. Pure values; the journal is made of them.

Each event says the phases that it can happen in (`ALLOWED`) and what follows from it (`changes`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from serving.contract import PackagedFile
from tasks.contracts import Contract, Finding, Verdict
from tasks.release.contracts import Decision, Judgement, Phase, Release, ShadowReport

#: What changes of a release: its fields by name.
Changes = dict[str, object]

BEFORE_USERS = frozenset({Phase.PREPARING, Phase.SHADOW})
WITHDRAWABLE = BEFORE_USERS | {Phase.CANARY, Phase.PROMOTING, Phase.HELD}
OVER = frozenset(phase for phase in Phase if phase.is_over)


class State(Contract):
    """The fold of a journal: the release, and what only its controller needs to go on."""

    release: Release
    port: int = Field(description="of the router, where users ask")
    approval: bool = Field(description="a person has to agree once shadow's evidence is there")
    approved_by: str | None
    recorded: str | None = Field(description="the folder of recorded requests that shadow replays")
    sequence: int = Field(description="of the latest entry: who acts on this state writes the next one, or nobody does")
    last_by: str = Field(description="who wrote the latest entry")
    followed: bool = Field(False, description="MLflow says so too")


class Happening(Contract):
    """Base of all events but the first."""

    ALLOWED: ClassVar[frozenset[Phase]]

    def changes(self, state: State) -> Changes:
        """What it changes of the release. `state` knows already who wrote it."""
        return {}


class Opened(Contract):
    """The first event of every journal. A rollback of what serves begins in `ROLLING_BACK`."""

    kind: Literal["opened"] = "opened"
    release: Release
    port: int = Field(gt=0, lt=65536)
    approval: bool = False
    approved_by: str | None = Field(None, description="who agreed beforehand")
    recorded: str | None = None


class Prepared(Happening):
    """The attestation verifies, the new server runs and gave the golden answers."""

    ALLOWED = frozenset({Phase.PREPARING})
    kind: Literal["prepared"] = "prepared"
    golden_rows: int = Field(ge=0, description="that were asked and answered as the source model answered them")

    def changes(self, state: State) -> Changes:
        return {"phase": Phase.SHADOW}


class Refused(Happening):
    """A gate before the first user said no."""

    ALLOWED = BEFORE_USERS | {Phase.PROMOTING}  # promoting: a model's first package, which no user met before that
    kind: Literal["refused"] = "refused"
    findings: tuple[Finding, ...] = Field(min_length=1)

    def changes(self, state: State) -> Changes:
        return {"phase": Phase.REFUSED, "findings": self.findings}


class Shadowed(Happening):
    """Both versions answered the same requests; the report's verdict decides."""

    ALLOWED = frozenset({Phase.SHADOW})
    kind: Literal["shadowed"] = "shadowed"
    report: ShadowReport

    def changes(self, state: State) -> Changes:
        if self.report.verdict is not Verdict.PASSED:
            return {"phase": Phase.REFUSED, "shadow": self.report, "findings": self.report.findings}
        return {**_to_users(state), "shadow": self.report}


class Approved(Happening):
    """A person agrees that users meet the new version; who is the entry's `by`."""

    ALLOWED = BEFORE_USERS
    kind: Literal["approved"] = "approved"

    def changes(self, state: State) -> Changes:
        return {} if state.release.shadow is None else _to_users(state)


class Judged(Happening):
    """The evidence decided. Looks that decide nothing are in the trace alone."""

    ALLOWED = frozenset({Phase.CANARY})
    kind: Literal["judged"] = "judged"
    judgement: Judgement

    def changes(self, state: State) -> Changes:
        said = self.judgement
        step = state.release.step + 1
        decided: dict[Decision, Changes] = {
            Decision.ADVANCE: {"step": step} if step < len(state.release.plan.steps) else {"phase": Phase.PROMOTING},
            Decision.ROLL_BACK: {"phase": Phase.ROLLING_BACK, "findings": said.findings},
            Decision.HOLD: {"phase": Phase.HELD, "findings": said.findings},
            Decision.WAIT: {},
        }
        return {**decided[said.decision], "judgement": said}


class Left(Happening):
    """Whoever watched it stopped watching: no user meets a canary that nobody watches."""

    ALLOWED = frozenset({Phase.CANARY})
    kind: Literal["left"] = "left"
    findings: tuple[Finding, ...] = Field(min_length=1)

    def changes(self, state: State) -> Changes:
        return {"phase": Phase.HELD, "findings": self.findings}


class Resumed(Happening):
    """Somebody goes on with it: a person with one that is held, any process with one whose process is gone."""

    ALLOWED = WITHDRAWABLE | {Phase.ROLLING_BACK}
    kind: Literal["resumed"] = "resumed"
    extend_s: float = Field(ge=0, description="the plan's limit from now on; it decides nothing but when to ask again")

    def changes(self, state: State) -> Changes:
        if state.release.phase not in {Phase.CANARY, Phase.HELD}:
            return {}
        plan = state.release.plan.model_copy(update={"extend_s": self.extend_s})
        return {"phase": Phase.CANARY, "plan": plan, "findings": ()}


class Withdrawn(Happening):
    """The new version goes, whatever the evidence: a person said so, or it cannot serve."""

    ALLOWED = WITHDRAWABLE
    kind: Literal["withdrawn"] = "withdrawn"
    findings: tuple[Finding, ...] = Field(min_length=1)

    def changes(self, state: State) -> Changes:
        return {"phase": Phase.ROLLING_BACK, "findings": self.findings}


class Promoted(Happening):
    """The new package serves; the router and the golden answers say so."""

    ALLOWED = frozenset({Phase.PROMOTING})
    kind: Literal["promoted"] = "promoted"

    def changes(self, state: State) -> Changes:
        return {"phase": Phase.PROMOTED}


class RolledBack(Happening):
    """The stable package serves. Findings are what is not as it should be all the same."""

    ALLOWED = frozenset({Phase.ROLLING_BACK})
    kind: Literal["rolled_back"] = "rolled_back"
    findings: tuple[Finding, ...] = ()

    def changes(self, state: State) -> Changes:
        return {"phase": Phase.ROLLED_BACK, "findings": (*state.release.findings, *self.findings)}


class Reported(Happening):
    """The page for people is in the store."""

    ALLOWED = OVER
    kind: Literal["reported"] = "reported"
    report: PackagedFile

    def changes(self, state: State) -> Changes:
        return {"report": self.report}


class Followed(Happening):
    """MLflow's aliases and its audit trail say what this journal says."""

    ALLOWED = OVER
    kind: Literal["followed"] = "followed"
    run_id: str | None = Field(description="the run that holds the trail; none where MLflow never had the package")


Later = (
    Prepared
    | Refused
    | Shadowed
    | Approved
    | Judged
    | Left
    | Resumed
    | Withdrawn
    | Promoted
    | RolledBack
    | Reported
    | Followed
)
Event = Annotated[Opened | Later, Field(discriminator="kind")]


class Entry(Contract):
    """One line of the journal: what happened, when, by whom."""

    sequence: int = Field(ge=0)
    at: datetime
    by: str
    event: Event


def _to_users(state: State) -> Changes:
    """After shadow, and after the person who has to agree."""
    if state.approval and state.approved_by is None:
        return {}
    # A model's first package has nothing to be compared with: proven and answering, it takes everything.
    return {"phase": Phase.PROMOTING if state.release.stable is None else Phase.CANARY, "step": 0}
