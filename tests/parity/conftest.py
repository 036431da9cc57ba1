"""A parity gate to hand models to: ONNX files written as text, in a real store, through the real runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.contracts import Artifact, EvaluationData, Export, ParityReport
from tasks.ingest.sources import SourceModel
from tasks.parity import check
from tasks.parity.coarse import Reduced
from tasks.parity.confrontation import Judgement, confront
from tasks.parity.exported import Launch
from tasks.spec import EvaluationSpec, MetricSpec, ModelSpec, ServingSpec
from tasks.store import LocalStore, put_file, put_tree
from tests import samples

Arrays = Mapping[str, NDArray[Any]]

X = TensorSpec("x", DType.FLOAT32, ("batch", 4))
Y = TensorSpec("y", DType.FLOAT32, ("batch", 3))
WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
BIAS = np.array([0.5, -0.25, 0.125], dtype=np.float32)


def model(text: str, opset: int = 20, **weights: NDArray[Any]) -> bytes:
    """An ONNX file from `name (inputs) => (outputs) { nodes }`, its weights by name."""
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(parsed)
    return parsed.SerializeToString()


#: A linear layer: what most faults are injected into.
LINEAR = "net (float[batch, 4] x) => (float[batch, 3] y) { y = Gemm (x, w, b) }"


def linear(weight: NDArray[Any] = WEIGHT, bias: NDArray[Any] = BIAS) -> bytes:
    return model(LINEAR, w=weight, b=bias)


def rows(count: int = 40, width: int = 4, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def metric(name: str, output: str, max_drop: float) -> tuple[MetricSpec, ...]:
    return (MetricSpec(name=name, output=output, label="label", max_drop=max_drop),)


class Gate:
    """A store and a scratch folder; asks the gate about an export of an ONNX source."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.asked = folder, LocalStore(folder / "store"), 0

    def __call__(
        self,
        source: bytes,
        export: bytes | Path,
        evaluation: Arrays | None = None,
        *,
        inputs: tuple[TensorSpec, ...] = (X,),
        outputs: tuple[TensorSpec, ...] = (Y,),
        metrics: tuple[MetricSpec, ...] | None = None,
        runtime: str = "onnx",
        dynamic: Mapping[str, DimRange] | None = None,
        **changes: Any,
    ) -> ParityReport:
        self.asked += 1
        work = self.folder / str(self.asked)
        work.mkdir()
        columns = dict(evaluation if evaluation is not None else {"x": rows()})
        columns.setdefault("label", np.zeros((len(next(iter(columns.values()))), 3), dtype=np.float32))
        spec = samples.spec(
            inputs=inputs,
            outputs=outputs,
            dynamic=dict(dynamic or {"batch": DimRange(1, 16)}),
            evaluation=EvaluationSpec(data="eval.npz", metrics=metrics or metric("rmse", outputs[0].name, 1e9)),
            serving=ServingSpec(max_batch=8),
            **changes,
        )
        artifact = self.artifact(spec.signature, source, columns, work)
        report = check(spec, artifact, self.export(export, runtime, work), self.store, work)
        self.spec: ModelSpec = spec
        return report

    def artifact(self, signature: Signature, source: bytes, columns: Arrays, work: Path) -> Artifact:
        (work / "source.onnx").write_bytes(source)
        plain = {name: array.astype(np.str_) if array.dtype == object else array for name, array in columns.items()}
        np.savez(work / "eval.npz", **plain)
        return Artifact(
            name="net",
            framework="onnx",
            loader="onnx",
            root="source.onnx",
            files=put_tree(self.store, work / "source.onnx"),
            signature=signature,
            evaluation=EvaluationData(
                file=put_file(self.store, work / "eval.npz"),
                rows=len(next(iter(columns.values()))),
                columns=tuple(sorted(columns)),
            ),
            source_uri="net.onnx",
        )

    def export(self, export: bytes | Path, runtime: str, work: Path) -> Export:
        if isinstance(export, bytes):
            (work / "model.onnx").write_bytes(export)
            export = work / "model.onnx"
        return Export(
            format=runtime,
            runtime=runtime,
            files=put_tree(self.store, export),
            root=export.name if export.is_file() else ".",
            exporter="by hand",
            versions={},
        )


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def codes(report: ParityReport | Judgement) -> list[str]:
    """The codes of everything that blocks, each once, in the report's order."""
    return list(dict.fromkeys(finding.code for finding in report.findings if finding.verdict != "passed"))


def confronted(
    source: SourceModel,
    loader: str,
    signature: Signature,
    evaluation: Arrays,
    runtime: str,
    path: Path,
    work: Path,
    launch: Launch | None = None,
    reduced: Reduced | None = None,
    free_bytes: int | None = None,
) -> Judgement:
    """What the gate says of an export of a source that is loaded already; the metric allows any finite loss."""
    spec = samples.spec(
        inputs=signature.inputs,
        outputs=signature.outputs,
        dynamic=signature.dynamic,
        evaluation=EvaluationSpec(data="eval.npz", metrics=metric("rmse", signature.outputs[0].name, 1e9)),
        serving=ServingSpec(max_batch=8),
    )
    name = signature.outputs[0].name
    first = source.predict({tensor.name: evaluation[tensor.name][:8] for tensor in signature.inputs})[name]
    rows = len(next(iter(evaluation.values())))
    labels = np.zeros((rows, *first.shape[1:]), dtype=np.float32)
    work.mkdir(exist_ok=True)
    return confront(
        spec,
        source,
        loader,
        {**evaluation, "label": labels},
        runtime,
        path,
        work,
        "seed",
        launch=launch,
        reduced=reduced,
        free_bytes=free_bytes,
    )
