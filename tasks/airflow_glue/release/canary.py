"""The operator that waits while a canary bakes, holding no worker: what watches meanwhile is in `trigger.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from tasks.airflow_glue.evidence import push, require, task_instance
from tasks.airflow_glue.plainly import plainly
from tasks.airflow_glue.release.control import releases
from tasks.airflow_glue.release.news import why
from tasks.airflow_glue.release.steps import APPROVE, PREPARE, Answer, this_run
from tasks.airflow_glue.release.trigger import ERROR, RELEASE, CanaryTrigger
from tasks.errors import GateBlocked, PlatformError
from tasks.release.contracts import Phase, Release

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context


class CanaryOperator(BaseOperator):
    """Gives users the new version step by step, as fast as the evidence allows, and takes it back when it must.

    Red when it was rolled back or is held. To go on with a release that is held, once a person has decided so: clear
    this task.
    """

    def execute(self, context: Context) -> None:
        """Say that it is approved, and wait. Another try goes on where the last one was."""
        release, answer = require(Release, PREPARE), require(Answer, APPROVE)
        control = releases(this_run())
        control.approve(release.id, answer.by)
        control.resume(release.id, decided=self._was_cleared())
        self.defer(trigger=CanaryTrigger(release.id, this_run()), method_name=self.decided.__name__)

    def _was_cleared(self) -> bool:
        """Whether a person wants it to go on: clearing a task gives it further tries, and nothing else does."""
        return task_instance().max_tries > (self.retries or 0)

    @plainly
    def decided(self, context: Context, event: Mapping[str, Any]) -> None:
        """What the trigger found.

        Raises:
            PlatformError: nobody could look at the release for a while; another try goes on.
            GateBlocked: it is not promoted; the message says why.
        """
        if ERROR in event:
            raise PlatformError(event[ERROR])
        release = Release.model_validate(event[RELEASE])
        push(release)
        if release.phase is not Phase.PROMOTED:
            raise GateBlocked(f"{release.model}: {release.phase}\n{why(release)}")
        self.log.info("%s: all traffic has the package %s", release.model, release.candidate.package)
