"""Every night: which models changed? One `package_model` run for each, and a summary.

Wiring only; what each task does is in `tasks/airflow_glue/night.py`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, TriggerRule, dag, task

from tasks.airflow_glue import night
from tasks.airflow_glue.form import nightly_params
from tasks.airflow_glue.retries import healing

DOCS = """
### Package what changed since last time

Looks at every `model.yaml` that the parameter *Specs* names (by default the environment variable `SLIPWAY_SPECS`,
or the examples). A model changed when its spec, its files, its evaluation data or Slipway itself did.

* One run of **Package a model** per changed model; they wait for each other, and one that fails stops no other.
* A spec that does not hold is reported in the summary.
* The summary is red unless every model stands as passed, also those that did not change.
"""


@dag(
    dag_id="nightly_packaging",
    dag_display_name="Nightly packaging",
    description="Package every model whose inputs changed",
    doc_md=DOCS,
    tags=["slipway", "packaging"],
    # The first run is the next night's: with a start date, or within hours after 02:00, a fresh Airflow would package
    # everything at once, in the way of whoever has just started it.
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC", run_immediately=timedelta(0)),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    params=nightly_params(),
    default_args=healing(timeout=timedelta(minutes=30)),
)
def nightly_packaging() -> None:
    changed = task(task_id=night.FIND)(night.find_changed)()
    # Deferred, it holds no worker while it waits. Triggering again after a kill takes the same run up again.
    packaged = TriggerDagRunOperator.partial(
        task_id="package",
        trigger_dag_id=night.PACKAGE_DAG,
        map_index_template="{{ task.conf['spec'] }}",
        wait_for_completion=True,
        deferrable=True,
        poke_interval=5,
        reset_dag_run=True,
        execution_timeout=None,
    ).expand_kwargs(changed)
    packaged >> task(task_id=night.SUMMARY, trigger_rule=TriggerRule.ALL_DONE)(night.summary)()


nightly_packaging()
