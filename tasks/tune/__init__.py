"""Tuning: which batch size, window, threads and workers bear the most requests within the objective.

search.py    which setting, which rate, and whether it held again: decisions over measurements (pure)
bench.py     one setting at a time, in a container under load
run.py       what is measured in which order
basis.py     the package's image that a tuned one stands on, once its evidence holds
write.py     the choice as an image of its own, signed
record.py    the measurements in MLflow, beside the package's evidence
command.py   `slipway tune`

The load itself, and when an objective counts as kept, are `tasks.load`'s.
"""

from __future__ import annotations

from tasks.tune.bench import Measurement
from tasks.tune.run import Tuning, tune
from tasks.tune.search import Choice, choose

__all__ = ["Choice", "Measurement", "Tuning", "choose", "tune"]
