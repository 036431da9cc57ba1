"""A `Package` into MLflow: one run with a child per stage and cell, and a model version once it passed.

In: a package whose manifest the store already holds. Out: a `LineageRecord`. Recording the same package again changes
nothing, and after a kill in the middle it completes what is there: every run is found by its tags, marked complete by
what is written last, and metrics carry the run's own start time, under which MLflow keeps each value once.
"""

from __future__ import annotations

import getpass
import io
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tasks.attestation import attestation_of
from tasks.contracts import Artifact, LineageRecord, Package, Verdict
from tasks.errors import TrackingUnavailable
from tasks.lineage.evidence import Evidence, identity_tags, of_package, of_stages
from tasks.lineage.origin import training_run_of
from tasks.lineage.tracking import experiment_id, public_uri, run_url, tracking
from tasks.placement import known_prices
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import Store, fetch
from tasks.workspace import locked, scratch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

#: The alias of the newest package that passed.
CANDIDATE = "candidate"

#: A run's last tag: the digest of the evidence that it holds completely.
_COMPLETE = "slipway.evidence"


def record(package: Package, spec: ModelSpec, store: Store, settings: Settings) -> LineageRecord:
    """Write the package's history into MLflow, or find it there.

    Raises:
        TrackingUnavailable: MLflow does not answer. The package's manifest is in the store all the same.
    """
    lock = settings.home / "locks" / f"lineage-{package.digest.removeprefix('sha256:')}.lock"
    try:
        with locked(lock), tracking(settings) as client:
            recorded = _Recorder(client, store, settings, package).record(spec)
    except TrackingUnavailable as error:
        raise TrackingUnavailable(
            f"{error}. Nothing is lost: the store holds the package {package.digest} and all its evidence; "
            "once MLflow answers, run the same `slipway package` again: it reuses every stage and records the package"
        ) from error
    store.put_result("lineage", package.digest, recorded.model_dump_json())
    return recorded


def registered_name(artifact: Artifact) -> str:
    """The registered model that package versions go into: the model's own name.

    Where the source itself comes from a registered model of that name, packages get their own beside it: otherwise an
    alias in the spec (`models:/digits@champion`) could come to mean a package, which is no model to package.
    """
    source = artifact.source_uri.removeprefix("models:/").replace("@", "/").split("/")[0]
    is_taken = artifact.source_uri.startswith("models:/") and source == artifact.name
    return f"{artifact.name}.packages" if is_taken else artifact.name


class _Recorder:
    def __init__(self, client: MlflowClient, store: Store, settings: Settings, package: Package) -> None:
        self._client, self._store, self._settings, self._package = client, store, settings, package
        self._experiment = experiment_id(client, settings)
        self._source_run = training_run_of(client, package.artifact)
        self._runs = client.search_runs(
            [self._experiment],
            f"tags.`slipway.package` = '{package.digest}'",
            max_results=10_000,
            order_by=["attributes.start_time ASC"],
        )

    def record(self, spec: ModelSpec) -> LineageRecord:
        package = self._package
        attestation = attestation_of(package.digest, self._store)
        evidence = of_package(package, _yaml(spec), self._source_run, attestation, known_prices())
        run = self._run_of(evidence, parent=None)
        if run.data.tags.get(_COMPLETE) != evidence.digest:
            self._log_dataset(run)
            for stage in of_stages(package):
                child = self._run_of(stage, parent=run)
                if child.data.tags.get(_COMPLETE) != stage.digest:
                    self._fill(child, stage)
            self._fill(run, evidence)
        version = self._version(run)
        return LineageRecord(
            tracking_uri=public_uri(self._settings.tracking_uri),
            experiment_id=self._experiment,
            run_id=run.info.run_id,
            run_url=run_url(self._settings.tracking_uri, self._experiment, run.info.run_id),
            source_run=self._source_run,
            model_name=registered_name(package.artifact),
            model_version=None if version is None else str(version.version),
            recorded_at=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        )

    # --- runs -----------------------------------------------------------------------------------------------------

    def _run_of(self, evidence: Evidence, parent: Run | None) -> Run:
        """The run that holds this evidence, made where it is not there yet.

        A cell whose evidence changed (smoke was inconclusive, and passed the second time) gets a run of its own; the
        earlier one stays, as history.
        """
        tags = {"slipway.package": self._package.digest, "slipway.stage": evidence.stage}
        if parent is not None:
            tags |= {"slipway.label": evidence.label, "slipway.cell": evidence.digest}
            tags |= {"mlflow.parentRunId": parent.info.run_id}
        for run in self._runs:
            if tags.items() <= run.data.tags.items():
                return run
        name = evidence.label if parent is None else f"{evidence.stage} {evidence.label}"
        origin = {"mlflow.source.name": "slipway", "mlflow.source.type": "PROJECT", "mlflow.user": _user()}
        return self._client.create_run(self._experiment, run_name=name, tags={**tags, **origin})

    def _fill(self, run: Run, evidence: Evidence) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run_id, written = run.info.run_id, run.data.params
        for name, text in evidence.texts.items():
            self._client.log_text(run_id, text, name)
        if evidence.files:
            with scratch(self._settings.work) as work:
                for name, file in evidence.files.items():
                    fetch(self._store, file, work / name)
                self._client.log_artifacts(run_id, str(work))
        self._client.set_terminated(run_id, "FINISHED" if evidence.verdict is Verdict.PASSED else "FAILED")
        tags = {**evidence.tags, _COMPLETE: evidence.digest}
        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, run.info.start_time, 0) for key, value in evidence.metrics.items()],
            params=[Param(key, value) for key, value in evidence.params.items() if key not in written],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def _log_dataset(self, run: Run) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        evaluation = self._package.artifact.evaluation
        dataset = Dataset(
            name=evaluation.file.path,
            digest=evaluation.file.digest.removeprefix("sha256:")[:36],  # as long as MLflow's column
            source_type="slipway-store",
            source=json.dumps({"digest": evaluation.file.digest}),
            schema=json.dumps({"columns": list(evaluation.columns)}),
            profile=json.dumps({"num_rows": evaluation.rows, "size_bytes": evaluation.file.size_bytes}),
        )
        tags = [InputTag("mlflow.data.context", "evaluation"), InputTag("slipway.digest", evaluation.file.digest)]
        self._client.log_inputs(run.info.run_id, [DatasetInput(dataset, tags)])

    # --- the registry ---------------------------------------------------------------------------------------------

    def _version(self, run: Run) -> ModelVersion | None:
        """The package's model version: made once it passed, and never called candidate while it does not."""
        name, package = registered_name(self._package.artifact), self._package
        found = self._client.search_model_versions(f"name = '{name}' and tags.`slipway.package` = '{package.digest}'")
        version = min(found, key=lambda item: int(item.version), default=None)
        passed = package.verdict is Verdict.PASSED
        if version is None and passed:
            self._make_registered_model(name)
            version = self._client.create_model_version(
                name,
                source=run.info.artifact_uri,
                run_id=run.info.run_id,
                tags=identity_tags(package, self._source_run),
                description=_description(package, self._source_run),
            )
        elif version is not None:
            for key, value in identity_tags(package, self._source_run).items():
                if version.tags.get(key) != value:
                    self._client.set_model_version_tag(name, version.version, key, value)
        if version is not None:
            self._point_candidate(name, str(version.version), passed)
        return version

    def _make_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name, tags={"slipway.name": self._package.name})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _point_candidate(self, name: str, version: str, passed: bool) -> None:
        aliases: Mapping[str, str] = self._client.get_registered_model(name).aliases
        is_candidate = str(aliases.get(CANDIDATE)) == version
        if passed and not is_candidate:
            self._client.set_registered_model_alias(name, CANDIDATE, version)
        elif is_candidate and not passed:
            self._client.delete_registered_model_alias(name, CANDIDATE)


def _description(package: Package, source_run: str | None) -> str:
    digest = package.digest
    lines = [f"Slipway package `{digest}` of **{package.name}** ({package.owner})."]
    if source_run is not None:
        lines.append(f"Trained in run `{source_run}`.")
    lines.append(f"`slipway lineage {digest.removeprefix('sha256:')[:12]}` shows where it came from.")
    return "\n\n".join(lines)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, under a user id without a name
        return str(os.getuid())


def _yaml(spec: ModelSpec) -> str:
    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(spec.model_dump(mode="json", exclude={"folder"}, exclude_none=True), out)
    return out.getvalue()
