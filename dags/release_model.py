"""One package takes traffic over, on evidence: prepare → shadow → approve → canary → outcome.

Wiring only. What each task does is in `tasks/airflow_glue/release/`, how it is done in `tasks/release/controller`; the
command `slipway release` does the same in one process.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import TriggerRule, dag, task

from tasks.airflow_glue.form import approval_params, release_params
from tasks.airflow_glue.links import ReleaseReportLink, ReleaseRunLink, attach
from tasks.airflow_glue.release import steps
from tasks.airflow_glue.release.approval import ReleaseApproval
from tasks.airflow_glue.release.assets import READY
from tasks.airflow_glue.release.canary import CanaryOperator
from tasks.airflow_glue.retries import healing

DOCS = """
### Let a package take traffic over, or give it back

Give the model's name; leave the version empty for its newest package. The newest package that passed starts this by
itself where its spec says `release: {automatic: true}`.

* **prepare** verifies the attestation, starts the new version beside the old one and asks it its golden samples.
* **shadow** replays requests to both and compares the answers; no user meets the new version.
* **approve** asks a person, with that evidence, where the spec wants it: under *Required Actions*.
* **canary** gives users the new version step by step, and takes it back by itself when the evidence says so. It is
  deferred: no worker waits. Each try goes on where the last one was.
* **outcome** makes the run's colour the release's: green only when the new package has all traffic.

A release that is *held* (its evidence does not decide) waits for you: **clear `canary`** to go on with it, or run *Roll
a model back*. A second release of the same model is refused meanwhile.
"""


@dag(
    dag_id="release_model",
    dag_display_name="Release a model",
    description="A package takes traffic over on evidence, or gives it back by itself",
    doc_md=DOCS,
    tags=["slipway", "release"],
    schedule=[READY],
    catchup=False,
    is_paused_upon_creation=False,
    params=release_params(),
    default_args={**healing(timeout=timedelta(minutes=30)), "show_return_value_in_logs": False},
)
def release_model() -> None:
    prepared = task(task_id=steps.PREPARE)(steps.prepare)()
    shadowed = task(task_id=steps.SHADOW)(steps.shadow)()
    # Neither of the two holds a worker while it waits, so neither has a limit of its own: a person has the time that
    # the run gives him, and a canary what its plan gives it.
    approved = ReleaseApproval(
        task_id=steps.APPROVE, params=approval_params(), doc_md=ReleaseApproval.__doc__, execution_timeout=None
    )
    baked = CanaryOperator(task_id=steps.CANARY, doc_md=CanaryOperator.__doc__, execution_timeout=None)
    # Not a child of `approve`: a rejection skips those, and the audit trail is to have it.
    ended = task(task_id=steps.OUTCOME, trigger_rule=TriggerRule.ALL_DONE)(steps.outcome)()

    attach(ReleaseRunLink(), ended)
    attach(ReleaseReportLink(), ended)

    prepared >> shadowed >> approved >> baked >> ended


release_model()
