"""The body of each task of `nightly_packaging`: which models changed, and what came of packaging them.

A spec that does not hold, or whose inputs cannot be read, is reported and stops nobody else. The docstrings are what
Airflow shows beside each task.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from airflow.sdk import get_current_context

from tasks.airflow_glue.evidence import push, require, task_instance
from tasks.airflow_glue.markdown import table
from tasks.airflow_glue.plainly import plainly
from tasks.airflow_glue.project import shown, spec_files
from tasks.airflow_glue.stages import REGISTER
from tasks.contracts import Contract, Digest, Package, Verdict
from tasks.errors import BadInput, GateBlocked
from tasks.figures import short
from tasks.settings import Settings

_log = logging.getLogger(__name__)

FIND, SUMMARY = "find_changed", "summary"
PACKAGE_DAG = "package_model"

#: The key under which the summary leaves its table, in Markdown.
TABLE = "table"


class Standing(StrEnum):
    """What the night found out about one spec."""

    CHANGED = "changed"  # to be packaged
    UNCHANGED = "unchanged"  # the store has the package of exactly these inputs
    BROKEN = "broken"  # the spec or its inputs cannot be used


class Candidate(Contract):
    """One spec that the night looked at. `run_id` is the run that packages it, where it changed."""

    spec: str
    name: str
    standing: Standing
    run_id: str | None = None
    package: Digest | None = None
    verdict: Verdict | None = None
    problem: str | None = None


class Found(Contract):
    """Everything that the night looked at."""

    candidates: tuple[Candidate, ...]


class Line(Contract):
    """One line of the summary."""

    name: str
    standing: Standing
    outcome: str
    package: Digest | None = None
    remark: str = ""

    @property
    def is_good(self) -> bool:
        return self.outcome == Verdict.PASSED


@plainly
def find_changed() -> list[dict[str, Any]]:
    """Compare every spec's inputs (spec, model, code, evaluation data, Slipway itself) with what was last packaged.

    Nothing is run for what did not change. Gives one packaging run per changed model.
    """
    context = get_current_context()
    paths = spec_files(context["params"]["specs"])
    if not paths:
        raise BadInput(f"no spec below {', '.join(context['params']['specs'])}: check SLIPWAY_SPECS or the parameter")
    found = Found(candidates=tuple(_look_at(path, str(context["run_id"])) for path in paths))
    push(found)
    for one in found.candidates:
        _log.info("%s: %s%s", one.spec, one.standing, f"\n{one.problem}" if one.problem else "")
    return [
        {"trigger_run_id": one.run_id, "conf": {"spec": one.spec}}
        for one in found.candidates
        if one.standing is Standing.CHANGED
    ]


@plainly
def summary() -> None:
    """Say what came of each model; fail unless every one of them stands as passed, also those that did not change."""
    lines = [_outcome(one) for one in require(Found, FIND).candidates]
    table = _markdown(lines)
    task_instance().xcom_push(key=TABLE, value=table)
    for line in table.splitlines():
        _log.info(line)
    bad = [line.name for line in lines if not line.is_good]
    if bad:
        raise GateBlocked(f"{len(bad)} of {len(lines)} models do not stand as passed: {', '.join(bad)}")


def _look_at(path: Path, night: str) -> Candidate:
    from tasks.pipeline import Pipeline
    from tasks.spec import load_spec

    spec_path = shown(path)
    try:
        spec = load_spec(path)
        package = Pipeline(Settings.from_environment()).packaged(spec)
    except BadInput as error:
        return Candidate(spec=spec_path, name=path.parent.name, standing=Standing.BROKEN, problem=str(error))
    if package is None:
        # The same night always triggers the same run: a task that was killed after triggering triggers no second one.
        return Candidate(spec=spec_path, name=spec.name, standing=Standing.CHANGED, run_id=f"{spec.name}__{night}")
    return Candidate(
        spec=spec_path,
        name=spec.name,
        standing=Standing.UNCHANGED,
        package=package.digest,
        verdict=package.verdict,
        problem="; ".join(finding.message for finding in package.findings if finding.verdict is not Verdict.PASSED)
        or None,
    )


def _outcome(one: Candidate) -> Line:
    line = Line(name=one.name, standing=one.standing, outcome="", package=one.package, remark=one.problem or "")
    if one.standing is Standing.BROKEN:
        return line.model_copy(update={"outcome": "not packaged"})
    if one.standing is Standing.UNCHANGED:
        return line.model_copy(update={"outcome": str(one.verdict)})
    value = task_instance().xcom_pull(task_ids=REGISTER, dag_id=PACKAGE_DAG, run_id=one.run_id, key="result")
    if value is None:
        return line.model_copy(update={"outcome": "no package", "remark": f"see the run {one.run_id}"})
    package = Package.model_validate(value)
    remark = "; ".join(finding.message for finding in package.findings if finding.verdict is not Verdict.PASSED)
    return line.model_copy(update={"outcome": str(package.verdict), "package": package.digest, "remark": remark})


def _markdown(lines: Sequence[Line]) -> str:
    return table(
        ("model", "inputs", "verdict", "package", ""),
        ((line.name, str(line.standing), line.outcome, short(line.package), line.remark) for line in lines),
    )
