"""The judge: looks in, one judgement for each. A fold, so that a release that was killed is judged again to the same.

    Sample ─ counting: what lay between ─┬─ guards: is it worse than allowed?         → ROLL_BACK
                                         ├─ exposure: what could the next step cost?  ┐
                                         └─ the step: baked, enough requests, seen?   ┴→ ADVANCE | WAIT | HOLD

Whatever is missing, restarted, or contradicts itself can make it wait or hold, never advance. A rollback stands, and a
hold stands for its step: what comes later changes neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.contracts import Finding
from tasks.release.contracts import Decision, GuardState, Judgement, Plan, Sample, ShadowReport
from tasks.release.judge import words
from tasks.release.judge.counting import Interval, Seen, Tally, Watch
from tasks.release.judge.exposure import Exposure
from tasks.release.judge.guards import ERRORS, PREDICTIONS, SLOW, CountGuard, PredictionGuards, SharesGuard
from tasks.release.judge.step import Step

#: Weights are set in steps of 0.01 %.
_RESOLUTION = 0.01
#: No single interval is more than half of what a step must be watched: an hour in which nobody looked is no watch kept,
#: nor is a clock that jumped.
_MOST_OF_BAKE = 0.5
#: Half of the way to a rollback, in logarithms: nothing that is under such suspicion is given more traffic.
_SUSPICION = 0.5
#: Clients may leave outputs out of their answers, but do so to both arms alike: the canary's predictions are counted
#: as completely as the stable arm's, within a factor of two.
_COVERAGE = 0.5
#: A canary may be restarted once by what it runs on (moved to another machine); one that goes on so is for a person.
_RESTARTS = 1
#: By its own definition, one request in a hundred may be over a p99 objective.
_OVER_P99 = 0.01


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why the step cannot be passed now. `wrong`: it is not only a matter of time."""

    reason: str
    finding: Finding | None = None
    seconds: float | None = None
    wrong: bool = False


class Judge:
    """Holds what the looks so far have shown. `shadow` says what was seen before any user was: without it nothing is
    known, and only the smallest first steps can be afforded.

    A first release (`shadow.kind` is first) has no version to compare with: its error rate is held against
    `guards.harm`, its slow requests against the objective's own one in a hundred, and predictions against nothing.
    """

    def __init__(self, plan: Plan, shadow: ShadowReport | None) -> None:
        self.plan = plan
        self._shadow = shadow
        self._first = shadow is not None and shadow.kind == "first"
        guards = plan.guards
        self._errors = CountGuard(
            "errors", lambda t: t.errors, guards.errors, plan.alpha * ERRORS, guards.harm if self._first else None
        )
        self._slow = CountGuard(
            "slow", lambda t: t.slow, guards.slow, plan.alpha * SLOW, _OVER_P99 * guards.slow if self._first else None
        )
        self._predictions = PredictionGuards(guards.predictions, plan.alpha * PREDICTIONS)
        self._watch = Watch(alone=self._first)
        self._canary, self._stable = Tally(), Tally()
        self._step: Step | None = None
        self._at: float | None = None
        self._restarts = 0
        self._condemned: tuple[Finding, ...] = ()

    def enter(self, at: float) -> Judgement:
        """Whether the first step may be entered, by the shadow alone: ADVANCE (into it) or HOLD. Ask it before the
        canary gets any traffic."""
        exposure = self._exposure()
        first = self.plan.steps[0]
        allowed = exposure.at_risk(first) <= self.plan.guards.harm
        finding = words.at_risk(exposure, first, self.plan)
        return Judgement(
            at=at,
            step=0,
            decision=Decision.ADVANCE if allowed else Decision.HOLD,
            guards=self._states(exposure),
            findings=() if allowed else (finding,),
            at_risk=exposure.at_risk(first),
            reason=finding.message if not allowed else f"the shadow lets it in to {first:g} % of traffic",
        )

    def look(self, sample: Sample) -> Judgement:
        """Take one look into account.

        Raises:
            ValueError: the sample is of a step that the plan does not have.
        """
        if sample.step >= len(self.plan.steps):
            raise ValueError(f"the plan has {len(self.plan.steps)} steps and the sample is of number {sample.step}")
        interval = self._watch.look(sample)
        step, entered = self._follow(sample, interval)
        self._take(interval, sample, anew=entered)
        exposure = self._exposure()
        if not self._condemned:
            self._condemned = tuple(self._verdicts())
        if self._condemned:
            return self._judgement(sample, Decision.ROLL_BACK, exposure, self._condemned, self._condemned[0].message)
        if step.held:
            return self._judgement(sample, Decision.HOLD, exposure, step.held, step.held[0].message)
        if entered and not self._canary.requests and (judged := self.enter(sample.at)).decision is Decision.HOLD:
            step.held = judged.findings
            return self._judgement(sample, Decision.HOLD, exposure, step.held, judged.reason)
        obstacles = tuple(self._obstacles(interval, step, exposure))
        if not obstacles:
            return self._judgement(sample, Decision.ADVANCE, exposure, self._remarks(), self._passed(step))
        wrong = tuple(each.finding for each in obstacles if each.wrong and each.finding)
        if step.elapsed_s > self.plan.bake_s + self.plan.extend_s or step.unseen_s > self.plan.extend_s:
            known = tuple(each.finding for each in obstacles if each.finding)
            step.held = known or (words.undecided(obstacles[0].reason, step.elapsed_s),)
            return self._judgement(sample, Decision.HOLD, exposure, step.held, step.held[0].message)
        return self._judgement(sample, Decision.WAIT, exposure, wrong, obstacles[0].reason, _slowest(obstacles))

    # --- what is taken in ---------------------------------------------------------------------------------------

    def _follow(self, sample: Sample, interval: Interval) -> tuple[Step, bool]:
        """The step that this look is of, with its clock; and whether this is its first look."""
        entered = self._step is None or self._step.number != sample.step
        compares = not self._first and self.plan.steps[sample.step] < 100
        step = Step(sample.step, compares) if self._step is None or entered else self._step
        at, self._at = self._at, sample.at if math.isfinite(sample.at) else self._at
        passed = max(0.0, sample.at - at) if at is not None and math.isfinite(sample.at) else 0.0
        if not entered:
            step.elapsed_s += passed
            step.unseen_s = step.unseen_s + passed if interval.seen is Seen.MISSING else 0.0
        self._step = step
        if entered:
            return step, True
        if interval.seen is Seen.BOTH:
            step.canary, step.stable = step.canary + interval.canary, step.stable + interval.stable
            if sample.weight >= self.plan.steps[step.number] - _RESOLUTION:
                step.bake(interval, self.plan.bake_s * _MOST_OF_BAKE)
        elif "canary" in interval.restarted:
            step.begin_again()
        else:
            step.idle_s = 0.0
        return step, False

    def _take(self, interval: Interval, sample: Sample, *, anew: bool) -> None:
        """An interval's evidence, whichever step it is of."""
        alone = self._first or sample.weight >= 100
        if interval.seen is Seen.BOTH:
            self._canary, self._stable = self._canary + interval.canary, self._stable + interval.stable
            self._errors.take(interval.stable, interval.canary, alone=alone, anew=anew)
            self._slow.take(interval.stable, interval.canary, alone=alone, anew=anew)
            if not alone:
                self._predictions.take(interval.stable, interval.canary, anew=anew)
        elif interval.seen is Seen.RESTARTED:
            self._errors.take(interval.stable, interval.canary, alone=alone)
            self._restarts += interval.restarted == ("canary",)  # both at once are the router, or a lost source
            # Its failures are certain; how many requests it answered well is not.
            failed = interval.canary.errors
            self._canary += Tally(requests=failed, errors=failed)

    def _exposure(self) -> Exposure:
        return Exposure.of(self._canary, self._stable, self._shadow, self.plan.alpha)

    # --- what follows -------------------------------------------------------------------------------------------

    def _verdicts(self) -> Iterator[Finding]:
        """What rolls it back."""
        if self._errors.evidence >= self._errors.threshold:
            yield words.errors(self._errors.state(), self.plan, first=self._first)
        if self._slow.evidence >= self._slow.threshold:
            yield words.slow(self._slow.state(), self.plan, first=self._first)
        for guard in self._predictions.guards.values():
            if guard.evidence >= guard.threshold:
                yield words.predictions(guard.state(), guard.moved, self.plan)

    def _obstacles(self, interval: Interval, step: Step, exposure: Exposure) -> Iterator[_Obstacle]:
        """What stands between this step and the next, the gravest first."""
        plan = self.plan
        if interval.seen is Seen.MISSING:
            who = " and ".join(interval.missing)
            what = f"the counters of the {who} version could not be read: nothing is known of it"
            yield _Obstacle(
                what, words.no_data(what, "see whether it runs, and whether its metrics answer"), wrong=True
            )
        elif interval.seen is Seen.RESTARTED:
            finding = words.restarted(interval.restarted)
            yield _Obstacle(finding.message, finding, wrong=True)
        if self._restarts > _RESTARTS:
            finding = words.restarts(self._restarts)
            yield _Obstacle(finding.message, finding, wrong=True)
        yield from self._uncounted(step)
        per_s = step.canary.requests / step.elapsed_s if step.elapsed_s else 0.0
        for guard in self._guards():
            if guard.evidence >= _SUSPICION * guard.threshold:
                yield _Obstacle(
                    f"{guard.name} look worse than allowed: evidence {words.odds_of(guard)}, not yet enough to decide"
                )
        if step.baked_s < plan.bake_s:
            left = plan.bake_s - step.baked_s
            yield _Obstacle(f"watched for {step.baked_s:,.0f} of {plan.bake_s:,.0f} s", seconds=left)
        if (missing := plan.min_requests - step.canary.requests) > 0:
            yield _Obstacle(
                f"the new version answered {step.canary.requests:,} of {plan.min_requests:,} requests",
                words.too_few(step.canary.requests, plan),
                missing / per_s if per_s else None,
            )
        weight = plan.steps[min(step.number + 1, len(plan.steps) - 1)]
        if exposure.at_risk(weight) > plan.guards.harm:
            finding = words.at_risk(exposure, weight, plan)
            needed = exposure.requests_missing(weight, plan.guards.harm)
            yield _Obstacle(finding.message, finding, needed / per_s if per_s else None)

    def _uncounted(self, step: Step) -> Iterator[_Obstacle]:
        """Answers that one arm counts and the other does not."""
        if self._first or not step.canary.requests:
            return
        advice = "see whether both versions' metrics are of the same outputs, and read completely"
        # In the last step the stable arm has no traffic: then as it counted before.
        stable, canary = step.stable if step.stable.requests else self._stable, step.canary
        if step.compares and not step.stable.requests:
            what = "the stable version had no request in this step, so there was nothing to compare with"
            yield _Obstacle(what, words.no_data(what, "see whether the router splits the traffic"), wrong=True)
        if _covers(stable.answered, stable) and _covers(canary.answered, canary) < _COVERAGE * _covers(
            stable.answered, stable
        ):
            what = f"the new version counted the rows of {canary.answered:,} of {canary.requests:,} requests"
            yield _Obstacle(what, words.no_data(what, advice), wrong=True)
        for output in self._predictions.guards:
            by_arm = [
                sum(arm.predictions.get(output, {}).values()) / arm.rows if arm.rows else 0.0
                for arm in (stable, canary)
            ]
            if min(by_arm) < _COVERAGE * max(by_arm):
                what = f"predictions of {output} are counted for {by_arm[1]:.0%} of the new version's rows and "
                what += f"{by_arm[0]:.0%} of the stable one's"
                yield _Obstacle(what, words.no_data(what, advice), wrong=True)

    def _guards(self) -> Iterator[CountGuard | SharesGuard]:
        yield from (self._errors, self._slow)
        yield from self._predictions.guards.values()

    def _remarks(self) -> tuple[Finding, ...]:
        return () if self._predictions.guards or self._first else (words.unseen_predictions(),)

    def _passed(self, step: Step) -> str:
        last = step.number == len(self.plan.steps) - 1
        return (
            f"nothing speaks against it after {step.canary.requests:,} requests and {step.baked_s:,.0f} s: "
            f"{'promoted' if last else f'on to {self.plan.steps[step.number + 1]:g} %'}"
        )

    def _states(self, exposure: Exposure) -> tuple[GuardState, ...]:
        return (
            self._errors.state(exposure.upper),
            self._slow.state(),
            *(guard.state() for guard in self._predictions.guards.values()),
        )

    def _judgement(
        self,
        sample: Sample,
        decision: Decision,
        exposure: Exposure,
        findings: tuple[Finding, ...],
        reason: str,
        seconds_left: float | None = None,
    ) -> Judgement:
        assert self._step is not None  # noqa: S101  every look is of one
        step = self._step
        return Judgement(
            at=sample.at,
            step=sample.step,
            decision=decision,
            guards=self._states(exposure),
            findings=findings,
            canary_requests=step.canary.requests,
            stable_requests=step.stable.requests,
            baked_s=step.baked_s,
            at_risk=exposure.at_risk(self.plan.steps[min(sample.step + 1, len(self.plan.steps) - 1)]),
            seconds_left=seconds_left,
            reason=reason,
        )


def _covers(counted: int, of: Tally) -> float:
    """Which share of the requests that were answered well."""
    well = of.requests - of.errors
    return counted / well if well > 0 else 0.0


def _slowest(obstacles: tuple[_Obstacle, ...]) -> float | None:
    """When the last of them is out of the way; None where nobody can say."""
    seconds = [each.seconds for each in obstacles]
    known = [each for each in seconds if each is not None]
    return max(known) if len(known) == len(seconds) else None
