"""The stages chained, each run only when what it follows from has changed. The CLI and Airflow's tasks call this.

In: a `ModelSpec`. Out: a `StageRun` per stage and cell, and in the end a `Package` in the store and in MLflow.

    pipeline = Pipeline(Settings.from_environment())
    artifact = pipeline.ingest(spec).result
    exported = pipeline.export(spec, artifact, "onnx").result

Each stage says here what its result follows from (`tasks.reuse`) and how it is made; whether it is made or remembered
is decided in `tasks.memory`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import ValidationError

from tasks import reuse
from tasks.contracts import (
    Artifact,
    Base,
    Digest,
    Export,
    ExportReport,
    ExportRun,
    Image,
    ImageRun,
    IngestRun,
    LineageRecord,
    Package,
    ParityReport,
    ParityRun,
    SmokeReport,
    SmokeRun,
    Verdict,
    digest_of,
)
from tasks.errors import GateBlocked, PlatformError
from tasks.manifest import assemble, in_order, package_inputs
from tasks.memory import AnyRun, Event, Memory, Moment
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import Store, open_store

if TYPE_CHECKING:
    from tasks.image import Engine
    from tasks.smoke.served import Served

Evidence: TypeAlias = tuple[Artifact, list[ExportReport], list[ParityReport], list[Image], list[SmokeReport]]


@dataclass(slots=True)
class Runs:
    """What `Pipeline.run` did, in order; `errors` are what the platform could not do."""

    ingest: IngestRun
    exports: list[ExportRun] = field(default_factory=list)
    parity: list[ParityRun] = field(default_factory=list)
    images: list[ImageRun] = field(default_factory=list)
    smoke: list[SmokeRun] = field(default_factory=list)
    errors: list[PlatformError] = field(default_factory=list)

    @property
    def all(self) -> tuple[AnyRun, ...]:
        return (self.ingest, *self.exports, *self.parity, *self.images, *self.smoke)

    def results(self) -> Evidence:
        """What `Pipeline.register` takes after the spec."""
        return (
            self.ingest.result,
            [run.result for run in self.exports],
            [run.result for run in self.parity],
            [run.result for run in self.images],
            [run.result for run in self.smoke],
        )

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Note a platform's error, once however often it comes, and go on."""
        try:
            yield
        except PlatformError as error:
            if str(error) not in map(str, self.errors):
                self.errors.append(error)


class Pipeline:
    """Runs stages, or finds that they need not be run.

    Cheap to make; one per process or per task. Stages may be called from any process in any order that their
    arguments allow, and calling one again is free of effect.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fresh: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """With `fresh`, earlier results are ignored (and replaced).

        Raises:
            StoreUnavailable: the store or SLIPWAY_HOME cannot be used.
        """
        self.settings = settings
        self.store: Store = open_store(settings.store_uri)
        self._tell = on_event or (lambda event: None)
        self._fresh = fresh
        self._memory = Memory(self.store, settings, fresh=fresh, tell=self._tell, is_in_engine=self._is_in_engine)

    @cached_property
    def engine(self) -> Engine:
        """The Docker engine, connected when first needed.

        Raises:
            EngineUnavailable: none answers.
        """
        from tasks.image import connect

        return connect()

    def _is_in_engine(self, image: Image) -> bool:
        found = self.engine.find_image(image.reference)
        return found is not None and found.id == image.digest

    # --- the stages, in order -------------------------------------------------------------------------------------

    def ingest(self, spec: ModelSpec) -> IngestRun:
        """The trained model, its code and its evaluation data, checked and stored.

        A gate: whether the data holds is `evaluation.quality` of the artifact.

        Raises:
            BadInput: the source or the evaluation data cannot be used.
            PlatformError: the store or MLflow does not answer.
        """
        from tasks.ingest import fingerprint, ingest

        key = reuse.stage_key("ingest", reuse.ingest_inputs(spec, fingerprint(spec, self.settings)))
        return self._memory.run(
            IngestRun, "ingest", spec.name, key, lambda work: ingest(spec, self.store, self.settings)
        )

    def export(self, spec: ModelSpec, artifact: Artifact, format: str) -> ExportRun:
        """The model in one format, or the finding that says why not."""
        from tasks.export import export

        key = reuse.stage_key("export", reuse.export_inputs(spec, artifact, format))
        return self._memory.run(
            ExportRun, "export", format, key, lambda work: export(spec, artifact, format, self.store, work)
        )

    def parity(self, spec: ModelSpec, artifact: Artifact, export: Export) -> ParityRun:
        """One export against the source model, on the evaluation data."""
        from tasks.parity import check

        key = reuse.stage_key("parity", reuse.parity_inputs(spec, artifact, export))
        return self._memory.run(
            ParityRun, "parity", export.format, key, lambda work: check(spec, artifact, export, self.store, work)
        )

    def verify(self, spec: ModelSpec, format: str, path: Path) -> tuple[IngestRun, ParityRun]:
        """An export that was made elsewhere, held against the source model by the same gate.

        Raises:
            BadInput: the spec's inputs cannot be used, or `path` holds no export of this format that may be opened.
            GateBlocked: the evaluation data does not hold, so nothing can be compared on it; or the format is one of
                reduced precision, and the model cannot be written in full precision.
            PlatformError: the store or MLflow does not answer.
        """
        from tasks.export.foreign import adopt

        adopted = adopt(path, format, self.store)
        ingested = self.ingest(spec)
        quality = ingested.result.evaluation.quality
        if quality is None or quality.verdict is not Verdict.PASSED:
            found = () if quality is None else quality.findings
            why = [f"{each.code}: {each.message}" for each in found if each.verdict is not Verdict.PASSED]
            raise GateBlocked("\n".join(["the evaluation data does not hold, so nothing can be compared on it", *why]))
        return ingested, self.parity(spec, ingested.result, self._with_base(spec, ingested.result, adopted))

    def _with_base(self, spec: ModelSpec, artifact: Artifact, adopted: Export) -> Export:
        """With the full-precision file that one of reduced precision is measured by: the model as `onnx`."""
        from tasks.export import FORMATS

        precision = FORMATS[adopted.format].precision
        if precision == "full":
            return adopted
        made = self.export(spec, artifact, "onnx").result
        if made.export is None:
            why = [f"{each.code}: {each.message}" for each in made.findings]
            raise GateBlocked("\n".join([f"{adopted.format} is measured by the model as onnx, which fails", *why]))
        base = Base(files=made.export.files, root=made.export.root)
        return adopted.model_copy(update={"precision": precision, "base": base})

    def image(self, spec: ModelSpec, artifact: Artifact, export: Export, parity: ParityReport) -> ImageRun:
        """The serving image of one export, bound to the evidence that it may serve.

        Raises:
            GateBlocked: parity did not pass.
            PlatformError: no Docker engine, or it could not build.
        """
        if parity.verdict is not Verdict.PASSED:
            raise GateBlocked(f"the parity of {parity.format} is {parity.verdict}: no image is built from it")
        from tasks.image import build

        key = reuse.stage_key(
            "image",
            {
                "spec": spec.model_dump(mode="json", include={"name", "owner", "preprocess", "serving"}),
                "artifact": reuse.artifact_digest(artifact),
                "source_run": artifact.source_run,
                "export": export,
                "parity": parity,
            },
        )
        return self._memory.run(
            ImageRun,
            "image",
            export.format,
            key,
            lambda work: build(spec, artifact, export, parity, self.store, self.engine, self.settings),
        )

    def smoke(self, spec: Served, image: Image, parity: ParityReport, instance_type: str) -> SmokeRun:
        """One image on one instance type.

        Raises:
            BadInput: the catalogue has no such instance type.
            PlatformError: no Docker engine, or it could not start the container.
        """
        from tasks.smoke import smoke
        from tasks.smoke.catalogue import instance_type as described
        from tasks.smoke.earlier import Earlier
        from tasks.smoke.host import Host
        from tasks.smoke.observation import Limits
        from tasks.smoke.run import is_capacity_asked

        kind, host = described(instance_type), Host.this()
        inputs = reuse.smoke_inputs(spec, image, parity, kind, host.identity)
        key = reuse.stage_key("smoke", inputs | {"capacity": is_capacity_asked()})
        bears = reuse.capacity_inputs(spec, image, parity, Limits.of(kind, host).vcpus, host.identity)
        earlier = Earlier(self.store, reuse.stage_key("smoke", bears), fresh=self._fresh)
        return self._memory.run(
            SmokeRun,
            "smoke",
            f"{image.format} × {instance_type}",
            key,
            lambda work: smoke(spec, image, parity, instance_type, self.store, self.engine, work, earlier),
        )

    def register(
        self,
        spec: ModelSpec,
        artifact: Artifact,
        exports: Sequence[ExportReport],
        parity: Sequence[ParityReport],
        images: Sequence[Image],
        smoke: Sequence[SmokeReport],
    ) -> tuple[Package, LineageRecord]:
        """Judge everything, publish the manifest in the store, and record it in MLflow.

        Answers the package that this evidence makes, and the record of the one that stands under its digest.

        Raises:
            TrackingUnavailable: MLflow does not answer. The manifest is published by then; nothing is lost.
        """
        package = self.publish(spec, artifact, exports, parity, images, smoke)
        return package, self.record(package, spec)

    def publish(
        self,
        spec: ModelSpec,
        artifact: Artifact,
        exports: Sequence[ExportReport],
        parity: Sequence[ParityReport],
        images: Sequence[Image],
        smoke: Sequence[SmokeReport],
    ) -> Package:
        """The first half of `register`: judge everything, publish the manifest in the store, and sign it.

        What was decided before stands when this run could not decide it again (no engine, a busy machine): a package
        that passed or failed is not replaced by an inconclusive one of the same inputs.
        """
        from tasks.attestation import attest
        from tasks.lineage import remember_spec

        package = assemble(spec, artifact, exports, parity, images, smoke)
        remember_spec(in_order(spec), self.store)
        if package.verdict is not Verdict.INCONCLUSIVE or self._decided(package.digest) is None:
            self.store.put_result("package", package.digest, package.model_dump_json())
            attest(package, self.store, self.settings)
        return package

    def record(self, package: Package, spec: ModelSpec) -> LineageRecord:
        """The second half of `register`: what stands under the package's digest into MLflow.

        Raises:
            TrackingUnavailable: MLflow does not answer.
        """
        from tasks.lineage import record

        package = self._decided(package.digest) or package

        started = time.monotonic()
        self._tell(Event(Moment.STARTED, "register", spec.name))
        try:
            recorded = record(package, spec, self.store, self.settings)
        except BaseException:
            self._tell(Event(Moment.STOPPED, "register", spec.name, duration_s=time.monotonic() - started))
            raise
        self._tell(Event(Moment.FINISHED, "register", spec.name, duration_s=time.monotonic() - started))
        return recorded

    def packaged(self, spec: ModelSpec) -> Package | None:
        """The package of exactly this spec and these inputs, if it was made before; nothing is run.

        What the nightly run asks of each model. A package that passed or failed answers; an inconclusive one does
        not, nor does one whose bytes are no longer in the store.

        Raises:
            BadInput: the source or the evaluation data is missing.
        """
        from tasks.ingest import fingerprint

        key = reuse.stage_key("ingest", reuse.ingest_inputs(spec, fingerprint(spec, self.settings)))
        earlier = self._memory.recall(IngestRun, "ingest", key)
        if earlier is None:
            return None
        package = self._decided(digest_of(package_inputs(spec, earlier.result)))
        return package if package is not None and reuse.is_whole(package, self.store) else None

    def _decided(self, digest: Digest) -> Package | None:
        """The package that stands under a digest, if it passed or failed."""
        text = self.store.get_result("package", digest)
        try:
            package = None if text is None else Package.model_validate_json(text)
        except ValidationError:  # another version of Slipway wrote it in another form
            return None
        return None if package is None or package.verdict is Verdict.INCONCLUSIVE else package

    def run(self, spec: ModelSpec) -> Runs:
        """Every stage up to smoke, in one process. What stops one format stops no other; data that does not hold stops
        all of them.

        Raises:
            BadInput: the spec's inputs cannot be used.
            PlatformError: ingest could not be carried out; of later stages it is in `Runs.errors` instead.
        """
        if self.settings.signing_key is not None:  # or the last step would find out, minutes later
            from tasks.attestation import signer

            signer(self.settings)
        runs = Runs(self.ingest(spec))
        quality = runs.ingest.result.evaluation.quality
        if quality is None or quality.verdict is not Verdict.PASSED:
            return runs
        for name in spec.formats:
            with runs.noting_errors():
                self._run_format(spec, name, runs)
        proven = {run.result.format: run.result for run in runs.parity}
        for built in runs.images:  # all images first: figures hold only on a quiet machine
            for kind in spec.smoke.instance_types:
                with runs.noting_errors():
                    runs.smoke.append(self.smoke(spec, built.result, proven[built.result.format], kind))
        return runs

    def _run_format(self, spec: ModelSpec, name: str, runs: Runs) -> None:
        artifact = runs.ingest.result
        exported = self.export(spec, artifact, name)
        runs.exports.append(exported)
        if exported.result.export is None:
            return
        compared = self.parity(spec, artifact, exported.result.export)
        runs.parity.append(compared)
        if compared.result.verdict is Verdict.PASSED:
            runs.images.append(self.image(spec, artifact, exported.result.export, compared.result))


__all__ = ["Event", "Moment", "Pipeline", "Runs"]
