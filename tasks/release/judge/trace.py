"""All that a release was judged by, as a file: TRACE.jsonl.

    {"plan": {…}, "shadow": {…} or null}        the first line
    {"at": …, "step": …, "weight": …, …}        a Sample, one a line, in their order

The controller writes it (`tasks.release.controller.trace`), each line before it is judged, so a release that was killed
is judged again to the same verdict. A last line without its end was being written when the process died: it was not
judged by, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.contracts import Contract
from tasks.errors import BadInput
from tasks.release.contracts import Decision, Judgement, Plan, Sample, ShadowReport, TraceHead
from tasks.release.judge.fold import Judge

Line = TypeVar("Line", bound=Contract)


@dataclass(frozen=True, slots=True)
class Trace:
    """What was agreed, and every look."""

    plan: Plan
    shadow: ShadowReport | None
    samples: tuple[Sample, ...] = ()


def read(path: Path) -> Trace:
    """The trace in a file.

    Raises:
        BadInput: what is not a trace, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as a trace: {error}") from error
    lines = text.split("\n")[:-1]  # without the last, which has no end
    if not lines:
        raise BadInput(f"{path}: expected a trace, whose first line holds the plan, and found no whole line")
    head = _parsed(TraceHead, lines[0], f"{path}:1")
    samples = []
    for number, line in enumerate(lines[1:], start=2):
        sample = _parsed(Sample, line, f"{path}:{number}")
        if sample.step >= len(head.plan.steps):
            raise BadInput(
                f"{path}:{number}: the plan has {len(head.plan.steps)} steps, and this look is of number {sample.step} "
                "(counted from 0)"
            )
        samples.append(sample)
    return Trace(head.plan, head.shadow, tuple(samples))


def _parsed(kind: type[Line], line: str, where: str) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = "the plan and the shadow report" if kind is TraceHead else "a look at both versions"
        raise BadInput(f"{where}: expected {what}: {key + ': ' if key else ''}{first['msg']}") from error


def replay(trace: Trace) -> Iterator[Judgement]:
    """What the judge said to each look."""
    judge = Judge(trace.plan, trace.shadow)
    for sample in trace.samples:
        yield judge.look(sample)


def is_promoted(trace: Trace, judgements: Sequence[Judgement]) -> bool:
    """Whether the judge let it through: every step that was taken, and the last one, too."""
    ways = zip(trace.samples[1:], judgements, strict=False)
    allowed = all(
        now.step == before.step or (now.step == before.step + 1 and before.decision is Decision.ADVANCE)
        for now, before in ways
    )
    last = judgements[-1] if judgements else None
    return (
        last is not None
        and trace.samples[0].step == 0
        and allowed
        and last.decision is Decision.ADVANCE
        and last.step == len(trace.plan.steps) - 1
    )
