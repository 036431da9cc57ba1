"""`judge`: what was seen during a release, judged again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.cli.session import AsJson, Debug, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from tasks.release.contracts import Judgement
    from tasks.release.judge import Trace


def judge(
    trace: Annotated[Path, typer.Argument(metavar="TRACE.jsonl", help="What a release was judged by.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Judge a recorded release again: the same counts give the same verdict.

    Exit code 0 where it ends with the promotion, 1 where it does not.
    """
    from tasks.release.judge import is_promoted, read, replay

    with opened(as_json, debug) as (session, _):
        recorded = read(trace)
        judgements = list(replay(recorded))
        promoted = is_promoted(recorded, judgements)
        session.document(
            {
                "trace": str(trace),
                "promoted": promoted,
                "plan": recorded.plan.model_dump(mode="json"),
                "judgements": [item.model_dump(mode="json") for item in judgements],
            }
        )
        if not as_json:
            session.result(*_lines(recorded, judgements, promoted))
    return 0 if promoted else 1


def _lines(trace: Trace, judgements: Sequence[Judgement], promoted: bool) -> Iterable[RenderableType]:
    """One row for each turn that it took, then why it ended as it did."""
    from rich.table import Table
    from rich.text import Text

    from tasks.console import finding_lines

    if not judgements:
        yield Text("The trace holds no look: nothing was judged.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("after", "step", "decision", "requests", "errors", "guard nearest to a rollback", "at risk"):
        table.add_column(column, no_wrap=True)
    for item in _turns(judgements):
        errors, nearest = item.guards[0], max(item.guards, key=lambda guard: guard.evidence / guard.threshold)
        table.add_row(
            f"{item.at - judgements[0].at:,.0f} s",
            f"{trace.plan.steps[item.step]:g} %",
            item.decision.value.replace("_", " "),
            f"{item.canary_requests:,} of {item.canary_requests + item.stable_requests:,}",
            f"{_rate(errors.canary)} against {_rate(errors.stable)}",
            f"{nearest.name}: {nearest.evidence:.2f} of {nearest.threshold:.2f}",
            _rate(item.at_risk),
        )
    yield table
    last = judgements[-1]
    yield Text(f"\n{'promoted' if promoted else f'not promoted ({last.decision})'}: {last.reason}")
    yield from finding_lines(last.findings)


def _turns(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The first look, each at which the decision or the step is another one than before, and the last."""
    turns = [judgements[0]]
    for item in judgements[1:]:
        if (item.decision, item.step) != (turns[-1].decision, turns[-1].step):
            turns.append(item)
    return turns if turns[-1] is judgements[-1] else [*turns, judgements[-1]]


def _rate(share: float | None) -> str:
    from tasks.figures import NOTHING
    from tasks.release.judge.words import percent

    return NOTHING if share is None else percent(share)
