"""Lineage: contracts → MLflow runs and model versions, and back from any digest to the training run.

tracking.py    the MLflow client: found quickly or refused quickly
evidence.py    a Package → what each of its runs says (pure)
record.py      a Package → one run with children, a model version, the alias `candidate`
history.py     the packages that the store knows
trace.py       a digest → the chain it belongs to, in both directions
"""

from __future__ import annotations

from tasks.lineage.history import Recorded, packages
from tasks.lineage.record import record
from tasks.lineage.trace import Trace, trace

__all__ = ["Recorded", "Trace", "packages", "record", "trace"]
