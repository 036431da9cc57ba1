"""Parity: does the export answer as the model that was trained does? Artifact + Export → ParityReport.

    from tasks.parity import check
    from tasks.parity.metrics import METRICS

Light to import, because spec validation reads `METRICS`; `check` brings NumPy and the gate with it when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.contracts import Artifact, Export, ParityReport
    from tasks.spec import ModelSpec
    from tasks.store import Store


def check(spec: ModelSpec, artifact: Artifact, export: Export, store: Store, work: Path) -> ParityReport:
    """Hold one export against its source model; see `tasks.parity.gate.check`."""
    from tasks.parity.gate import check as gate

    return gate(spec, artifact, export, store, work)
