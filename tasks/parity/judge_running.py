"""Does the export run at all, for everything that it is asked? Functions of values: from what was seen to findings.

In: what the file says of itself, how the worker ended, an `Outcome` per batch. Out: findings about names, crashes,
refusals, and dimensions that are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from serving.contract import Signature, TensorSpec
from tasks.contracts import Finding, Owner, Verdict
from tasks.parity.compare import Mismatch
from tasks.parity.exported import AskedExport, Ended
from tasks.parity.inputs import Batch, Pool
from tasks.parity.outcomes import Outcome
from tasks.parity.structure import Port, Structure

Evidence = dict[str, str | int | float | bool]


def structure_findings(structure: Structure | None, signature: Signature) -> list[Finding]:
    """Names and order of inputs and outputs, and what inputs are taken as, as far as the file says them.

    The dtypes and shapes of outputs are judged by what the export answers.
    """
    if structure is None:
        return []
    findings = []
    for what, found, declared in (
        ("input", structure.inputs, [tensor.name for tensor in signature.inputs]),
        ("output", structure.outputs, [tensor.name for tensor in signature.outputs]),
    ):
        findings += _name_findings(what, found, declared, ordered=structure.ordered)
    return findings + [
        finding
        for tensor, port in _paired(signature.inputs, structure.inputs)
        if (finding := _input_finding(tensor, port)) is not None
    ]


def _paired(tensors: Sequence[TensorSpec], ports: Sequence[Port]) -> list[tuple[TensorSpec, Port]]:
    """What is declared beside what the file has: by name, or by place where the format has no names."""
    if all(port.name is None for port in ports):
        return list(zip(tensors, ports, strict=False))
    named = {port.name: port for port in ports}
    return [(tensor, named[tensor.name]) for tensor in tensors if tensor.name in named]


def _input_finding(tensor: TensorSpec, port: Port) -> Finding | None:
    """An input that the file takes in another dtype, rank or fixed size than model.yaml declares."""
    declared = list(tensor.shape)
    if port.dtype is not None and port.dtype != tensor.dtype.value:
        code, what = "PARITY_INPUT_DTYPE", f"as {port.dtype}, model.yaml declares {tensor.dtype.value}"
    elif port.sizes is not None and (
        len(port.sizes) != len(declared)
        or any(
            isinstance(size, int) and found is not None and size != found
            for size, found in zip(declared, port.sizes, strict=True)
        )
    ):
        found = ["?" if size is None else size for size in port.sizes]
        code, what = "PARITY_INPUT_SHAPE", f"in shape {found}, model.yaml declares {declared}"
    else:
        return None
    return Finding(
        code=code,
        owner=Owner.PLATFORM,
        message=f"the export takes input {tensor.name!r} {what}",
        advice="export again with the inputs of model.yaml: clients send what it declares",
        evidence={"input": tensor.name},
    )


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
    answered: AskedExport,
    plan: Sequence[Batch],
    outcomes: Sequence[Outcome],
    signature: Signature,
    structure: Sequence[Finding] = (),
) -> list[Finding]:
    """Not loaded, crashed, hung, refused: everything that kept the export from answering.

    `structure` are the findings about names and inputs. Where one of them blocks and nothing was answered, it is why:
    the runtime's own words for it are not said again.
    """
    why_known = any(finding.verdict is not Verdict.PASSED for finding in structure)
    if answered.load_error is not None:
        refused = _runtime_error(f"the runtime refused the export: {_sentence(answered.load_error)}", {})
        return [] if why_known else [refused]
    findings = [_crashed(answered.ended, plan)] if answered.ended is not None else []
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if why_known and len(failed) == len(outcomes):
        return findings
    declared = _declared_frozen(answered.structure, signature)
    if declared and outcomes and len(failed) == len(outcomes):
        return [*findings, *declared]
    findings += frozen_findings(failed, outcomes, lambda outcome: outcome.error is not None, "fails")
    if not any(finding.code.endswith("_FROZEN") for finding in findings):
        findings += declared  # this runtime may run other sizes all the same, the next one refuses them
    return findings


def unasked_findings(answered: AskedExport, plan: Sequence[Batch], findings: Sequence[Finding]) -> list[Finding]:
    """No pass without every batch: whatever the reason is, where nothing else has said so."""
    missing = sum(answered.answer(number) is None for number in range(len(plan)))
    if not missing or any(finding.verdict is not Verdict.PASSED for finding in findings):
        return []
    return [
        Finding(
            code="PARITY_INCOMPLETE",
            owner=Owner.PLATFORM,
            verdict=Verdict.INCONCLUSIVE,
            message=f"{missing} of {len(plan)} batches were never answered",
            advice="run parity again with --fresh; if it stays so, run the export by hand",
            evidence={"batches": len(plan), "missing": missing},
        )
    ]


def _crashed(ended: Ended, plan: Sequence[Batch]) -> Finding:
    asked_last = "while it loaded the file" if ended.batch is None else f"asked for {plan[ended.batch].size} rows"
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


def _declared_frozen(structure: Structure | None, signature: Signature) -> list[Finding]:
    """Dimensions that the file itself declares as one number, where model.yaml says that they are free."""
    findings: dict[str, Finding] = {}
    if structure is None:
        return []
    inputs, outputs = _paired(signature.inputs, structure.inputs), _paired(signature.outputs, structure.outputs)
    for what, (tensor, port) in [*(("input", pair) for pair in inputs), *(("output", pair) for pair in outputs)]:
        for name, size in zip(tensor.shape, port.sizes or (), strict=False):
            if not isinstance(name, str) or size is None:
                continue
            said = f"{what} {tensor.name!r} of the export is fixed at {name} = {size}"
            evidence: Evidence = {"frozen_at": size, what: tensor.name}
            found = _batch_frozen(said, evidence) if name == signature.batch else _length_frozen(said, evidence)
            findings.setdefault(name, found)
    return list(findings.values())


def _batch_frozen(what: str, evidence: Evidence) -> Finding:
    return Finding(
        code="PARITY_BATCH_FROZEN",
        owner=Owner.MODEL,
        message=f"the batch dimension is frozen: {what}",
        advice="keep the batch dimension dynamic in the export, and no int() of it or constant of that size in the "
        "model",
        evidence=evidence,
    )


def frozen_findings(
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
            lengths = ", ".join(f"{name} = {size}" for name, size in first.pool.lengths.items())
            findings.append(
                _length_frozen(f"the export {verb} with {lengths}: {_reason(first)}", dict(first.pool.lengths))
            )
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


def _length_frozen(what: str, evidence: Evidence) -> Finding:
    return Finding(
        code="PARITY_LENGTH_FROZEN",
        owner=Owner.MODEL,
        message=f"a dimension is frozen that model.yaml declares as dynamic: {what}",
        advice="keep the dimension dynamic in the export, or narrow its range in model.yaml",
        evidence=evidence,
    )


def _reason(outcome: Outcome) -> str:
    if outcome.error is not None:
        return _sentence(outcome.error)
    wrong = next((found for found in outcome.against_source.values() if found.mismatch is Mismatch.SHAPE), None)
    return wrong.reason if wrong else "no reason was given"


def _list(sizes: Iterable[int]) -> str:
    return ", ".join(str(size) for size in sizes)


def _sentence(text: str, limit: int = 400) -> str:
    """A runtime's message as one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
