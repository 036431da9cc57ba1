"""The question whether users may meet a new version: the standard provider's, with the evidence in it.

No worker and no trigger waits for the answer. What was answered, by whom, or that nobody answered in time, goes on as
an `Answer`; `outcome` sees to it that the audit trail has it. (Reject skips every direct child of this task, so none of
them may be the one that records it.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from tasks.airflow_glue.evidence import push, require
from tasks.airflow_glue.release.news import wanted
from tasks.airflow_glue.release.notify import NewsNotifier
from tasks.airflow_glue.release.question import Question
from tasks.airflow_glue.release.steps import ASKED, NOBODY, SHADOW, Answer
from tasks.release.contracts import Release

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


class ReleaseApproval(ApprovalOperator):
    """Asks a person, who sees what the new version is and what shadow found. Passes by itself where the spec asks for
    nobody. Nobody's answer is no approval: after the time that the run's parameters give, the release ends."""

    def __init__(self, **operator: Any) -> None:
        super().__init__(subject="Release?", **operator)

    def execute(self, context: Context) -> Any:
        """Ask, or go on."""
        asked = require(Question, SHADOW, key=ASKED)
        if not asked.is_asked:
            self.log.info("the spec asks for no approval (release: {approval: false})")
            push(Answer(is_approved=True, by=NOBODY, reason="the spec asks for no approval"))
            return None
        self.subject, self.body = asked.subject, asked.body
        self.response_timeout = timedelta(hours=context["params"]["approval_hours"])
        self.notifiers = [NewsNotifier(wanted(require(Release, SHADOW), self._link(context)))]
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Leave the answer before anything else, because a task that fails leaves nothing afterwards."""
        push(answered(event))
        return super().execute_complete(context, event)

    def _link(self, context: Context) -> str | None:
        try:
            return self.generate_link_to_ui_from_context(context=context)
        except ValueError:  # Airflow does not know where it answers
            return None


def answered(event: Mapping[str, Any]) -> Answer:
    if "error" in event:
        return Answer(
            is_approved=False, by=NOBODY, reason=str(event["error"]), is_late=event["error_type"] == "timeout"
        )
    user = event.get("responded_by_user") or {}
    return Answer(
        is_approved=event["chosen_options"] == [ApprovalOperator.APPROVE],
        by=str(user.get("name") or user.get("id") or NOBODY),
        at=event["responded_at"],
        reason=str((event.get("params_input") or {}).get("reason") or ""),
    )
