"""Tuning: which batch size, window, threads and workers bear the most requests within the objective.

search.py    which setting bears the highest rate: decisions over measurements (pure)
run.py       settings in containers under load
basis.py     the package's image that a tuned one stands on, once its evidence holds
write.py     the choice as an image of its own, signed
record.py    the measurements in MLflow, beside the package's evidence
command.py   `slipway tune`

The load itself, and when an objective counts as kept, are `tasks.load`'s.
"""

from __future__ import annotations

from tasks.tune.run import Measurement, Tuning, tune
from tasks.tune.search import Choice, choose

__all__ = ["Choice", "Measurement", "Tuning", "choose", "tune"]
