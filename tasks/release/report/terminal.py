"""A release in a terminal: arms and weights, evidence against its threshold, what it waits for. Out: Rich renderables.

Nothing here decides anything. Text is never taken as Rich markup.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.console import finding_lines
from tasks.contracts import Finding, Verdict
from tasks.figures import NOTHING
from tasks.release.contracts import Deployed, GuardState, Judgement, Phase, Release
from tasks.release.report.page import duration, percent
from tasks.release.report.view import named, sentence, verdict

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
#: Cells of the bar that shows evidence against its threshold.
_BAR = 20


def lines(release: Release) -> Iterable[RenderableType]:
    """What `slipway status` shows of one release."""
    style = _STYLES[verdict(release)] if release.phase.is_over or release.phase is Phase.HELD else "bold"
    yield Text.assemble((release.phase.value.replace("_", " "), style), "  ", sentence(release))
    yield _arms(release)
    if release.shadow is not None:
        yield _shadow(release)
    judged = release.judgement
    if judged is not None and judged.guards:
        yield _guards(judged)
    if judged is not None and release.phase is Phase.CANARY:
        yield _waiting(release, judged)
    yield from finding_lines(_findings(release))


def _arms(release: Release) -> Table:
    table = Table("arm", "version", "format", "image", "weight", box=None, pad_edge=False, header_style="dim")
    _add(table, "stable", release.stable, 100 - release.weight)
    _add(table, "canary", release.candidate, release.weight)
    return table


def _add(table: Table, arm: str, deployed: Deployed | None, weight: float) -> None:
    if deployed is None:
        table.add_row(arm, NOTHING, NOTHING, NOTHING, NOTHING)
        return
    table.add_row(
        Text(arm),
        Text(named(deployed)),
        Text(deployed.format),
        Text(deployed.reference),
        Text(percent(weight)),
    )


def _shadow(release: Release) -> Text:
    found = release.shadow
    assert found is not None  # noqa: S101  the caller saw to it
    said = f"{found.requests:,} requests, {found.kind}"
    if found.agreement is not None:
        said += f", {percent(100 * found.agreement, 2)} the same"
    said += "".join(f", {name} {old:.4g} → {new:.4g}" for name, (old, new) in found.metrics.items())
    return Text.assemble("shadow  ", (found.verdict.value, _STYLES[found.verdict]), f"  {said}")


def _guards(judged: Judgement) -> Table:
    table = Table("guard", "evidence", "", "stable", "canary", "at most worse", box=None, header_style="dim")
    table.pad_edge = False
    for guard in judged.guards:
        fired = guard.evidence >= guard.threshold
        table.add_row(
            Text(guard.name),
            Text(_bar(guard), "bold red" if fired else ""),
            Text(f"{guard.evidence:.2f} of {guard.threshold:.2f}"),
            Text(_rate(guard.stable)),
            Text(_rate(guard.canary)),
            Text(_rate(guard.upper)),
        )
    return table


def _bar(guard: GuardState) -> str:
    share = min(max(guard.evidence / guard.threshold, 0.0), 1.0) if guard.threshold > 0 else 1.0
    full = round(_BAR * share)
    return "█" * full + "·" * (_BAR - full)


def _rate(value: float | None) -> str:
    return NOTHING if value is None else percent(100 * value, 3)


def _waiting(release: Release, judged: Judgement) -> RenderableType:
    plan = release.plan
    watched = f"watched {duration(judged.baked_s)} of {duration(plan.bake_s)}"
    asked = f"{judged.canary_requests:,} of {plan.min_requests:,} requests of the canary"
    left = "" if judged.seconds_left is None else f"; about {duration(judged.seconds_left)} until it can decide"
    said = [Text(f"{watched}, {asked}{left}")]
    if judged.reason:
        said.append(Text(judged.reason, "dim"))
    return Group(*said)


def _findings(release: Release) -> list[Finding]:
    found = release.findings or (() if release.judgement is None else release.judgement.findings)
    return [finding for finding in found if finding.verdict is not Verdict.PASSED]
