"""What the gate asks when it found that answers differ: on which rows, where, and what its findings say of it.

In: what parity found. Out: a `Divergence`, and the findings with the place in them. Verdicts are never changed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from serving.preprocess import Preprocessing
from tasks.contracts import Artifact, Divergence, Export, Finding
from tasks.ingest.sources import SourceModel
from tasks.parity.compare import Mismatch
from tasks.parity.confrontation import Judgement
from tasks.parity.divergence import locate
from tasks.parity.outcomes import Outcome
from tasks.spec import ModelSpec

#: Findings behind which stands a place in the graph.
_DIFFER = frozenset({"PARITY_TENSOR_DIFFERS", "PARITY_NAN", "PARITY_BATCH_DEPENDENT", "PARITY_METRIC_DROP"})
#: Those that say where it is.
_SAY = frozenset({"PARITY_TENSOR_DIFFERS", "PARITY_NAN", "PARITY_BATCH_DEPENDENT"})
#: So many rows are looked at: enough values to tell noise by, and a fraction of the batches that parity asks anyway.
_ROWS = 8


def divergence_of(
    spec: ModelSpec,
    artifact: Artifact,
    source: SourceModel,
    export: Export,
    judgement: Judgement,
    path: Path,
    work: Path,
    preprocessing: Preprocessing | None = None,
) -> Divergence | None:
    """Where the export leaves its source; None where it does not, or where nobody can look inside."""
    if export.runtime != "onnx" or not {finding.code for finding in judgement.findings} & _DIFFER:
        return None
    signature = spec.signature
    inputs = rows_to_look_at(judgement, signature, preprocessing or Preprocessing(spec.preprocess, signature))
    return locate(source, artifact.loader, signature, path, inputs, work, export.precision)


def rows_to_look_at(
    judgement: Judgement, signature: Signature, preprocessing: Preprocessing | None = None
) -> Mapping[str, NDArray[Any]]:
    """Model inputs of rows on which the answers differ, the wrong ones first; raw where no preprocessing is given.

    Where small batches are right and larger ones wrong, it is one of the latter, as it was asked.
    """
    wrong = [outcome for outcome in judgement.outcomes if _is_wrong(outcome)]
    if not wrong:
        pool, rows = judgement.pools[0], np.arange(min(_ROWS, judgement.pools[0].rows))
        taken = {name: array[_fitting(rows, signature)] for name, array in pool.raw.items()}
        return taken if preprocessing is None else preprocessing(taken)
    outcome = min(wrong, key=lambda item: (item.batch.size, -_margin(item)))
    pool = outcome.pool
    asked = outcome.batch.rows(pool.rows)
    if outcome.batch.size == min(item.batch.size for item in judgement.outcomes):
        bad = [
            outcome.rows[found.wrong_rows] for found in outcome.against_source.values() if found.mismatch is not None
        ]
        every = [
            other.rows[found.wrong_rows]
            for other in wrong
            if other.batch.pool == outcome.batch.pool
            for found in other.against_source.values()
            if found.mismatch is not None
        ]
        ordered = list(dict.fromkeys(int(row) for row in np.concatenate([*bad, *every, np.arange(pool.rows)])))
        asked = _fitting(np.array(ordered[:_ROWS]), signature)
    taken = {name: array[asked] for name, array in pool.raw.items()}
    return taken if pool.is_prepared or preprocessing is None else preprocessing(taken)


def told(findings: Sequence[Finding], divergence: Divergence | None) -> tuple[Finding, ...]:
    """The findings, with the place in those that it explains."""
    if divergence is None or divergence.first is None:
        return tuple(findings)
    first, why = divergence.first, divergence.explanation
    place = f"{first.module or first.node} ({first.operator})"
    evidence: Mapping[str, str | float] = {
        "first_module": first.module,
        "first_kind": first.kind,
        "first_operator": first.operator,
        "first_value": first.node,
        "first_margin": first.margin,
    }
    return tuple(
        finding.model_copy(
            update={
                "message": f"{finding.message}; first at {place}{f': {why}' if why else ''}",
                "evidence": {**finding.evidence, **evidence},
            }
        )
        if finding.code in _SAY
        else finding
        for finding in findings
    )


def _is_wrong(outcome: Outcome) -> bool:
    return any(found.mismatch in (Mismatch.VALUE, Mismatch.NON_FINITE) for found in outcome.against_source.values())


def _margin(outcome: Outcome) -> float:
    return max(found.worst_margin or 0.0 for found in outcome.against_source.values())


def _fitting(rows: NDArray[np.int64], signature: Signature) -> NDArray[np.int64]:
    """As many rows as the batch dimension takes."""
    if signature.batch is None:
        fixed = next((tensor.shape[0] for tensor in signature.inputs if tensor.shape), 1)
        return np.resize(rows, fixed) if isinstance(fixed, int) else rows
    span = signature.dynamic[signature.batch]
    return np.resize(rows, min(max(len(rows), span.min), span.max))
