"""One model: ingest → export × formats → parity → image → smoke × instance types → register → gate.

Wiring only. What each task does is in `tasks/airflow_glue/stages.py`, how it is done in `tasks/pipeline.py`; the
command `slipway package` runs the same stages in one process.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TriggerRule, dag, task, task_group

from tasks.airflow_glue import stages
from tasks.airflow_glue.form import package_params
from tasks.airflow_glue.links import MlflowRunLink, attach
from tasks.airflow_glue.release.assets import MAY_BE_READY
from tasks.airflow_glue.retries import healing

DOCS = """
### Take one trained model to a proven serving image

Give the path of a `model.yaml`; leave formats and instance types empty to take those of the spec.

* **Every stage whose inputs did not change is reused.** Running the same again takes seconds and gives the same digest.
* A cell turns **red** when its gate did not pass; its log says what was found, whose it is, and what to do.
  The cells after it in the same format are skipped, other formats go on.
* `register` always records what there is in MLflow; `gate` then fails the run unless the package passed.
* To try again after the cause is mended: **clear** the red cell with its downstream tasks.
"""


@dag(
    dag_id="package_model",
    dag_display_name="Package a model",
    description="From a trained model to a proven serving image, with its history in MLflow",
    doc_md=DOCS,
    tags=["slipway", "packaging"],
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    # Latency and memory are measured, and only true on a quiet machine: one run at a time, further ones queue.
    max_active_runs=1,
    params=package_params(),
    default_args={**healing(timeout=timedelta(minutes=30)), "show_return_value_in_logs": False},
)
def package_model() -> None:
    cells = task(execution_timeout=timedelta(minutes=2))(stages.plan)()
    formats = task(stages.ingest)()

    of_format: dict[str, Any] = {"map_index_template": "{{ task.op_kwargs['format'] }}"}

    @task_group(group_id="each_format", prefix_group_id=False, tooltip="One cell per format")
    def each_format(format: str) -> None:
        # ALL_DONE, so that a cell says by itself why it has nothing to work on.
        exported = task(**of_format)(stages.export)(format=format)
        compared = task(trigger_rule=TriggerRule.ALL_DONE, **of_format)(stages.parity)(format=format)
        built = task(trigger_rule=TriggerRule.ALL_DONE, **of_format)(stages.image)(format=format)
        exported >> compared >> built

    smoked = task(
        trigger_rule=TriggerRule.ALL_DONE,
        map_index_template="{{ task.op_kwargs['cell']['format'] }} × {{ task.op_kwargs['cell']['instance_type'] }}",
        # Rather than a pool, which somebody would have to create: one measurement at a time, over all runs.
        max_active_tis_per_dag=1,
        doc_md=stages.smoke.__doc__,  # Airflow takes it by itself only where a task is not mapped
    )(stages.smoke).expand(cell=cells)

    registered = task(trigger_rule=TriggerRule.ALL_DONE)(stages.register)()
    attach(MlflowRunLink(), registered)
    gated = task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=2), outlets=[MAY_BE_READY])(
        stages.gate
    )()

    cells >> formats
    each_format.expand(format=formats) >> smoked >> registered >> gated


package_model()
