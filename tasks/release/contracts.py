"""What a release is, what is seen of it, and what is decided. Read this file first.

    Plan ─ agreed before the first look ┐
    Sample ─ one look at both arms ─────┴─ judge → Judgement ─ controller → Router, arms, journal

Frozen contracts, safe to write down and to send through XCom. A `Sample` holds counters as the arms have them, since
each arm's own start: what happened between two looks is a difference, and an arm that counts from zero again says so by
its `incarnation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from serving.contract import PackagedFile
from tasks.contracts import Contract, Digest, Finding, Report
from tasks.spec import GuardsSpec, ReleaseSpec, ShadowSpec

#: Percent of traffic, in steps of 0.01.
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Arm(StrEnum):
    """The two versions that traffic is split between."""

    STABLE = "stable"
    CANARY = "canary"


# --- what was agreed ----------------------------------------------------------------------------------------------


class Plan(Contract):
    """How a release decides: fixed before the first look, because a rule that is chosen afterwards proves nothing."""

    steps: tuple[Percent, ...] = Field(min_length=1, description="of traffic, ascending, the last one 100")
    bake_s: float = Field(gt=0, description="that each step is watched at least")
    extend_s: float = Field(ge=0, description="that a step may go on beyond it before the release is held")
    min_requests: int = Field(ge=1, description="that the canary must have answered in a step")
    alpha: float = Field(gt=0, lt=1, description="chance that an equal version is rolled back, over the whole release")
    guards: GuardsSpec = GuardsSpec()
    p99_ms: float = Field(gt=0, description="the objective that a slow request is over")

    @classmethod
    def of(cls, release: ReleaseSpec, p99_ms: float) -> Plan:
        """The plan that a spec asks for."""
        return cls(
            steps=release.steps,
            bake_s=release.bake_s,
            extend_s=release.extend_s,
            min_requests=release.min_requests,
            alpha=release.alpha,
            guards=release.guards,
            p99_ms=p99_ms,
        )


class Deployed(Contract):
    """A package as it serves: always the whole bundle, never its weights alone."""

    package: Digest
    image: Digest
    reference: str = Field(description="name:tag of the image")
    format: str
    version: str | None = Field(None, description="of the registered model in MLflow")

    @property
    def identity(self) -> tuple[Digest, Digest]:
        """What makes two of them the same bytes: the package, and the image that it serves with."""
        return self.package, self.image


# --- what is seen -------------------------------------------------------------------------------------------------


class ArmCounts(Contract):
    """One arm's counters, since it began to count. `errors` are failures that are the arm's doing: 5xx, connections
    that failed or broke, time-outs, each once, also where a retry hid it from the user; a request that the client got
    wrong is none. Answers are counted by row."""

    incarnation: str = Field(description="another one means that counting began again from zero")
    requests: int = Field(ge=0, description="that the router sent there and that ended")
    errors: int = Field(ge=0)
    slow: int = Field(ge=0, description="that took longer than the objective, failures among them")
    rows: int = Field(0, ge=0, description="of answered requests")
    answered: int = Field(0, ge=0, description="requests that those rows belong to")
    predictions: Mapping[str, Mapping[str, int]] = Field(
        default_factory=dict, description="output → class, value or bin → rows"
    )
    invalid: int = Field(0, ge=0, description="rows whose answer is NaN")

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> Self:
        if max(self.errors, self.slow) > self.requests:
            raise ValueError("more errors or slow requests than requests")
        return self


class Sample(Contract):
    """One look at both arms. An arm whose counters could not be read is None: nothing is known, not that it is 0."""

    at: float = Field(description="seconds since the epoch")
    step: int = Field(ge=0, description="index into the plan's steps")
    weight: Percent = Field(description="that the canary had since the look before")
    stable: ArmCounts | None
    canary: ArmCounts | None


class ShadowReport(Report):
    """What both versions answered to the same requests, before any user met the new one."""

    requests: int = Field(0, ge=0, description="that were sent to each")
    distinct: int = Field(0, ge=0, description="different ones among them")
    rows: int = Field(0, ge=0)
    errors: int = Field(0, ge=0, description="that the new version did not answer and the old one did")
    slow: int = Field(0, ge=0)
    kind: Literal["equivalent", "retrained", "first"] = "equivalent"
    agreement: float | None = Field(None, description="share of rows with the same answer")
    metrics: Mapping[str, tuple[float, float]] = Field(default_factory=dict, description="metric → old, new")
    source: str = Field("", description="where the requests are from, for people")


class TraceHead(Contract):
    """The first line of a trace: what was agreed, and what was seen before any user. A `Sample` a line follows."""

    plan: Plan
    shadow: ShadowReport | None


# --- what is decided ----------------------------------------------------------------------------------------------


class Decision(StrEnum):
    """What the evidence says to do now."""

    WAIT = "wait"
    ADVANCE = "advance"  # to the next step; after the last one, the canary becomes the stable version
    ROLL_BACK = "roll_back"
    HOLD = "hold"  # it does not decide within the limit: a person must


class GuardState(Contract):
    """One guard's evidence so far. It rolls back when `evidence` reaches `threshold`.

    `evidence` is an e-value: what a bet against "no worse than allowed" has made of 1. Shown as its logarithm to base
    10, so that 2 is a hundred to one.
    """

    name: str = Field(description="errors, slow, or predictions of an output")
    evidence: float = Field(description="log10 of the e-value over the whole release")
    threshold: float = Field(description="log10: 1 / the guard's share of alpha")
    stable: float | None = Field(None, description="rate or share seen there")
    canary: float | None = None
    upper: float | None = Field(None, description="what the evidence cannot exclude of the canary's excess rate")


class Judgement(Contract):
    """The judge's answer to one look, with all that it follows from."""

    at: float
    step: int
    decision: Decision
    guards: tuple[GuardState, ...] = ()
    findings: tuple[Finding, ...] = ()
    canary_requests: int = Field(0, ge=0, description="in this step")
    stable_requests: int = Field(0, ge=0, description="in this step")
    baked_s: float = Field(0, ge=0, description="of this step, with both arms seen")
    at_risk: float | None = Field(None, description="share of all requests that the next step would put at risk")
    seconds_left: float | None = Field(None, description="until it can decide at this rate of requests; an estimate")
    reason: str = Field("", description="one sentence for people: what it waits for, or why it decided")


# --- the release itself -------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """Where a release stands. Every one but the last four goes on by itself."""

    PREPARING = "preparing"  # the attestation verified, the new arm started and asked its golden samples
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTING = "promoting"  # everything to the new package, which becomes the stable arm
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    HELD = "held"  # no user meets the canary until a person decides
    REFUSED = "refused"  # before any user met it: attestation, start, golden samples or shadow

    @property
    def is_over(self) -> bool:
        return self in {Phase.PROMOTED, Phase.ROLLED_BACK, Phase.REFUSED}


class Release(Contract):
    """One release: what, against what, by whom, and how far it came. The journal's latest word."""

    id: str = Field(description="<model>-<UTC time>-<first digits of the package>: sorts by time")
    model: str
    candidate: Deployed
    stable: Deployed | None = Field(None, description="none where the model was never released before")
    plan: Plan
    shadow_spec: ShadowSpec = ShadowSpec()
    split_by: str = "x-request-id"
    phase: Phase
    step: int = Field(0, ge=0)
    started_at: datetime
    started_by: str
    changed_at: datetime
    shadow: ShadowReport | None = None
    judgement: Judgement | None = Field(None, description="the latest")
    findings: tuple[Finding, ...] = Field((), description="why it ended as it did")
    report: PackagedFile | None = Field(None, description="the page for people, once it is over")

    @property
    def weight(self) -> float:
        """Percent of traffic that the canary is to have now."""
        match self.phase:
            case Phase.CANARY:
                return self.plan.steps[self.step]
            case Phase.PROMOTING | Phase.PROMOTED:
                return 100
            case _:
                return 0


class Written(Contract):
    """A word of the journal: the release as it was from then on (`changed_at`), and who wrote it."""

    release: Release
    by: str


# --- what stands behind protocols ---------------------------------------------------------------------------------


class Endpoint(Contract):
    """Where an arm's server listens for HTTP."""

    host: str
    port: int = Field(gt=0, lt=65536)


class Route(Contract):
    """What a router is to do for one model: the desired state, all of it."""

    model: str
    port: int = Field(gt=0, lt=65536, description="on loopback, where users ask")
    split_by: str = Field("x-request-id", description="the header whose hash decides")
    stable: Endpoint
    canary: Endpoint | None = None
    weight: Percent = Field(0, description="of traffic to the canary")
    p99_ms: float | None = Field(None, gt=0, description="the objective: the router counts answers that took longer")


class RouterCounts(Contract):
    """What the router counted for one arm since it started. `failed` are connections that failed or broke and answers
    that did not come in time; `hidden` are those of them that a retry elsewhere hid from the user."""

    incarnation: str
    requests: int = Field(ge=0)
    errors: int = Field(ge=0, description="5xx answers")
    failed: int = Field(ge=0)
    hidden: int = Field(ge=0)
    slow: int | None = Field(None, ge=0, description="answers that took longer than the route's p99_ms; None without")


class Router(Protocol):
    """Splits one model's traffic. Every call is idempotent: asking twice changes nothing."""

    def ensure(self, route: Route) -> None:
        """Let the router run with this route: started where it is not there, told where it is, weight asserted.

        No request is lost by it, slow ones in flight among them.

        Raises:
            PlatformError: it does not start or does not take the route.
        """

    def set_weight(self, percent: float) -> None:
        """Send that share of traffic to the canary from now on; it outlives a reload and a restart of the router.

        Raises:
            PlatformError: the router does not answer.
        """

    def weight(self) -> float | None:
        """The share that it really sends there now; None where it does not answer."""

    def counts(self) -> Mapping[Arm, RouterCounts] | None:
        """What it counted; None where it does not answer."""

    def remove(self) -> None:
        """Take the router away, with the model's traffic."""


class Counted(Protocol):
    """A source of counts: the servers themselves, Prometheus, or another."""

    def read(self) -> Mapping[Arm, ArmCounts | None]:
        """Both arms' counters now; None for an arm that could not be read, whatever the reason. Raises nothing."""
