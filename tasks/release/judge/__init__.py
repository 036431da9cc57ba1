"""The judge of a release: counts of both versions in, a decision out. Pure: no clock, no files, no network.

fold.py       the judge itself: looks in, one judgement for each
step.py       what a step has shown, and for how long it was watched
counting.py   counters → what happened between two looks
guards.py     errors, slow requests, predictions: each one's evidence and share of α
comparison.py both arms over the same time, for the two tests
odds.py       the test of failed or slow requests
shares.py     the test of predictions
bursts.py     events that come together
wealth.py     how a test's looks become one e-value
bounds.py     rates that cannot be excluded
exposure.py   what the next step could cost
trace.py      all that was seen, read back and judged again
"""

from tasks.release.judge.fold import Judge
from tasks.release.judge.trace import Trace, is_promoted, read, replay

__all__ = ["Judge", "Trace", "is_promoted", "read", "replay"]
