"""Whole, valid contracts to start a test from: a small model, packaged. Their bytes are real and lie in the store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from serving.contract import Batching, DimRange, DType, PackagedFile, Signature, TensorSpec, Tolerance
from tasks.contracts import (
    Artifact,
    DataReport,
    EvaluationData,
    Expectation,
    Export,
    ExportReport,
    FileTree,
    Finding,
    Image,
    MetricComparison,
    OutputComparison,
    Owner,
    Package,
    ParityReport,
    SmokeFigures,
    SmokeReport,
    TunedImage,
    Verdict,
    digest_of,
)
from tasks.manifest import assemble
from tasks.spec import EvaluationSpec, Framework, MetricSpec, ModelSpec, ServingSpec, SmokeSpec, SourceSpec
from tasks.store import Store

FORMATS = ("onnx", "savedmodel")
TYPES = ("c6i.large", "c4.large")


def stored(store: Store, name: str, content: str = "") -> PackagedFile:
    """A file in the store; its content is its name unless given."""
    content = content or name
    digest, size = store.put_stream(io.BytesIO(content.encode()))
    return PackagedFile(path=name, digest=digest, size_bytes=size)


def tree(store: Store, *names: str) -> FileTree:
    return FileTree(files=tuple(stored(store, name) for name in sorted(names)))


def signature() -> Signature:
    return Signature(
        inputs=(TensorSpec("pixels", DType.FLOAT32, ("batch", 4)),),
        outputs=(TensorSpec("logits", DType.FLOAT32, ("batch", 2)),),
        dynamic={"batch": DimRange(1, 64)},
    )


def spec(folder: Path = Path("/nowhere"), **changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "folder": folder,
        "name": "digits",
        "owner": "vision@example.com",
        "source": SourceSpec(uri="artifacts/digits.keras", framework=Framework.KERAS),
        "inputs": signature().inputs,
        "outputs": signature().outputs,
        "dynamic": signature().dynamic,
        "evaluation": EvaluationSpec(
            data="artifacts/eval.npz",
            metrics=(MetricSpec(name="accuracy", output="logits", label="label", max_drop=0.005),),
        ),
        "formats": FORMATS,
        "serving": ServingSpec(),
        "smoke": SmokeSpec(instance_types=TYPES),
    }
    return ModelSpec(**{**values, **changes})


def evaluation(store: Store, name: str = "eval.npz", **changes: Any) -> EvaluationData:
    quality = DataReport(
        verdict=Verdict.PASSED,
        expectations=(
            Expectation(
                name="expect_column_values_to_be_in_set",
                column="pixels: missing",
                verdict=Verdict.PASSED,
                message="no value of 'pixels' is missing (NaN): so it is in all 100 rows",
            ),
        ),
        docs=FileTree(files=(stored(store, "index.html", "<html>data</html>"),)),
    )
    values = {"file": stored(store, name), "rows": 100, "columns": ("label", "pixels"), "quality": quality}
    return EvaluationData(**{**values, **changes})


def artifact(store: Store, **changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "name": "digits",
        "framework": "keras",
        "loader": "keras",
        "root": "digits.keras",
        "files": tree(store, "digits.keras"),
        "signature": signature(),
        "evaluation": evaluation(store),
        "source_uri": "artifacts/digits.keras",
        "source_run": "0123456789abcdef0123456789abcdef",
    }
    return Artifact(**{**values, **changes})


def finding(code: str = "EXPORT_UNSUPPORTED_OPERATOR", **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "code": code,
        "owner": Owner.MODEL,
        "message": "the operator aten::foo has no counterpart",
        "advice": "replace it",
    }
    return Finding(**{**values, **changes})


def export(store: Store, name: str = "onnx") -> Export:
    return Export(
        format=name,
        runtime={"savedmodel": "tensorflow"}.get(name, name),
        files=tree(store, f"model.{name}"),
        root=f"model.{name}",
        exporter="tf2onnx",
        opset=18,
        ir_version=10,
        versions={"onnxruntime": "1.31.1"},
    )


def export_report(store: Store, name: str = "onnx") -> ExportReport:
    return ExportReport(verdict=Verdict.PASSED, format=name, export=export(store, name))


def failed_export(name: str = "onnx", code: str | None = None) -> ExportReport:
    found = finding() if code is None else finding().model_copy(update={"code": code})
    return ExportReport(verdict=Verdict.FAILED, findings=(found,), format=name)


def parity_report(store: Store, name: str = "onnx", **changes: Any) -> ParityReport:
    values: dict[str, Any] = {
        "verdict": Verdict.PASSED,
        "format": name,
        "export_digest": export(store, name).files.digest,
        "batch_sizes": (1, 2, 3, 7, 64),
        "outputs": (
            OutputComparison(
                name="logits",
                compared_values=200,
                max_abs_diff=1e-6,
                max_rel_diff=1e-5,
                worst_margin=0.1,
                tolerance=Tolerance(1e-5, 1e-4),
            ),
        ),
        "metrics": (
            MetricComparison(name="accuracy", source=0.9, export=0.9, drop=0.0, upper=0.0045, max_drop=0.005, rows=600),
        ),
        "golden": stored(store, "golden.npz"),
        "html": stored(store, "report.html", f"<html>{name}</html>"),
    }
    return ParityReport(**{**values, **changes})


def image(name: str = "onnx", **changes: Any) -> Image:
    values: dict[str, Any] = {
        "format": name,
        "runtime": name,
        "reference": f"slipway/digits:{name}-0123456789ab",
        "digest": digest_of(["image", name]),
        "contract_digest": digest_of(["contract", name]),
        "size_bytes": 150_000_000,
        "model_bytes": 10_000,
        "layers": (digest_of("layer"),),
        "labels": {"org.opencontainers.image.title": "digits"},
    }
    return Image(**{**values, **changes})


def proven_image(store: Store, name: str = "onnx", **changes: Any) -> Image:
    """With the labels by which the image stage binds it to export and parity."""
    labels = {
        "io.slipway.export": export(store, name).files.digest,
        "io.slipway.parity": digest_of(parity_report(store, name)),
    }
    return image(name, labels=labels, **changes)


def tuned_image(store: Store, of: Package, **changes: Any) -> TunedImage:
    """Tuned from the package's first image; attested to nobody yet."""
    base = of.images[0]
    values: dict[str, Any] = {
        "package": of.digest,
        "name": of.name,
        "format": base.format,
        "reference": f"{base.reference}-tuned-0123456789ab",
        "digest": digest_of(["tuned", base.digest]),
        "layers": (*base.layers, digest_of("the tuned layer")),
        "base": base.digest,
        "base_attestation": digest_of("no attestation"),
        "contract": stored(store, "contract.json", '{"tuned": true}'),
        "curve": stored(store, "tuning.json", '{"curve": []}'),
        "setting": Batching(batch_rows=8, workers=2, threads=1, batch_window_ms=1.5),
        "p99_ms": 50.0,
        "rows": 1,
        "cpus": 2.0,
        "requests_per_s": 1200.0,
    }
    return TunedImage(**{**values, **changes})


def smoke_report(name: str = "onnx", instance_type: str = TYPES[0], **changes: Any) -> SmokeReport:
    values: dict[str, Any] = {
        "verdict": Verdict.PASSED,
        "format": name,
        "image_digest": image(name).digest,
        "instance_type": instance_type,
        "vcpus": 2.0,
        "memory_bytes": 4 << 30,
        "figures": SmokeFigures(
            cold_start_s=0.8,
            p50_ms=1.0,
            p99_ms=2.0,
            requests=200,
            peak_memory_bytes=90_000_000,
            golden_rows=16,
            concurrency=4,
        ),
    }
    return SmokeReport(**{**values, **changes})


def package(store: Store, of: ModelSpec | None = None, **changes: Any) -> Package:
    """A package that passed, unless `changes` gives other evidence (`exports`, `parity`, `images`, `smoke`)."""
    asked = of or spec()
    evidence: dict[str, Any] = {
        "artifact": artifact(store),
        "exports": [export_report(store, name) for name in asked.formats],
        "parity": [parity_report(store, name) for name in asked.formats],
        "images": [image(name) for name in asked.formats],
        "smoke": [smoke_report(name, kind) for name in asked.formats for kind in asked.smoke.instance_types],
    }
    return assemble(asked, **{**evidence, **changes})
