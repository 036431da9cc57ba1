"""Tuning: which batch size, window, threads and workers bear the most requests within the objective.

load.py      open-loop load: arrivals that do not wait for answers, times from the intended arrival
search.py    which setting, which rate: decisions over measurements (pure)
run.py       settings in containers under load
basis.py     the package's image that a tuned one stands on, once its evidence holds
write.py     the choice as an image of its own, signed
record.py    the measurements in MLflow, beside the package's evidence
command.py   `slipway tune`
"""

from __future__ import annotations

from tasks.tune.run import Measurement, Tuning, tune
from tasks.tune.search import Choice, Held, choose, held, highest

__all__ = ["Choice", "Held", "Measurement", "Tuning", "choose", "held", "highest", "tune"]
