"""From what was seen to findings: functions of values, nothing is run here.

In: what the export says of itself, an `Outcome` per batch, how the worker ended. Out: findings, each with its owner,
one sentence and what to do. What is explained by one finding is not said again by another: an output that is
swapped also differs, but only the swap is worth a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.contracts import Finding, Owner, Verdict
from tasks.parity.compare import Comparison, Mismatch
from tasks.parity.exported import Ended
from tasks.parity.inputs import Batch, Part, Pool
from tasks.parity.structure import Port, Structure

Evidence = dict[str, str | int | float | bool]

_OTHER_FORMAT = "serve another format, or hand the difference to the exporter's maintainers"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one batch.

    `rows` are the pool's rows that were compared. `against_source` compares its outputs with the source model's,
    `against_itself` with what the export said of the same rows before; `looks_like` names, for an output that is
    wrong, another one whose values it has. A batch with an `error` has none of them.
    """

    batch: Batch
    pool: Pool
    rows: NDArray[np.int64]
    error: str | None = None
    against_source: Mapping[str, Comparison] = field(default_factory=dict)
    against_itself: Mapping[str, Comparison] = field(default_factory=dict)
    looks_like: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it was seen, as words."""
        return f"batch {self.batch.size} of {self.pool.name} rows"


# --- what the file says of itself ---------------------------------------------------------------------------------


def structure_findings(structure: Structure | None, signature: Signature) -> list[Finding]:
    """Names and order of inputs and outputs, as far as the file says them."""
    if structure is None:
        return []
    findings = []
    for what, found, declared in (
        ("input", structure.inputs, [tensor.name for tensor in signature.inputs]),
        ("output", structure.outputs, [tensor.name for tensor in signature.outputs]),
    ):
        findings += _name_findings(what, found, declared, ordered=structure.ordered)
    return findings


def _name_findings(what: str, found: Sequence[Port], declared: list[str], *, ordered: bool) -> list[Finding]:
    names = [port.name for port in found if port.name is not None]
    if len(names) < len(found):  # the format has no names: only the number can be wrong
        if len(found) == len(declared):
            return []
        missing, extra = declared[len(found) :], [f"number {number}" for number in range(len(declared), len(found))]
    else:
        missing = [name for name in declared if name not in names]
        extra = [name for name in names if name not in declared]
    code = f"PARITY_{what.upper()}"
    evidence: Evidence = {"declared": ", ".join(declared), "found": ", ".join(names) or str(len(found))}
    if missing and len(missing) == len(extra):
        renamed = ", ".join(f"{old!r} → {new!r}" for old, new in zip(missing, extra, strict=True))
        return [
            Finding(
                code=f"{code}_RENAMED",
                owner=Owner.PLATFORM,
                message=f"the export does not carry the declared {what} names: {renamed}",
                advice=f"export again with the {what} names of model.yaml",
                evidence=evidence,
            )
        ]
    findings = [
        Finding(
            code=f"{code}_MISSING",
            owner=Owner.PLATFORM,
            message=f"the export has no {what} {name!r}; it has {evidence['found']}",
            advice=f"export again with every {what} of model.yaml, or correct model.yaml",
            evidence=evidence,
        )
        for name in missing
    ]
    findings += [
        Finding(
            code=f"{code}_EXTRA",
            owner=Owner.PLATFORM,
            message=f"the export has an {what} {name!r} that model.yaml does not declare",
            advice=f"declare the {what} in model.yaml, or export without it",
            evidence=evidence,
        )
        for name in extra
    ]
    if not findings and ordered and names != declared:
        findings.append(
            Finding(
                code=f"{code}_ORDER",
                owner=Owner.PLATFORM,
                verdict=Verdict.PASSED,
                message=f"the export has its {what}s in another order than model.yaml: {', '.join(names)}",
                advice="nothing where they are asked for by name, as Slipway's server does; "
                "who takes them by position must use this order",
                evidence=evidence,
            )
        )
    return findings


# --- whether it runs ----------------------------------------------------------------------------------------------


def run_findings(
    load_error: str | None,
    ended: Ended | None,
    asked_last: str,
    outcomes: Sequence[Outcome],
    structure: Structure | None,
    signature: Signature,
) -> list[Finding]:
    """Not loaded, crashed, hung, refused: everything that kept the export from answering.

    `asked_last` says in words what the worker was asked when it ended too early.
    """
    if load_error is not None:
        return [_runtime_error(f"the runtime refused the export: {_sentence(load_error)}", {})]
    findings = [_crashed(ended, asked_last)] if ended is not None else []
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return findings
    frozen = _declared_frozen(structure, signature)
    if frozen is not None and all(outcome.error is not None for outcome in outcomes):
        return [*findings, frozen]
    return [*findings, *_frozen_when_run(failed, outcomes, lambda outcome: outcome.error is not None, "fails")]


def _crashed(ended: Ended, asked_last: str) -> Finding:
    evidence: Evidence = {"how": ended.how, "last_lines": ended.last_lines}
    return Finding(
        code="PARITY_RUNTIME_HUNG" if ended.hung else "PARITY_RUNTIME_CRASH",
        owner=Owner.PLATFORM,
        message=f"the process that ran the export {ended.how}, {asked_last}",
        advice="serve another format, and hand the file and its last lines to the runtime's maintainers; "
        "SIGKILL most likely means that the machine had too little memory",
        evidence=evidence,
    )


def _runtime_error(message: str, evidence: Evidence) -> Finding:
    return Finding(
        code="PARITY_RUNTIME_ERROR",
        owner=Owner.PLATFORM,
        message=message,
        advice="the runtime names what it cannot do: rewrite that operation, or serve another format",
        evidence=evidence,
    )


def _declared_frozen(structure: Structure | None, signature: Signature) -> Finding | None:
    """The batch dimension that the file itself declares as one number, where model.yaml says it is free."""
    if structure is None or signature.batch is None:
        return None
    for port, tensor in zip(structure.inputs, signature.inputs, strict=False):
        named = next((item for item in structure.inputs if item.name == tensor.name), port)
        if named.sizes and named.sizes[0] is not None:
            return _batch_frozen(
                f"input {tensor.name!r} of the export is fixed at {named.sizes[0]} rows",
                {"frozen_at": named.sizes[0], "input": tensor.name},
            )
    return None


def _batch_frozen(what: str, evidence: Evidence) -> Finding:
    return Finding(
        code="PARITY_BATCH_FROZEN",
        owner=Owner.MODEL,
        message=f"the batch dimension is frozen: {what}",
        advice="keep the batch dimension dynamic in the export, and no int() of it or constant of that size in the "
        "model",
        evidence=evidence,
    )


def _frozen_when_run(
    failed: Sequence[Outcome], outcomes: Sequence[Outcome], is_bad: Callable[[Outcome], bool], verb: str
) -> list[Finding]:
    """Failures that follow batch size or length are named so; what is left is the runtime's own error."""
    findings: list[Finding] = []
    explained: set[int] = set()
    for number in sorted({outcome.batch.pool for outcome in failed}):
        mine = [outcome for outcome in outcomes if outcome.batch.pool == number]
        by_size: dict[int, list[bool]] = {}
        for outcome in mine:
            by_size.setdefault(outcome.batch.size, []).append(is_bad(outcome))
        bad = [size for size, found in sorted(by_size.items()) if all(found)]
        good = [size for size, found in sorted(by_size.items()) if not any(found)]
        first = next(outcome for outcome in mine if is_bad(outcome))
        if bad and good and len(bad) + len(good) == len(by_size):
            explained.add(number)
            if not any(finding.code == "PARITY_BATCH_FROZEN" for finding in findings):
                what = f"it {verb} with {_list(bad)} rows and works with {_list(good)}"
                findings.append(
                    _batch_frozen(f"{what}: {_reason(first)}", {"fails_with": _list(bad), "works_with": _list(good)})
                )
        elif bad and not good and _works_at_other_lengths(first.pool, outcomes, is_bad):
            explained.add(number)
            findings.append(_length_frozen(first, verb))
    rest = [outcome for outcome in failed if outcome.batch.pool not in explained]
    if rest and verb == "fails":
        worst = rest[0]
        findings.append(
            _runtime_error(
                f"the runtime failed for {len(rest)} of {len(outcomes)} batches, first for {worst.place}: "
                f"{_reason(worst)}",
                {"batches": len(outcomes), "failed": len(rest)},
            )
        )
    return findings


def _works_at_other_lengths(pool: Pool, outcomes: Sequence[Outcome], is_bad: Callable[[Outcome], bool]) -> bool:
    others = [outcome for outcome in outcomes if dict(outcome.pool.lengths) != dict(pool.lengths)]
    return bool(others) and not all(is_bad(outcome) for outcome in others)


def _length_frozen(outcome: Outcome, verb: str) -> Finding:
    lengths = ", ".join(f"{name} = {size}" for name, size in outcome.pool.lengths.items())
    return Finding(
        code="PARITY_LENGTH_FROZEN",
        owner=Owner.MODEL,
        message=f"the export {verb} with {lengths}, which model.yaml declares: {_reason(outcome)}",
        advice="keep the dimension dynamic in the export, or narrow its range in model.yaml",
        evidence=dict(outcome.pool.lengths),
    )


def _reason(outcome: Outcome) -> str:
    if outcome.error is not None:
        return _sentence(outcome.error)
    wrong = next((found for found in outcome.against_source.values() if found.mismatch is Mismatch.SHAPE), None)
    return wrong.reason if wrong else "no reason was given"


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

    findings = _frozen_when_run(wrong, answered, is_bad, f"gives output {name!r} another shape")
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


def _list(sizes: Iterable[int]) -> str:
    return ", ".join(str(size) for size in sizes)


def _sentence(text: str, limit: int = 400) -> str:
    """A runtime's message as one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
