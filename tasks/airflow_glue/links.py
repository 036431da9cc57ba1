"""From a task to what it left elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from tasks.airflow_glue.release.steps import MLFLOW, REPORT
from tasks.airflow_glue.stages import LINEAGE

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, XComArg
    from airflow.sdk.types import TaskInstanceKey


class MlflowRunLink(BaseOperatorLink):
    """The package's run in MLflow. Asked for in the task's own process, right after the task."""

    @property
    def name(self) -> str:
        return "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        recorded = XCom.get_value(ti_key=ti_key, key=LINEAGE)
        return str(recorded.get("run_url") or "") if isinstance(recorded, dict) else ""


class ReleaseRunLink(BaseOperatorLink):
    """The release's run in MLflow: its report with plots, its trace, its journal."""

    @property
    def name(self) -> str:
        return "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _left(ti_key, MLFLOW)


class ReleaseReportLink(BaseOperatorLink):
    """The report that a release left, as Slipway's own page in Airflow shows it."""

    @property
    def name(self) -> str:
        return "Release report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return _left(ti_key, REPORT)


def _left(ti_key: TaskInstanceKey, key: str) -> str:
    found = XCom.get_value(ti_key=ti_key, key=key)
    return found if isinstance(found, str) else ""


def attach(link: BaseOperatorLink, output: XComArg) -> None:
    """Show `link` on the task that gives `output`; the decorator takes no links."""
    for operator, _ in output.iter_references():
        operator.operator_extra_links = (*operator.operator_extra_links, link)
