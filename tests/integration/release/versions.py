"""Versions of the tiny model: what changed between two releases, each a package of its own in a real image."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PreprocessStep, Signature, Tolerance
from tasks.contracts import (
    Artifact,
    EvaluationData,
    ExportReport,
    FileTree,
    Image,
    MetricComparison,
    Package,
    Verdict,
    digest_of,
)
from tasks.image import Engine, build
from tasks.image.engine import ContainerSpec, running
from tasks.lineage import remember_spec
from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.manifest import in_order
from tasks.release.contracts import Deployed, Endpoint
from tasks.settings import Settings
from tasks.spec import EvaluationSpec, MetricSpec, ModelSpec
from tasks.store import LocalStore, put_file, put_tree
from tests import samples
from tests.integration.smoke.bench import PATIENT
from tests.integration.tiny import B1, PREPROCESS, SIGNATURE, W1, W2, TinyModel, raw_samples

#: Rows with labels: enough to show that no more than `MAX_DROP` of the accuracy is lost where nothing is.
ROWS, MAX_DROP = 400, 0.02
RAW = raw_samples(ROWS)


@dataclass(frozen=True)
class Change:
    """What is different from today's version."""

    preprocess: tuple[PreprocessStep, ...] = PREPROCESS
    weights: NDArray[np.float32] = field(default_factory=lambda: W2)
    signature: Signature = SIGNATURE
    p99_ms: float = PATIENT.p99_ms

    def answer(self, raw: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the source model of this version says to what clients send."""
        scale = next(step for step in self.preprocess if step.op == "scale")
        x = raw.astype(np.float32) * np.float32(scale.by or 1) + np.float32(scale.offset or 0)
        return {"y": np.maximum(x @ W1 + B1, 0) @ self.weights, "n": (x > 0).sum(1)}


#: Version → what changed.
CHANGES: dict[str, Change] = {
    "today": Change(),
    # The same trained bytes in another package.
    "repackaged": Change(p99_ms=19_000),
    # Clients send bytes that are centred at another value: status 200, as quick as ever, plausible.
    "offset": Change(preprocess=(PREPROCESS[0], replace(PREPROCESS[1], offset=-20.0))),
    # Trained again, and as good.
    "retrained": Change(weights=W2 * np.float32(1.5)),
    # Trained again, and two classes are confused.
    "confused": Change(weights=W2[:, [1, 0, 2]]),
    # Half of what clients send is not taken any more.
    "narrow": Change(signature=replace(SIGNATURE, inputs=(replace(SIGNATURE.inputs[0], range=(0, 100)),))),
    # Clients would have to send something else.
    "wider": Change(signature=replace(SIGNATURE, inputs=(replace(SIGNATURE.inputs[0], shape=("batch", 7)),))),
}


@dataclass(frozen=True)
class Made:
    """A version as it is deployed."""

    deployed: Deployed
    image: Image
    package: Package
    spec: ModelSpec


class Shipyard:
    """Makes versions and starts them, each once."""

    def __init__(
        self, name: str, folder: Path, store: LocalStore, engine: Engine, tiny: TinyModel, stack: ExitStack
    ) -> None:
        self.name, self.store, self.engine = name, store, engine
        self._folder, self._tiny, self._stack = folder, tiny, stack
        self._made: dict[str, Made] = {}
        self._started: dict[str, Endpoint] = {}

    def make(self, version: str) -> Made:
        if version not in self._made:
            folder = self._folder / version
            folder.mkdir()
            self._made[version] = self._package(CHANGES[version], folder)
        return self._made[version]

    def start(self, version: str) -> Endpoint:
        """Where its container listens, once it is ready."""
        if version not in self._started:
            image = self.make(version).image
            spec = ContainerSpec(
                image=image.digest,
                name=f"slipway-{self.name}-{version}",
                component=self.name,
                network="bridge",
                ports=(8000,),
                cpus=1,
                memory_bytes=1 << 30,
            )
            container = self._stack.enter_context(running(self.engine, spec))
            self._started[version] = self._ready(container)
        return self._started[version]

    def _ready(self, container: str) -> Endpoint:
        while self.engine.state(container).running:
            port = self.engine.host_port(container, 8000)
            with Connection(Address("127.0.0.1", port), 5) as connection:
                try:
                    if connection.request(get("/v2/health/ready")).status == 200:
                        return Endpoint(host="127.0.0.1", port=port)
                except (Broken, Unanswered):
                    time.sleep(0.05)
        raise AssertionError(self.engine.logs(container))

    def _package(self, change: Change, folder: Path) -> Made:
        spec = self._spec(change, folder)
        export = samples.export(self.store, "onnx").model_copy(
            update={"files": put_tree(self.store, self._model(change, folder)), "root": "model.onnx", "versions": {}}
        )
        answers, raw = change.answer(RAW), RAW[:12]
        if (range_ := change.signature.inputs[0].range) is not None:
            raw = raw % np.uint8(range_[1])  # golden samples are what the package itself takes
        golden = {f"output/{name}": array for name, array in change.answer(raw).items()}
        np.savez(folder / "golden.npz", **{"input/x": raw}, **golden)
        one = samples.parity_report(self.store).outputs[0]
        exact = one.model_copy(update={"tolerance": Tolerance(1e-5, 1e-6)})
        accuracy = float((answers["y"].argmax(1) == self._labels).mean())
        parity = samples.parity_report(
            self.store,
            "onnx",
            golden=put_file(self.store, folder / "golden.npz"),
            export_digest=export.files.digest,
            outputs=tuple(exact.model_copy(update={"name": tensor.name}) for tensor in SIGNATURE.outputs),
            metrics=(
                MetricComparison(
                    name="accuracy", source=accuracy, export=accuracy, drop=0, upper=0.01, max_drop=MAX_DROP, rows=ROWS
                ),
            ),
        )
        artifact = self._artifact(change, folder)
        image = build(spec, artifact, export, parity, self.store, self.engine, Settings.from_environment())
        package = samples.package(
            self.store,
            spec,
            artifact=artifact,
            exports=[ExportReport(verdict=Verdict.PASSED, format="onnx", export=export)],
            parity=[parity],
            images=[image],
            smoke=[samples.smoke_report("onnx", kind, image_digest=image.digest) for kind in samples.TYPES],
        )
        self.store.put_result("package", package.digest, package.model_dump_json())
        remember_spec(in_order(spec), self.store)
        deployed = Deployed(
            package=package.digest, image=image.digest, reference=image.reference, format="onnx", version=None
        )
        return Made(deployed, image, package, spec)

    @property
    def _labels(self) -> NDArray[Any]:
        """What today's version says is the truth: it has an accuracy of 1."""
        return np.asarray(CHANGES["today"].answer(RAW)["y"].argmax(1))

    def _spec(self, change: Change, folder: Path) -> ModelSpec:
        metric = MetricSpec(name="accuracy", output="y", label="label", max_drop=MAX_DROP)
        return samples.spec(
            folder,
            name=self.name,
            inputs=change.signature.inputs,
            outputs=change.signature.outputs,
            dynamic=change.signature.dynamic,
            preprocess=change.preprocess,
            evaluation=EvaluationSpec(data="eval.npz", metrics=(metric,)),
            formats=("onnx",),
            serving=PATIENT.model_copy(update={"p99_ms": change.p99_ms}),
        )

    def _artifact(self, change: Change, folder: Path) -> Artifact:
        np.savez(folder / "eval.npz", x=RAW, label=self._labels)
        data = EvaluationData(
            file=put_file(self.store, folder / "eval.npz"),
            rows=ROWS,
            columns=("label", "x"),
            quality=samples.evaluation(self.store).quality,
        )
        # The trained bytes: whatever was trained is known by its weights.
        trained = samples.stored(self.store, "model.bin", digest_of(change.weights.tolist()))
        return samples.artifact(
            self.store,
            signature=change.signature,
            evaluation=data,
            files=FileTree(files=(trained,)),
            root="model.bin",
        )

    def _model(self, change: Change, folder: Path) -> Path:
        """The tiny model's files with this version's weights."""
        import onnx
        from onnx import numpy_helper

        model = onnx.load(self._tiny.path)
        weights = next(item for item in model.graph.initializer if item.name == "w2")
        weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change.weights), "w2"))
        made = folder / "model"
        made.mkdir()
        onnx.save(model, made / "model.onnx")
        return made
