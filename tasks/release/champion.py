"""MLflow after a release: the aliases say what serves, and a run below the package's holds who, what, when and why.

    champion    the version that serves
    canary      the version that users are meeting, while they are
    previous    the version that `slipway rollback` brings back

In: a journal and what serves. Out: MLflow changed. Every call is idempotent: an alias that is right is left alone, and
a release's run is found by its id. MLflow is told after everything else: nothing waits for it, least of all a way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts import Verdict
from tasks.lineage import Recorded, record, registered_name, spec_of
from tasks.lineage.tracking import tracking
from tasks.release.contracts import Deployed, Phase, Release
from tasks.release.controller.events import State
from tasks.release.controller.gates import find
from tasks.release.controller.serving import Serving
from tasks.release.controller.trace import looks
from tasks.settings import Settings
from tasks.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tasks.lineage.evidence import Evidence

CHAMPION, CANARY, PREVIOUS = "champion", "canary", "previous"

#: A run's last tag: the digest of the evidence that it holds completely (as `tasks.lineage.recorder` has it).
_COMPLETE = "slipway.evidence"


def aliases_of(serving: Serving | None, underway: Release | None) -> dict[str, Deployed | None]:
    """Which package each alias is to name; None for an alias that is to be gone. Pure."""
    meets_users = underway is not None and underway.phase in {Phase.CANARY, Phase.PROMOTING, Phase.HELD}
    return {
        CHAMPION: None if serving is None else serving.current,
        PREVIOUS: serving.previous[0] if serving is not None and serving.previous else None,
        CANARY: underway.candidate if underway is not None and meets_users else None,
    }


@dataclass(frozen=True, slots=True)
class MlflowChampion:
    """See `tasks.release.controller.protocols.Champion`."""

    settings: Settings
    store: Store

    def announce(self, release: Release) -> None:
        with tracking(self.settings) as client:
            self._point(client, {CANARY: release.candidate})

    def follow(self, state: State, serving: Serving | None, underway: Release | None, folder: Path) -> str | None:
        release = state.release
        with tracking(self.settings) as client:
            self._point(client, aliases_of(serving, underway), of=release.candidate)
        recorded = self._recorded(release.candidate)
        if recorded is None or recorded.record is None:
            return None
        evidence = _evidence(release, folder, self.store)
        with tracking(self.settings) as client:
            return _write(client, evidence, recorded.record.experiment_id, recorded.record.run_id, release)

    def _recorded(self, deployed: Deployed) -> Recorded | None:
        """The package with its place in MLflow, recorded now where that was not possible when it was made."""
        found = find(deployed, self.store)
        if found is None or found.record is not None:
            return found
        spec = spec_of(found.package, self.store)
        if spec is None:
            return found
        record(found.package, spec, self.store, self.settings)
        return find(deployed, self.store)

    def _point(self, client: MlflowClient, wanted: Mapping[str, Deployed | None], of: Deployed | None = None) -> None:
        """Let each alias name its package's version. Of a package without one, the alias is gone: it must never name
        another."""
        for deployed in {item.package: item for item in (*wanted.values(), of) if item is not None}.values():
            recorded = self._recorded(deployed)
            if recorded is not None and recorded.record is not None:
                name = registered_name(recorded.package.artifact)
                has = {key: str(value) for key, value in client.get_registered_model(name).aliases.items()}
                for alias, target in wanted.items():
                    version = None if target is None else self._version(target)
                    if version is not None and has.get(alias) != version:
                        client.set_registered_model_alias(name, alias, version)
                    elif version is None and alias in has:
                        client.delete_registered_model_alias(name, alias)
                return

    def _version(self, deployed: Deployed) -> str | None:
        recorded = self._recorded(deployed)
        return None if recorded is None or recorded.record is None else recorded.record.model_version


def _evidence(release: Release, folder: Path, store: Store) -> Evidence:
    from tasks.release.report import evidence_of

    files = {name: folder / name for name in ("journal.jsonl", "trace.jsonl")}
    recorded = {name: path.read_text() for name, path in files.items() if path.exists()}
    page = ""
    if release.report is not None:
        with store.open(release.report.digest) as stream:
            page = stream.read().decode()
    return evidence_of(release, page, looks(folder / "trace.jsonl"), recorded)


def _write(client: MlflowClient, evidence: Evidence, experiment: str, parent: str, release: Release) -> str:
    """The run of a release, below its package's; found again, and completed, where it is there."""
    from mlflow.entities import Metric, Param, RunTag

    found = client.search_runs([experiment], f"tags.`slipway.release` = '{release.id}'", max_results=1)
    run = (
        found[0]
        if found
        else client.create_run(
            experiment,
            run_name=f"release {release.id}",
            tags={
                "slipway.release": release.id,
                "slipway.stage": evidence.stage,
                "mlflow.parentRunId": parent,
                "mlflow.user": release.started_by,
                "mlflow.source.name": "slipway",
                "mlflow.source.type": "PROJECT",
            },
        )
    )
    run_id = str(run.info.run_id)
    if run.data.tags.get(_COMPLETE) == evidence.digest:
        return run_id
    for name, text in evidence.texts.items():
        client.log_text(run_id, text, name)
    client.set_terminated(run_id, "FINISHED" if evidence.verdict is Verdict.PASSED else "FAILED")
    written = run.data.params
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, run.info.start_time, 0) for key, value in evidence.metrics.items()],
        params=[Param(key, value) for key, value in evidence.params.items() if key not in written],
        tags=[RunTag(key, value) for key, value in {**evidence.tags, _COMPLETE: evidence.digest}.items()],
    )
    return run_id
