"""How packages, stages and chains look in a terminal. In: contracts. Out: Rich renderables, and progress as it happens.

Nothing here decides anything. Text is never taken as Rich markup: shapes are written in brackets too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tasks.contracts import (
    Finding,
    Image,
    LineageRecord,
    Package,
    ParityReport,
    ProcessorProof,
    SmokeReport,
    SmokeRun,
    TunedImage,
    Verdict,
)
from tasks.figures import NOTHING, figure, gib, short, size
from tasks.findings import placed
from tasks.pipeline import Event, Moment

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.lineage import Recorded, Trace
    from tasks.lineage.chain import TracedPackage, TrainingRun
    from tasks.placement import Cell, Matrix
    from tasks.spec import ServingSpec

_STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.INCONCLUSIVE: "bold yellow"}
_MARKS = {Verdict.PASSED: "✓", Verdict.INCONCLUSIVE: "?", Verdict.FAILED: "✗"}

#: Terminals that are narrower get a smaller table.
_WIDE = 130
#: Characters that no digest, reference and path together come to.
_NEVER_CUT = 4096
_MAY_WRAP = {"model", "parity"}


class Progress:
    """Shows stages as they go: one line each when it is over, and on a terminal what is running now."""

    def __init__(self, console: Console, check: Callable[[], None]) -> None:
        """`check` is called at every event; what it raises ends the work between two stages."""
        self._console, self._check = console, check
        self._status = console.status("", spinner="dots") if console.is_terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        what = f"{event.stage:<8} {event.label}"
        if event.moment in {Moment.STARTED, Moment.WAITING}:
            waiting = " (another process works on it, waiting)" if event.moment is Moment.WAITING else ""
            if self._status is not None:
                self._status.update(Text(f"{what}{waiting}"))
                self._status.start()
            elif waiting:
                self._console.print(Text(f"… {what}{waiting}"))
            self._check()
            return
        if self._status is not None:
            self._status.stop()
        self._console.print(_line(event))
        if event.moment is not Moment.STOPPED:
            self._check()


def _line(event: Event) -> Text:
    mark = "!" if event.moment is Moment.STOPPED else _MARKS[event.verdict or Verdict.PASSED]
    outcome = "stopped" if event.moment is Moment.STOPPED else (event.verdict or "done")
    style = "bold red" if event.moment is Moment.STOPPED else _STYLES[event.verdict or Verdict.PASSED]
    how = "reused" if event.moment is Moment.REUSED else f"{event.duration_s or 0:.1f} s"
    return Text.assemble((f"{mark} ", style), f"{event.stage:<8} {event.label:<32} ", (f"{outcome:<13}", style), how)


# --- packages -----------------------------------------------------------------------------------------------------


def package_table(packages: Sequence[Package], width: int) -> Table:
    """One line per model and format: what it is worth, and where it was proven. `width` in characters."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    rows = [_cells(package, name, width) for package in packages for name in package.inputs.formats]
    left_out = set() if width >= _WIDE else {"model adds", "digest" if len(packages) > 1 else "model"}
    shown = [column for column in rows[0] if column not in left_out]
    for column in shown:
        table.add_column(column, no_wrap=column not in _MAY_WRAP, overflow="fold")
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    return table


def _cells(package: Package, name: str, width: int) -> dict[str, Text]:
    exported = next((report for report in package.exports if report.format == name), None)
    compared = next((report for report in package.parity if report.format == name), None)
    image = next((image for image in package.images if image.format == name), None)
    smoked = [report for report in package.smoke if report.format == name]
    if exported is None or exported.export is None:
        parity = _verdict(exported.verdict if exported else Verdict.INCONCLUSIVE, "no export")
    else:
        parity = _parity(compared)
    serves = " (serves)" if serving_of(package) == name and width >= _WIDE else ""
    return {
        "model": Text(package.name),
        "format": Text(f"{name}{serves}"),
        "parity": parity,
        "image": Text(size(image.size_bytes) if image else NOTHING),
        "model adds": Text(size(image.model_bytes) if image else NOTHING),
        "start": Text(_worst([report.figures.cold_start_s for report in smoked], "s", 2)),
        "p99": Text(_worst([report.figures.p99_ms for report in smoked], "ms", 1)),
        "proven on": Text(" " if width >= _WIDE else "\n").join(map(_type, smoked)) if smoked else Text(NOTHING),
        "digest": Text(short(image.digest) if image else NOTHING),
    }


def _parity(report: ParityReport | None) -> Text:
    return (
        _verdict(Verdict.INCONCLUSIVE, "not compared") if report is None else _verdict(report.verdict, _metrics(report))
    )


def _metrics(report: ParityReport) -> str:
    return ", ".join(
        f"{metric.name} {NOTHING if metric.export is None else f'{metric.export:.4g}'}"
        + ("" if not metric.drop else f" ({abs(metric.drop):.2g} {'worse' if metric.drop > 0 else 'better'})")
        for metric in report.metrics
    )


def _type(report: SmokeReport) -> Text:
    return Text(f"{_MARKS[report.verdict]} {report.instance_type}", style=_STYLES[report.verdict])


def _verdict(verdict: Verdict, more: str = "") -> Text:
    return Text(f"{_MARKS[verdict]} {more or verdict}", style=_STYLES[verdict])


def _worst(values: Iterable[float | None], unit: str, digits: int) -> str:
    measured = [value for value in values if value is not None]
    return f"{max(measured):.{digits}f} {unit}" if measured else NOTHING


def serving_of(package: Package) -> str | None:
    """The format that serves; None where the package did not pass."""
    return package.serving_format if package.verdict is Verdict.PASSED else None


def matrix_table(matrix: Matrix) -> Table:
    """One line per instance type, one column per format."""
    table = Table("instance type", *matrix.formats, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for kind in matrix.instance_types:
        table.add_row(kind, *(_placement(matrix.cell(name, kind)) for name in matrix.formats))
    return table


def unproven_lines(matrix: Matrix) -> Iterable[Text]:
    """Why cells are not proven, as far as it is their processors: those that were not."""
    for cell in matrix.cells:
        missing = [proof for proof in cell.processors if proof.verdict is not Verdict.PASSED]
        yield from processor_lines(f"{cell.format} on {cell.instance_type}", missing)


def processor_lines(of: str, tried: Iterable[ProcessorProof]) -> Iterable[Text]:
    """How each processor of a type was tried, and why it is not proven or what its proof leaves open."""
    for proof in tried:
        said = f"{of}: {proof.cpu} ({proof.level}), {proof.proof}"
        yield Text.assemble(_verdict(proof.verdict, said), (f"  {proof.note}" if proof.note else "", "dim"))


def _placement(cell: Cell) -> Text:
    if not cell.is_proven:
        return _verdict(cell.verdict, f"{cell.verdict}: {cell.reasons[0].code}")
    figures = cell.figures
    said = [
        cell.rate or (f"p99 of one client {figure(figures.p99_ms)} ms" if figures and figures.p99_ms else ""),
        gib(cell.needed_bytes) if cell.needed_bytes else "",
    ]
    return _verdict(cell.verdict, ", ".join(part for part in said if part))


def package_lines(package: Package, record: LineageRecord | None) -> Iterable[Text]:
    """What the table does not say: the verdict, the identity, what serves, and where the history is."""
    yield Text.assemble(
        f"{package.name} ", (str(package.verdict), _STYLES[package.verdict]), f"  package {package.digest}"
    )
    if package.serving_format and package.verdict is not Verdict.PASSED:
        yield Text(f"serves nothing: {package.serving_format} passed on its own, and a package passes as a whole")
    elif package.serving_format:
        yield Text(f"serves as {package.serving_format}: {_reference(package, package.serving_format)}")
    yield Text(f"MLflow: {mlflow_line(record)}")


def _reference(package: Package, name: str) -> str:
    return next(f"{image.reference} ({image.digest})" for image in package.images if image.format == name)


def mlflow_line(record: LineageRecord | None) -> str:
    """Where MLflow has it, for people."""
    if record is None:
        return "not recorded"
    version = f", {record.model_name} version {record.model_version}" if record.model_version else ""
    return f"{record.run_url or f'run {record.run_id} in {record.tracking_uri}'}{version}"


def tuning_line(tuned: TunedImage) -> str:
    """What a tuned image was tuned for, and the curve that says so, for people."""
    return (
        f"{tuned.requests_per_s:,.0f} requests/s within {tuned.p99_ms:g} ms on {tuned.cpus:g} CPUs, "
        f"by curve {tuned.curve.digest}"
    )


def finding_lines(findings: Sequence[Finding]) -> Iterable[Text]:
    """Each finding: where, what, whose it is, and what to do. What blocks comes first, remarks last."""
    for item in sorted(placed(findings), key=lambda item: list(_MARKS).index(item.finding.verdict), reverse=True):
        finding = item.finding
        where = "; ".join(item.places)
        remark = finding.verdict is Verdict.PASSED
        yield Text.assemble(
            (
                f"{'·' if remark else _MARKS[finding.verdict]} {finding.code}",
                "" if remark else _STYLES[finding.verdict],
            ),
            f"  {where}  (for the {finding.owner} team)" if where else f"  (for the {finding.owner} team)",
        )
        yield Text(f"    {finding.message}")
        yield Text(f"    → {finding.advice}")


def verification(report: ParityReport, reproduction: Path | None = None) -> Iterable[RenderableType]:
    """One export held against its source: the outputs, the task metrics, the verdict, why, and how to see it again."""
    outputs = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("output", "values", "noise", "difference", "of what is allowed"):
        outputs.add_column(column, no_wrap=True)
    for output in report.outputs:
        margin = output.worst_margin
        outputs.add_row(
            Text(output.name),
            Text(f"{output.compared_values:,}"),
            Text(NOTHING if output.noise is None else f"{output.noise:.3g}"),
            Text(NOTHING if output.max_abs_diff is None else f"{output.max_abs_diff:.3g}"),
            Text(NOTHING if margin is None else f"{margin:.2%}" if margin <= 1 else f"{margin:.3g} times"),
        )
    if report.outputs:
        yield outputs
    if report.metrics:
        yield Text(f"\n{_metrics(report)}")
    yield Text.assemble("\n", (f"{report.format} {report.verdict}", _STYLES[report.verdict]))
    yield from finding_lines(report.findings)
    if reproduction is not None:
        yield Text(f"to see {report.format} fail by itself: python {reproduction / 'reproduce.py'}")


def smoke_lines(image: Image, serving: ServingSpec, runs: Sequence[SmokeRun]) -> Iterable[RenderableType]:
    """One image on several instance types: verdict, figures and when they are of; then the findings."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("instance type", "verdict", "start", "p50", "p99", "memory", "requests", "result of"):
        table.add_column(column, no_wrap=True)
    for run in runs:
        figures = run.result.figures
        when = "now" if run.made_at is None else f"{run.made_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(
            Text(run.result.instance_type),
            _verdict(run.result.verdict),
            Text(_worst([figures.cold_start_s], "s", 2)),
            Text(_worst([figures.p50_ms], "ms", 1)),
            Text(_worst([figures.p99_ms], "ms", 1)),
            Text(NOTHING if figures.peak_memory_bytes is None else gib(figures.peak_memory_bytes)),
            Text(f"{figures.requests:,}"),
            Text(f"{when}, not run again (--fresh does)" if run.reused else "now"),
        )
    yield Text()
    yield table
    yield Text(f"\n{image.reference} ({image.digest}) as {image.format}")
    yield Text(f"budgets: ready within {serving.cold_start_s:g} s, p99 within {serving.p99_ms:g} ms")
    for run in runs:
        yield from processor_lines(run.result.instance_type, run.result.processors)
    placed_at = [
        finding.model_copy(update={"evidence": finding.evidence | {"instance_type": run.result.instance_type}})
        for run in runs
        for finding in run.result.findings
    ]
    if placed_at:
        yield Text()
    yield from finding_lines(placed_at)


def reproduction_lines(package: Package) -> Iterable[Text]:
    """How to see each failed comparison again, without Slipway."""
    for report in package.parity:
        if report.reproduction is not None:
            command = f"slipway reproduce {short(package.digest)} --format {report.format} --to FOLDER"
            yield Text(f"to see {report.format} fail by itself: {command}")


def standings(known: Sequence[Recorded], width: int) -> Iterable[RenderableType]:
    """The newest package of each model, as after packaging it."""
    yield package_table([item.package for item in known], width)
    for item in known:
        yield Text()
        yield from package_lines(item.package, item.record)
        for tuned in item.tuned:
            yield Text(f"tuned {tuned.format}: {tuned.reference} ({tuned.digest}), {tuning_line(tuned)}")


# --- chains -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Uncut:
    """A tree whose lines are as long as they are, so that digests and references can be copied whole; by itself a tree
    cuts them at the console's width."""

    tree: Tree

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.tree, options.update(width=_NEVER_CUT))


def chain(trace: Trace) -> Iterable[RenderableType]:
    """Each package as a tree: what it is made of above, where it came from below."""
    yield Text(f"{trace.found}  {trace.digest}", style="bold")
    for package in trace.packages:
        yield _Uncut(_package_tree(package))
    for note in trace.notes:
        yield Text(f"note: {note}", style="yellow")


def _package_tree(package: TracedPackage) -> Tree:
    head = Text.assemble(f"package {package.package}  {package.name} ", _verdict(package.verdict, str(package.verdict)))
    tree = Tree(head)
    tree.add(Text(f"owner {package.owner}"))
    tree.add(Text(f"MLflow: {mlflow_line(package.record)}"))
    formats = tree.add(Text("formats"))
    for cell in package.cells:
        serves = ", serves" if cell.format == package.serving_format else ""
        branch = formats.add(Text(f"{cell.format}{serves}"))
        if cell.image is not None:
            image = branch.add(Text(f"image  {cell.image}  {cell.reference}"))
            for tuned in cell.tuned:
                image.add(Text(f"tuned  {tuned.digest}  {tuned.reference}")).add(Text(tuning_line(tuned)))
        for kind, verdict in cell.smoke.items():
            branch.add(Text.assemble("smoke  ", _verdict(verdict, f"{kind} {verdict}")))
        if cell.parity is not None:
            branch.add(Text.assemble("parity ", _verdict(cell.parity, str(cell.parity))))
        branch.add(
            Text.assemble("export ", _verdict(cell.exported, str(cell.exported)), f"  {cell.export}")
            if cell.export
            else Text.assemble("export ", _verdict(cell.exported, str(cell.exported)))
        )
    artifact = tree.add(Text(f"artifact {package.artifact}  {package.source_uri}"))
    for file in package.files:
        artifact.add(Text(f"{file.path}  {size(file.size_bytes)}  {file.digest}"))
    data = package.evaluation
    tree.add(Text(f"evaluation data {data.path}  {package.evaluation_rows} rows  {data.digest}"))
    if package.training is not None:
        _add_training(tree, package.training)
    else:
        tree.add(Text(f"training run {package.source_run or 'not known'}"))
    return tree


def _add_training(tree: Tree, run: TrainingRun) -> None:
    when = "" if run.started_at is None else f" on {run.started_at:%Y-%m-%d %H:%M} UTC"
    name = "" if run.name is None else f"  {run.name}"
    branch = tree.add(Text(f"training run {run.run_id}{name}  by {run.user or 'nobody named'}{when}"))
    if run.url is not None:
        branch.add(Text(run.url))
    if run.params:
        branch.add(Text("params  " + ", ".join(f"{key} {value}" for key, value in sorted(run.params.items()))))
    if run.metrics:
        branch.add(Text("metrics " + ", ".join(f"{key} {value:.6g}" for key, value in sorted(run.metrics.items()))))
