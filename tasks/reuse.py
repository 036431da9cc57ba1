"""What a stage's result follows from, and whether an earlier result still stands.

In: a spec, contracts and the code itself. Out: keys (digests), under which the store remembers results. A key covers
the stage's name, its source code, the libraries that decide what it does, and its inputs: nothing that it depends on
may be missing here, and nothing that it does not depend on may be in here, or it runs again for no reason.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from serving.contract import PackagedFile
from tasks.contracts import (
    Artifact,
    DataReport,
    Digest,
    Export,
    Image,
    Owner,
    ParityReport,
    Report,
    Verdict,
    digest_of,
)
from tasks.export.compiler import compiler_version
from tasks.export.formats import FORMATS
from tasks.spec import Int8, ModelSpec
from tasks.store import Store

if TYPE_CHECKING:
    from tasks.smoke.catalogue import InstanceType
    from tasks.smoke.served import Served

_ROOT = Path(__file__).parents[1]

_CONTRACTS = (
    "tasks/contracts.py",
    "tasks/spec.py",
    "docker/serving/contract.py",
    "docker/serving/preprocess",
    "docker/serving/tensors.py",
)

_SOURCES = ("tasks/ingest", "tasks/lineage/origin.py", "tasks/expectations")
_LOCKS = ("tasks/image/runtimes.py", "docker/runtimes")
#: How exporters trace a model: parity does it again to look inside (`tasks.parity.divergence`).
_INSIDE = tuple(
    f"tasks/export/{name}.py"
    for name in (
        "__init__",
        "conversion",
        "sizes",
        "tf_function",
        "torch_capture",
        "torch_diagnosis",
        "torch_recurrent",
    )
)

#: Stage → the code that decides its results.
CODE: Mapping[str, tuple[str, ...]] = {
    "ingest": (*_CONTRACTS, *_SOURCES),
    "export": (*_CONTRACTS, *_SOURCES, "tasks/export", "docker/serving/runners", *_LOCKS),
    "parity": (
        *_CONTRACTS,
        *_SOURCES,
        "tasks/parity",
        *_INSIDE,
        "tasks/export/calibration.py",
        "tasks/figures.py",
        "docker/serving",
    ),
    "image": (*_CONTRACTS, "tasks/image", "docker/serving", "docker/runtimes", "docker/base"),
    # (what makes an image for another architecture, too: its answers are smoke's)
    "smoke": (
        *_CONTRACTS,
        "tasks/smoke",
        "tasks/load",
        "tasks/image",
        "docker/serving",
        "docker/runtimes",
        "docker/base",
    ),
}

_LOADING = ("keras", "numpy", "onnx", "onnxruntime", "scikit-learn", "skops", "tensorflow-cpu", "torch")
_PREPROCESSING = ("pillow", "tokenizers")
_EXPECTING = ("great-expectations", "pandas")
_CONVERTING = ("jax", "jaxlib", "onnx-ir", "onnxscript", "skl2onnx", "tf2onnx", "torchax")

#: Stage → the distributions whose versions decide its results.
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "ingest": (*_LOADING, *_EXPECTING, *_PREPROCESSING, "pyarrow"),
    "export": (*_LOADING, *_CONVERTING, *_PREPROCESSING),
    "parity": (*_LOADING, *_EXPECTING, *_PREPROCESSING, "pyarrow", "onnx-ir", "onnxscript", "scipy"),
    "image": ("cyclonedx-python-lib",),  # writes the SBOM; what else is in an image is pinned by docker/runtimes
    "smoke": ("iced-x86", "prometheus-client", "scipy"),  # the first names the instruction of a finding
}


def stage_key(stage: str, inputs: Mapping[str, Any]) -> Digest:
    """The key that `stage`'s result for `inputs` (plain JSON or contracts) is remembered by."""
    return digest_of({"stage": stage, "code": code_digest(stage), "libraries": versions(stage), "inputs": dict(inputs)})


def pipeline_digest(formats: Iterable[str] = ()) -> Digest:
    """Identity of all of Slipway that decides what a package is: code, libraries, the runtimes' locks, the base; and
    the compiler, where one of `formats` is compiled."""
    parts: dict[str, Any] = {stage: [code_digest(stage), versions(stage)] for stage in CODE}
    if any(FORMATS[name].is_compiled for name in formats):
        parts["compiler"] = compiler_version()
    return digest_of(parts)


@functools.cache
def code_digest(stage: str) -> Digest:
    """The digest of the stage's source files: their paths and bytes, wherever the repository lies."""
    return _digest_of_files(_ROOT, CODE[stage])


def _digest_of_files(root: Path, sources: tuple[str, ...]) -> Digest:
    found: set[Path] = set()
    for source in sources:
        path = root / source
        found.update([path] if path.is_file() else (item for item in path.rglob("*") if item.is_file()))
    ours = sorted(path.relative_to(root) for path in found if not _is_by_product(path.relative_to(root)))
    return digest_of([[path.as_posix(), hashlib.sha256((root / path).read_bytes()).hexdigest()] for path in ours])


def _is_by_product(path: Path) -> bool:
    return path.suffix == ".pyc" or any(part == "__pycache__" or part.startswith(".") for part in path.parts)


@functools.cache
def versions(stage: str) -> dict[str, str]:
    """Distribution → version, of the libraries that decide the stage's results; `absent` where not installed."""
    found = {}
    for name in LIBRARIES[stage]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# --- what each stage looks at -------------------------------------------------------------------------------------


def ingest_inputs(spec: ModelSpec, fingerprint: Digest) -> dict[str, Any]:
    """`fingerprint` covers the bytes; the rest is what ingest checks them against. Tolerances are not its business."""
    return {
        "fingerprint": fingerprint,
        "name": spec.name,
        "source": spec.source,
        "signature": _plain(spec, "inputs", "outputs", "dynamic", "preprocess"),
        "evaluation": spec.evaluation.data,
        "columns": sorted(
            [metric.name, metric.label, metric.output, metric.group or "", metric.callable or ""]
            for metric in spec.evaluation.metrics
        ),
    }


def export_inputs(spec: ModelSpec, artifact: Artifact, format: str) -> dict[str, Any]:
    """The model, its signature and what there is a choice in, not how it will be served.

    The evaluation data, and the files that preprocess it, only where the format is calibrated on it. Compiled formats
    check no index, so what preprocessing can give decides whether there is one.
    """
    inputs: dict[str, Any] = {
        "artifact": artifact_digest(artifact.model_copy(update={"preprocess": None})),
        "format": format,
        "signature": _plain(spec, "inputs", "outputs", "dynamic", "preprocess"),
    }
    entry = FORMATS[format]
    if entry.is_onnx:
        inputs["external_data"] = spec.export.external_data
    if entry.quantises:
        inputs["int8"] = spec.export.int8
    if entry.quantises and spec.export.int8 is Int8.STATIC:
        inputs["calibration"] = [artifact.evaluation.file.digest, artifact.preprocess and artifact.preprocess.digest]
    if entry.is_compiled:
        inputs["preprocess"] = artifact.preprocess and artifact.preprocess.digest
        inputs["compiler"] = compiler_version()
    return inputs


def parity_inputs(spec: ModelSpec, artifact: Artifact, export: Export) -> dict[str, Any]:
    """Both models, what they are compared on, and what counts as equal."""
    return {
        "artifact": artifact_digest(artifact),
        "export": export,
        "evaluation": [artifact.evaluation.digest, list(artifact.evaluation.columns)],
        "metrics": spec.evaluation.model_dump(mode="json", exclude={"data"}),
        "signature": _plain(spec, "inputs", "outputs", "dynamic", "preprocess"),
        "max_batch": spec.serving.max_batch,
        **({"int8": spec.export.int8} if export.precision == "int8" else {}),
    }


def smoke_inputs(
    served: Served, image: Image, parity: ParityReport, kind: InstanceType, host: Digest
) -> dict[str, Any]:
    """The image, which answers must come back, the type's facts, this machine, and the budgets."""
    return {**_asked_of(served, image, parity, host), "instance_type": kind}


def capacity_inputs(served: Served, image: Image, parity: ParityReport, vcpus: float, host: Digest) -> dict[str, Any]:
    """What the highest rate and the smallest memory follow from: all that smoke's do but the type, of which only the
    vCPUs that its container is given matter (`tasks.smoke.earlier`)."""
    return {**_asked_of(served, image, parity, host), "vcpus": vcpus}


def _asked_of(served: Served, image: Image, parity: ParityReport, host: Digest) -> dict[str, Any]:
    """How requests are put together is not here: the contract says it, which is in the image."""
    return {
        "image": image.digest,
        "golden": parity.golden and parity.golden.digest,
        "tolerances": {item.name: [item.tolerance.atol, item.tolerance.rtol] for item in parity.outputs},
        "host": host,
        "budgets": served.serving.model_dump(mode="json", include={"max_batch", "p99_ms", "cold_start_s"}),
    }


def artifact_digest(artifact: Artifact) -> Digest:
    """Identity of the trained model: its bytes, its signature, the files that preprocessing needs, how to open them.

    Not what it is tested on, nor where it came from: a clone elsewhere is the same model, and so it is whether or not
    MLflow could be asked for the training run.
    """
    return digest_of(artifact.model_dump(mode="json", exclude={"evaluation", "source_uri", "source_run"}))


def _plain(spec: ModelSpec, *keys: str) -> dict[str, Any]:
    return spec.model_dump(mode="json", include=set(keys))


# --- whether an earlier result stands -----------------------------------------------------------------------------


def is_repeatable(stage: str, result: BaseModel) -> bool:
    """Whether the same inputs would give the same result again, so that it may be remembered.

    Converters and comparisons are deterministic, so their refusals stand. What was measured on a running container
    stands only when it passed, and what was inconclusive, or the platform's fault, may heal. What data does not
    show, it will not show tomorrow either.
    """
    report = result.evaluation.quality if isinstance(result, Artifact) else result
    if not isinstance(report, Report) or report.verdict is Verdict.PASSED:
        return True
    if not isinstance(report, DataReport) and (stage == "smoke" or report.verdict is Verdict.INCONCLUSIVE):
        return False
    return not any(
        finding.owner is Owner.PLATFORM and finding.verdict is not Verdict.PASSED for finding in report.findings
    )


def files_of(value: Any) -> Iterator[PackagedFile]:
    """Every stored file that a contract refers to, however deep."""
    if isinstance(value, PackagedFile):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from files_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from files_of(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from files_of(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from files_of(getattr(value, field.name))


def is_whole(value: Any, store: Store) -> bool:
    """Whether the store still has every object that a contract refers to."""
    return all(store.has(digest) for digest in {file.digest for file in files_of(value)})
