"""Emergency: the previous package has all traffic again, now.

Wiring only; `tasks/airflow_glue/release/steps.py` has the task, and the command `slipway rollback` does the same.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from tasks.airflow_glue.form import rollback_params
from tasks.airflow_glue.links import ReleaseRunLink, attach
from tasks.airflow_glue.release import steps
from tasks.airflow_glue.retries import healing

DOCS = """
### The previous package back, now

The whole package by its digest: image, contract, preprocessing, thresholds. The router is told first, which takes
moments; then golden samples are asked, then MLflow's aliases follow. A release of the model that goes on is ended.

Doing it twice changes nothing more than doing it once.
"""


@dag(
    dag_id="rollback_model",
    dag_display_name="Roll a model back",
    description="The previous package has all traffic again, now",
    doc_md=DOCS,
    tags=["slipway", "release"],
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    params=rollback_params(),
    # What can heal is tried again at once: users are waiting.
    default_args={**healing(timeout=timedelta(minutes=5)), "retry_delay": timedelta(seconds=1)},
)
def rollback_model() -> None:
    gone_back = task(task_id=steps.BACK)(steps.back)()
    attach(ReleaseRunLink(), gone_back)


rollback_model()
