"""The body of each task of `package_model`: evidence in, a stage of `tasks.pipeline` called, evidence out.

A gate that does not pass leaves its report first and then fails its own cell; the cells after it in the same format
are skipped with the reason, other formats go on, and `register` gathers whatever there is. The docstrings are what
Airflow shows beside each task.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from tasks.airflow_glue import narrate
from tasks.airflow_glue.evidence import gather, pull, push, require, task_instance
from tasks.airflow_glue.plainly import plainly
from tasks.airflow_glue.project import absolute
from tasks.airflow_glue.release.assets import Ready, offer
from tasks.contracts import (
    Contract,
    ExportRun,
    ImageRun,
    IngestRun,
    LineageRecord,
    Package,
    ParityRun,
    Report,
    SmokeRun,
    Verdict,
)
from tasks.errors import GateBlocked
from tasks.narrowing import narrowed, refuse_unknown
from tasks.settings import Settings
from tasks.spec import ModelSpec, load_spec

if TYPE_CHECKING:
    from tasks.pipeline import Event, Pipeline

AnyRun: TypeAlias = IngestRun | ExportRun | ParityRun | ImageRun | SmokeRun

_log = logging.getLogger(__name__)

PLAN, INGEST, EXPORT, PARITY, IMAGE, SMOKE = "plan", "ingest", "export", "parity", "image", "smoke"
REGISTER, GATE = "register", "gate"

#: The key under which `register` leaves where the package stands in MLflow.
LINEAGE = "lineage"


class Plan(Contract):
    """What one run is about. Its cells are every format, and every format on every instance type."""

    spec: ModelSpec
    fresh: bool

    @property
    def formats(self) -> tuple[str, ...]:
        return self.spec.formats

    @property
    def smoke_cells(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, kind) for name in self.formats for kind in self.spec.smoke.instance_types)


@plainly
def plan() -> list[dict[str, str]]:
    """Read the spec and decide the cells: one per format, and one per format and instance type.

    A spec that does not hold fails here at once, with every problem by line and key. Gives the smoke cells.
    """
    context = get_current_context()
    params = context["params"]
    refuse_unknown(context["dag_run"].conf or {}, params)
    spec = narrowed(load_spec(absolute(params["spec"])), params["formats"] or (), params["instance_types"] or ())
    planned = Plan(spec=spec, fresh=params["fresh"])
    push(planned)
    _log.info("%s of %s: %s", spec.name, spec.owner, spec.digest)
    _log.info("formats: %s", ", ".join(planned.formats))
    _log.info("instance types: %s", ", ".join(spec.smoke.instance_types))
    return [{"format": name, "instance_type": kind} for name, kind in planned.smoke_cells]


@plainly
def ingest() -> list[str]:
    """Check the trained model, its code and its evaluation data, and store them. Gives the formats to export.

    Red when the evaluation data does not hold (values that are missing, labels that are no class, one class only): then
    there is nothing to compare a format on, and none is exported.
    """
    planned = require(Plan, PLAN)
    run = _pipeline(planned).ingest(planned.spec)
    push(run)
    _tell(run)
    quality = run.result.evaluation.quality
    if quality is None:
        raise GateBlocked(f"{run.stage} of {run.label}: nothing is known of the evaluation data")
    if quality.verdict is not Verdict.PASSED:
        raise GateBlocked(narrate.reason(quality, f"{run.stage} of {run.label}"))
    return list(planned.formats)


@plainly
def export(format: str) -> None:
    """Write the model in this format, with every named dimension dynamic.

    Red when the exporter refused it: the log names the module or operator, and formats that work.
    """
    planned = require(Plan, PLAN)
    run = _pipeline(planned).export(planned.spec, require(IngestRun, INGEST).result, format)
    _leave(run)


@plainly
def parity(format: str) -> None:
    """Compare this format with the source model: shapes, batch sizes, tensors, and the task metrics of the spec.

    Red when they differ by more than is allowed, or when that could not be found out.
    """
    exported = pull(ExportRun, EXPORT, map_index=_index())
    if exported is None or exported.result.export is None:
        _skip(f"{format} has no export to compare", _index())
    planned = require(Plan, PLAN)
    run = _pipeline(planned).parity(planned.spec, require(IngestRun, INGEST).result, exported.result.export)
    _leave(run)


@plainly
def image(format: str) -> None:
    """Build the serving image of this format: the runtime that all models share, and a thin layer for this one."""
    exported = pull(ExportRun, EXPORT, map_index=_index())
    compared = pull(ParityRun, PARITY, map_index=_index())
    if exported is None or exported.result.export is None:
        _skip(f"{format} has no export to build an image from", _index())
    if compared is None or compared.result.verdict is not Verdict.PASSED:
        _skip(f"{format} has no passed parity to build an image on", _index())
    planned = require(Plan, PLAN)
    artifact = require(IngestRun, INGEST).result
    run = _pipeline(planned).image(planned.spec, artifact, exported.result.export, compared.result)
    push(run)
    _tell(run)


@plainly
def smoke(cell: dict[str, str]) -> None:
    """Start the image with this instance type's vCPUs and memory, and ask it: golden answers, latency, memory.

    One cell at a time, and only once all images are built: figures hold only on a quiet machine.
    """
    name, instance_type = cell["format"], cell["instance_type"]
    planned = require(Plan, PLAN)
    index = planned.formats.index(name)
    built = pull(ImageRun, IMAGE, map_index=index)
    compared = pull(ParityRun, PARITY, map_index=index)
    if built is None or compared is None:
        _skip(f"{name} has no image to start", index)
    run = _pipeline(planned).smoke(planned.spec, built.result, compared.result, instance_type)
    _leave(run)


@plainly
def register() -> None:
    """Judge all evidence, publish the package's manifest, and record everything in MLflow.

    Runs also when cells failed: what failed is part of a package's history.
    """
    planned = pull(Plan, PLAN)
    ingested = pull(IngestRun, INGEST)
    if planned is None or ingested is None:
        raise AirflowSkipException("there is no artifact, so there is nothing to record")
    formats = len(planned.formats)
    package, recorded = _pipeline(planned).register(
        planned.spec,
        ingested.result,
        [run.result for run in gather(ExportRun, EXPORT, formats)],
        [run.result for run in gather(ParityRun, PARITY, formats)],
        [run.result for run in gather(ImageRun, IMAGE, formats)],
        [run.result for run in gather(SmokeRun, SMOKE, len(planned.smoke_cells))],
    )
    push(package)
    push(recorded, key=LINEAGE)
    for line in narrate.figures(package):
        _log.info(line)
    _log.info("MLflow: %s", recorded.run_url or f"run {recorded.run_id} in {recorded.tracking_uri}")
    if recorded.model_version:
        _log.info("registered as %s version %s", recorded.model_name, recorded.model_version)


@plainly
def gate() -> None:
    """Let the run succeed only if the package passed every gate. Its failure says what was found.

    Where the spec says `release: {automatic: true}`, the package's release starts with this task's success.
    """
    package = pull(Package, REGISTER)
    if package is None:
        raise GateBlocked(f"there is no package: {_unfinished()}; the log of each says why")
    if package.verdict is not Verdict.PASSED:
        raise GateBlocked(narrate.reason(package, f"{package.name}, package {package.digest}"))
    recorded = pull(LineageRecord, REGISTER, key=LINEAGE)
    version = f", version {recorded.model_version}" if recorded and recorded.model_version else ""
    _log.info("%s passed%s: package %s, serves as %s", package.name, version, package.digest, package.serving_format)
    if require(Plan, PLAN).spec.release.automatic:
        offer(Ready(model=package.name, package=package.digest))
        _log.info("its release starts by itself: release.automatic")


# --- shared by the stages -----------------------------------------------------------------------------------------


def _pipeline(planned: Plan) -> Pipeline:
    from tasks.pipeline import Pipeline

    return Pipeline(Settings.from_environment(), fresh=planned.fresh, on_event=_progress)


def _progress(event: Event) -> None:
    from tasks.pipeline import Moment

    if event.moment is Moment.WAITING:
        _log.info("%s of %s: another process works on the same, waiting for its result", event.stage, event.label)


def _leave(run: ExportRun | ParityRun | SmokeRun) -> None:
    """Push the report, then fail the cell unless its gate passed."""
    push(run)
    _tell(run)
    if run.result.verdict is not Verdict.PASSED:
        raise GateBlocked(narrate.reason(run.result, f"{run.stage} of {run.label}"))


def _tell(run: AnyRun) -> None:
    for line in narrate.story(run):
        _log.info(line)


def _skip(what: str, format_index: int) -> NoReturn:
    """Skip this cell, naming the findings that stopped its format where a gate did."""
    reports: list[Report] = []
    for run in (
        pull(ExportRun, EXPORT, map_index=format_index),
        pull(ParityRun, PARITY, map_index=format_index),
    ):
        reports += [run.result] if run is not None else []
    codes = [finding.code for report in reports for finding in report.findings if finding.verdict is not Verdict.PASSED]
    raise AirflowSkipException(f"{what}: {', '.join(dict.fromkeys(codes))}" if codes else what)


def _index() -> int:
    index = task_instance().map_index
    return -1 if index is None else index


def _unfinished() -> str:
    """The tasks of this run that failed, for a sentence."""
    ti = task_instance()
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    failed = sorted(name for name, state in states.items() if state == "failed")
    return f"{', '.join(failed)} failed" if failed else "nothing was run to its end"
