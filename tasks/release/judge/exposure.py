"""How much of all users' requests a step would put at risk: a step may not grow faster than the evidence.

In: what both arms did so far, and the shadow's requests. Out: the largest excess of the canary's error rate that the
evidence does not exclude, at every look at once; times the next step's share of traffic it is what may fail for users
beyond what fails today. The plan says how much that may be (`guards.harm`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.release.contracts import ShadowReport
from tasks.release.judge.bounds import lower_rate, upper_rate
from tasks.release.judge.counting import Tally


@dataclass(frozen=True, slots=True)
class Exposure:
    """What is known of the canary's error rate. Without a stable arm, all of it counts as excess."""

    trials: int
    errors: int
    upper: float

    @classmethod
    def of(cls, canary: Tally, stable: Tally, shadow: ShadowReport | None, alpha: float) -> Exposure:
        """From all that the canary answered, with the shadow's requests. Holds with a chance of 1 - `alpha`.

        Of the canary's upper bound the stable arm's lower one is taken off, each at half of alpha: for the canary's own
        requests alone, since the shadow counts only errors that the stable version did not make.
        """
        requests, errors = (0, 0) if shadow is None else (shadow.requests, min(shadow.errors, shadow.requests))
        trials = requests + canary.requests
        upper = upper_rate(errors + canary.errors, trials, alpha / 2)
        base = lower_rate(stable.errors, stable.requests, alpha / 2) if stable.requests else 0.0
        excess = upper - base * canary.requests / trials if trials else upper
        return cls(trials, errors + canary.errors, max(0.0, excess))

    def at_risk(self, percent: float) -> float:
        """Share of all requests, where the canary has that much of the traffic."""
        return percent / 100 * self.upper

    def requests_missing(self, percent: float, harm: float) -> float:
        """How many requests without further errors would do: the bound falls about as one over their number."""
        return max(0.0, self.trials * (self.at_risk(percent) / harm - 1)) if self.trials else 1 / harm
