"""Does the export answer as the source does? Functions of values: from what was seen to findings.

In: an `Outcome` per batch. Out: findings about every output. What one finding explains is not said again by another:
an output that is swapped also differs, but only the swap is worth a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.contract import Signature
from tasks.contracts import Finding, Owner, Verdict
from tasks.parity.compare import Comparison, Mismatch
from tasks.parity.inputs import Part, Pool
from tasks.parity.judge_running import Evidence, frozen_findings
from tasks.parity.outcomes import Outcome

_OTHER_FORMAT = "serve another format, or hand the difference to the exporter's maintainers"


# --- whether it answers right -------------------------------------------------------------------------------------


def output_findings(outcomes: Sequence[Outcome], signature: Signature) -> list[Finding]:
    """What is wrong with each output over all batches that were answered."""
    answered = [outcome for outcome in outcomes if outcome.error is None]
    findings: list[Finding] = []
    swapped = _swapped(answered, signature)
    if swapped:
        findings.append(_swap_finding(swapped))
    for tensor in signature.outputs:
        if tensor.name in swapped:
            continue
        findings += _output_findings(tensor.name, answered)
    return findings


def _output_findings(name: str, answered: Sequence[Outcome]) -> list[Finding]:
    wrong: dict[Mismatch, list[Outcome]] = {}
    for outcome in answered:
        mismatch = outcome.against_source[name].mismatch
        if mismatch is not None:
            wrong.setdefault(mismatch, []).append(outcome)
    findings: list[Finding] = []
    if Mismatch.DTYPE in wrong:
        first = wrong[Mismatch.DTYPE][0]
        findings.append(
            Finding(
                code="PARITY_DTYPE",
                owner=Owner.PLATFORM,
                message=f"output {name!r}: {first.against_source[name].reason}",
                advice="export with the declared dtype, or correct model.yaml if the source model gives the other one",
                evidence={"output": name, "batches": len(wrong[Mismatch.DTYPE])},
            )
        )
    if Mismatch.SHAPE in wrong:
        findings += _shape_findings(name, wrong[Mismatch.SHAPE], answered)
    if Mismatch.NON_FINITE in wrong:
        first = wrong[Mismatch.NON_FINITE][0]
        findings.append(
            Finding(
                code="PARITY_NAN",
                owner=Owner.PLATFORM,
                message=f"output {name!r} is not finite where the source model is, or the reverse, in {first.place}: "
                f"{first.against_source[name].reason}",
                advice="look for a logarithm, square root, division or overflow that the exporter computes "
                f"differently on that row; {_OTHER_FORMAT}",
                evidence={"output": name, "batches": len(wrong[Mismatch.NON_FINITE])} | _worst_row(first, name),
            )
        )
    differing = wrong.get(Mismatch.VALUE, [])
    unsteady = _unsteady(name, answered, Part.AGAIN)
    if unsteady is not None:
        return [*findings, _not_deterministic(name, unsteady)]
    if Mismatch.SHAPE not in wrong and (dependent := _unsteady(name, answered, Part.SIZE)) is not None:
        findings.append(_batch_dependent(name, dependent))
        # Rows of the smallest batches have no neighbours to depend on: what differs there differs for itself.
        smallest = min(outcome.batch.size for outcome in answered)
        differing = [outcome for outcome in differing if outcome.batch.size == smallest]
    if differing:
        findings.append(_differs(name, differing, len(answered)))
    return findings


def _shape_findings(name: str, wrong: Sequence[Outcome], answered: Sequence[Outcome]) -> list[Finding]:
    def is_bad(outcome: Outcome) -> bool:
        return outcome.against_source[name].mismatch is Mismatch.SHAPE

    findings = frozen_findings(wrong, answered, is_bad, f"gives output {name!r} another shape")
    if findings:
        return findings
    first = wrong[0]
    return [
        Finding(
            code="PARITY_SHAPE",
            owner=Owner.PLATFORM,
            message=f"output {name!r} in {first.place}: {first.against_source[name].reason}",
            advice="export without squeezing, flattening or transposing the output: a shape that only broadcasts to "
            "the source model's is another answer",
            evidence={"output": name, "batches": len(wrong)},
        )
    ]


def _unsteady(name: str, answered: Sequence[Outcome], part: Part) -> Outcome | None:
    """The worst batch of this kind whose answer is not what the export said of the same rows before."""
    found = [
        outcome
        for outcome in answered
        if outcome.batch.part is part
        and name in outcome.against_itself
        and outcome.against_itself[name].mismatch is not None
    ]
    return max(found, key=lambda outcome: outcome.against_itself[name].worst_margin or 0.0, default=None)


def _not_deterministic(name: str, outcome: Outcome) -> Finding:
    return Finding(
        code="PARITY_NOT_DETERMINISTIC",
        owner=Owner.MODEL,
        message=f"output {name!r} is not the same when the same batch is asked again: "
        f"{outcome.against_itself[name].reason}",
        advice="the export draws random numbers or keeps state between calls: export in inference mode "
        "(model.eval(), training=False), without dropout or sampling",
        evidence={"output": name} | _figures(outcome.against_itself[name]),
    )


def _batch_dependent(name: str, outcome: Outcome) -> Finding:
    return Finding(
        code="PARITY_BATCH_DEPENDENT",
        owner=Owner.PLATFORM,
        message=f"output {name!r} of a row depends on the rows beside it: in {outcome.place}, "
        f"{outcome.against_itself[name].reason} in another batch",
        advice="something is computed over the batch: normalisation in training mode, a softmax or a sum over the "
        f"batch axis; export in inference mode. The server batches requests of different clients; {_OTHER_FORMAT}",
        evidence={"output": name, "batch": outcome.batch.size} | _figures(outcome.against_itself[name]),
    )


def _differs(name: str, wrong: Sequence[Outcome], batches: int) -> Finding:
    worst = max(wrong, key=lambda outcome: outcome.against_source[name].worst_margin or 0.0)
    found = worst.against_source[name]
    return Finding(
        code="PARITY_TENSOR_DIFFERS",
        owner=Owner.PLATFORM,
        message=f"output {name!r} differs from the source model's in {len(wrong)} of {batches} batches; in "
        f"{worst.place}, {found.reason}",
        advice="the export computes something else than the source: look for other constants (epsilon, scale), "
        f"approximated activations, stale weights; {_OTHER_FORMAT}",
        evidence={"output": name, "batches": len(wrong), "pool": worst.pool.name, "batch": worst.batch.size}
        | _worst_row(worst, name)
        | _figures(found),
    )


def edge_finding(pool: Pool, rows: int) -> Finding:
    """A remark: so many rows were compared with what the source answers beside them."""
    return Finding(
        code="PARITY_ROWS_ON_EDGE",
        owner=Owner.MODEL,
        verdict=Verdict.PASSED,
        message=f"{rows} of {pool.rows} {pool.name} rows stand so near a threshold of the model that rounding decides "
        "the answer; the export answers them as the source answers their neighbours",
        advice="nothing, unless such rows matter: then keep inputs away from thresholds, or compute in float64",
        evidence={"pool": pool.name, "rows": rows},
    )


def _swapped(answered: Sequence[Outcome], signature: Signature) -> dict[str, str]:
    """Outputs whose values are another output's in every batch in which they are wrong at all."""
    found = {}
    for tensor in signature.outputs:
        wrong = [outcome for outcome in answered if outcome.against_source[tensor.name].mismatch is not None]
        others = {outcome.looks_like.get(tensor.name) for outcome in wrong}
        if len(others) == 1 and (other := others.pop()) is not None:
            found[tensor.name] = other
    return found


def _swap_finding(swapped: Mapping[str, str]) -> Finding:
    said = ", ".join(f"{name!r} gives {other!r}" for name, other in swapped.items())
    return Finding(
        code="PARITY_OUTPUT_SWAPPED",
        owner=Owner.PLATFORM,
        message=f"outputs are swapped: {said}",
        advice="name the outputs in the order in which the model gives them",
        evidence={"swapped": said},
    )


def _worst_row(outcome: Outcome, name: str) -> Evidence:
    worst = outcome.against_source[name].worst
    if worst is None:
        return {}
    row = int(outcome.rows[worst.row])
    return {
        "row": row,
        "index": str(list(worst.index)),
        "expected": worst.expected,
        "got": worst.got,
        "allowed": worst.allowed,
    }


def _figures(found: Comparison) -> Evidence:
    known = {"max_abs_diff": found.max_abs_diff, "worst_margin": found.worst_margin}
    return {name: value for name, value in known.items() if value is not None}
