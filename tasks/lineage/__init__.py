"""Lineage: contracts → MLflow runs and model versions, and back from any digest to the training run.

tracking.py    the MLflow client: connected or refused within seconds
origin.py      which run trained a model
evidence.py    a Package → what each of its runs says (pure)
recorder.py    a Package → one run with children, a model version, the alias `candidate`
history.py     the packages that the store knows
named.py       what a person names → the package or image that is meant
chain.py       a digest → the chain that it belongs to, in both directions
"""

from __future__ import annotations

from tasks.lineage.chain import Trace, trace
from tasks.lineage.history import Recorded, packages, remember_spec, spec_of
from tasks.lineage.named import find_evidenced, find_image, find_package, find_tuned, unknown_model
from tasks.lineage.recorder import record, registered_name

__all__ = [
    "Recorded",
    "Trace",
    "find_evidenced",
    "find_image",
    "find_package",
    "find_tuned",
    "packages",
    "record",
    "registered_name",
    "remember_spec",
    "spec_of",
    "trace",
    "unknown_model",
]
