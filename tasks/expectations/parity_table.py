"""The parity table as a gate: what was measured, one row per output and pool of rows and one per metric, and what of it
is expected.

In: what parity found. Out: tables with rules. The judge's findings explain (they tell a swap from a difference, a
frozen batch from a crash); this table decides again, on figures alone. Both must agree on whether the export may pass:
where they do not, one of the two is wrong, and nothing is let through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.contracts import Finding, MetricComparison, Owner, Verdict
from tasks.expectations.rules import Rule, Table
from tasks.parity.compare import Mismatch

if TYPE_CHECKING:
    from serving.contract import Signature
    from tasks.parity.outcomes import Outcome

#: Findings that are about what the table does not hold: names and order, declared sizes, single classes, the source.
_ELSEWHERE = ("PARITY_INPUT_", "PARITY_OUTPUT_", "PARITY_CLASS_", "PARITY_SOURCE_", "PARITY_GOLDEN_")
_FROZEN = ("PARITY_BATCH_FROZEN", "PARITY_LENGTH_FROZEN")

_READ = "read the findings of the parity report: they say what is behind this figure"


def tables(
    signature: Signature,
    pools: Sequence[str],
    asked: Sequence[int],
    outcomes: Sequence[Outcome],
    metrics: Sequence[MetricComparison],
) -> tuple[Table, ...]:
    """`asked` is how many batches of each pool were planned; `outcomes` are those that came back."""
    found = [_tensors(signature, pools, asked, outcomes)]
    if metrics:
        found.append(_metrics(metrics))
    return tuple(found)


def disagreement(table: Verdict, findings: Sequence[Finding]) -> Finding | None:
    """The finding that says that table and judge do not agree; None where they do."""
    blocking = [finding for finding in findings if finding.verdict is not Verdict.PASSED]
    if (table is Verdict.PASSED) == (not blocking):
        return None
    if table is Verdict.PASSED and all(finding.code.startswith(_ELSEWHERE + _FROZEN) for finding in blocking):
        return None
    said = ", ".join(dict.fromkeys(finding.code for finding in blocking)) or "nothing that blocks"
    return Finding(
        code="PARITY_TABLE_DISAGREES",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"expected that the parity table and the findings agree; the table says {table.value}, the findings "
        f"say {said}",
        advice="one of the two is wrong, so nothing is let through: report it with the parity page",
        evidence={"table": table.value, "findings": said},
    )


# --- one row per output and pool ----------------------------------------------------------------------------------


def _tensors(signature: Signature, pools: Sequence[str], asked: Sequence[int], outcomes: Sequence[Outcome]) -> Table:
    import pandas as pd

    rows = []
    for number, pool in enumerate(pools):
        mine = [outcome for outcome in outcomes if outcome.batch.pool == number]
        answered = [outcome for outcome in mine if outcome.error is None]
        for tensor in signature.outputs:
            found = [outcome.against_source[tensor.name] for outcome in answered]
            itself = [each.against_itself[tensor.name] for each in answered if tensor.name in each.against_itself]
            margins = [each.worst_margin for each in found if each.worst_margin is not None]
            rows.append(
                {
                    "output": f"{tensor.name} on {pool} rows",
                    "batches asked": asked[number],
                    "batches answered": len(answered),
                    "wrong dtype": sum(each.mismatch is Mismatch.DTYPE for each in found),
                    "wrong shape": sum(each.mismatch is Mismatch.SHAPE for each in found),
                    "not finite on one side": sum(each.mismatch is Mismatch.NON_FINITE for each in found),
                    "margin": max(margins, default=0.0),
                    "unlike itself": sum(each.mismatch is not None for each in itself),
                    "values compared": sum(each.compared for each in found),
                }
            )
    return Table("outputs", "output", "outputs", "output", pd.DataFrame(rows), tuple(_tensor_rules()))


def _tensor_rules() -> Iterator[Rule]:
    yield Rule(
        "expect_column_pair_values_to_be_equal",
        {"column_A": "batches answered", "column_B": "batches asked"},
        "every batch that was asked for is answered",
        "PARITY_TABLE_ANSWERED",
        Verdict.FAILED,
        _READ,
        Owner.PLATFORM,
    )
    for column, claim, code in (
        ("wrong dtype", "every answer has the declared dtype", "DTYPE"),
        ("wrong shape", "every answer has the source model's shape", "SHAPE"),
        ("not finite on one side", "NaN and infinities stand where the source model has them", "FINITE"),
        ("unlike itself", "a row is answered the same in every batch", "ITSELF"),
    ):
        yield Rule(
            "expect_column_values_to_be_in_set",
            {"column": column, "value_set": [0]},
            claim,
            f"PARITY_TABLE_{code}",
            Verdict.FAILED,
            _READ,
            Owner.PLATFORM,
        )
    yield Rule(
        "expect_column_values_to_be_between",
        {"column": "margin", "max_value": 1},
        "no difference is above what the source's own noise allows (a margin of 1)",
        "PARITY_TABLE_MARGIN",
        Verdict.FAILED,
        _READ,
        Owner.PLATFORM,
    )
    yield Rule(
        "expect_column_values_to_be_between",
        {"column": "values compared", "min_value": 1},
        "something was compared",
        "PARITY_TABLE_COMPARED",
        Verdict.INCONCLUSIVE,
        _READ,
        Owner.PLATFORM,
    )


# --- one row per metric -------------------------------------------------------------------------------------------


def _metrics(metrics: Sequence[MetricComparison]) -> Table:
    import pandas as pd

    rows = [
        {
            "metric": metric.name,
            "source": metric.source,
            "export": metric.export,
            "drop": metric.drop,
            "at most": metric.upper,  # what is held against max_drop
            "allowed": metric.max_drop + _rounding(metric),
            "rows": metric.rows,
        }
        for metric in metrics
    ]
    frame = pd.DataFrame(rows).astype(dict.fromkeys(("source", "export", "drop", "at most"), float))
    return Table("metrics", "metric", "metrics", "metric", frame, tuple(_metric_rules()), shown=("drop", "allowed"))


def _rounding(metric: MetricComparison) -> float:
    """Both values carry one rounding of float64; a drop of exactly max_drop must not fail for it."""
    import numpy as np

    return float(np.finfo(np.float64).eps) * max(abs(metric.source or 0.0), abs(metric.export or 0.0))


def _metric_rules() -> Iterator[Rule]:
    for column, whose in (("source", "the source model"), ("export", "the export")):
        yield Rule(
            "expect_column_values_to_not_be_null",
            {"column": column},
            f"every metric has a value for {whose}",
            "PARITY_TABLE_METRIC",
            Verdict.INCONCLUSIVE,
            _READ,
            Owner.PLATFORM,
        )
    yield Rule(
        "expect_column_values_to_not_be_null",
        {"column": "at most"},
        "every metric has a bound of how much the export may have lost",
        "PARITY_TABLE_METRIC",
        Verdict.INCONCLUSIVE,
        _READ,
        Owner.PLATFORM,
    )
    yield Rule(
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "allowed", "column_B": "at most", "or_equal": True, "ignore_row_if": "either_value_is_missing"},
        "no metric may have dropped by more than max_drop",
        "PARITY_TABLE_DROP",
        # Whether it did (failed) or might have (inconclusive) is the finding's to say; both block.
        Verdict.INCONCLUSIVE,
        _READ,
        Owner.PLATFORM,
    )
