"""A proven export → a serving image: its runtime's image and one thin layer with the package.

The package is `contract.json`, the model's files, those that preprocessing needs, and the golden samples that parity
stored; beside it lie the SBOM and the list of licences. The tag is the digest of
everything that goes in, so building the same package again finds the image that is there. No image is built of an
export that parity did not pass.
"""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace

from pydantic import TypeAdapter

from serving.contract import CONTRACT_FILE, PREPROCESS_FOLDER, Needs, PackagedFile, PredictionLog, ServingContract
from serving.preprocess import extras
from tasks.contracts import Artifact, Digest, Export, Image, ParityReport, Verdict, digest_of
from tasks.errors import BuildFailed, GateBlocked
from tasks.image.context import Context
from tasks.image.engine import COLD_START_LABEL, CONTRACT_LABEL, EXPORT_LABEL, NEEDS_LABEL, Engine, ImageInfo
from tasks.image.inventory import inventory_of
from tasks.image.libraries import locked_hashes
from tasks.image.runtimes import PYTHON, SERVED, Runtime, ensure_runtime, find_extras, find_runtime
from tasks.image.sbom import LICENCES_FILE, SBOM_FILE, bom, licences
from tasks.settings import Settings
from tasks.spec import ModelSpec
from tasks.store import Store
from tasks.workspace import scratch

#: Where the server looks for its package (`serving.__main__`).
_PACKAGE = "package"
_MODEL = "model"
_GOLDEN = "golden.npz"
_BUILD_LABEL = "io.slipway.build"
_SBOM_LABEL = "io.slipway.sbom"


def build(
    spec: ModelSpec,
    artifact: Artifact,
    export: Export,
    parity: ParityReport,
    store: Store,
    engine: Engine,
    settings: Settings,
) -> Image:
    """The image that serves `export`, built unless it is there already.

    Raises:
        GateBlocked: parity did not pass, or is not about this export.
        BuildFailed: the runtime's versions are not those of the export, or the engine failed.
        CorruptObject: the store's bytes are not the ones that their digests name.
        EngineUnavailable: the engine does not answer.
    """
    golden = _golden(export, parity)
    runtime, needed = find_runtime(export.runtime), extras(spec.preprocess)
    _check_versions(runtime, export)
    contract = _contract(spec, artifact, export, parity, golden, runtime)
    content = contract_bytes(contract)
    contract_digest, contract_size = store.put_stream(io.BytesIO(content))
    below = _existing(engine, ensure_runtime(export.runtime, engine, settings, needed))
    sbom, licence_list = _evidence_files(contract, runtime, below, engine, store)
    labels = _labels(spec, artifact, export, parity, contract_digest, contract.version, below)
    labels[_SBOM_LABEL] = sbom.digest
    identity = digest_of(labels)
    labels[_BUILD_LABEL] = identity
    reference = f"slipway/{spec.name}:{export.format}-{identity.removeprefix('sha256:')[:12]}"
    there = engine.find_image(reference)
    if there is None or there.labels.get(_BUILD_LABEL) != identity or there.layers[:-1] != below.layers:
        with scratch(settings.work) as work, tempfile.TemporaryFile(dir=work) as stream:
            layer = Context(stream)
            layer.add_bytes(f"{_PACKAGE}/{CONTRACT_FILE}", content)
            for file in (sbom, licence_list):
                layer.add_stored(f"{_PACKAGE}/{file.path}", file, store)
            layer.add_stored(f"{_PACKAGE}/{_GOLDEN}", golden, store)
            for file in export.files.files:
                layer.add_stored(f"{_PACKAGE}/{_MODEL}/{file.path}", file, store)
            for file in artifact.preprocess.files if artifact.preprocess else ():
                layer.add_stored(f"{_PACKAGE}/{PREPROCESS_FOLDER}/{file.path}", file, store)
            there = engine.add_layer(below, layer.finish(), reference, labels)
    return Image(
        format=export.format,
        runtime=export.runtime,
        reference=reference,
        digest=there.id,
        contract_digest=contract_digest,
        contract=PackagedFile(CONTRACT_FILE, contract_digest, contract_size),
        size_bytes=there.size_bytes,
        model_bytes=there.size_bytes - below.size_bytes,
        layers=there.layers,
        labels=dict(there.labels),
        sbom=sbom,
        licences=licence_list,
    )


def contract_bytes(contract: ServingContract) -> bytes:
    """`contract.json`: canonical, so that the same contract has the same digest everywhere."""
    plain = TypeAdapter(ServingContract).dump_python(contract, mode="json", exclude_none=True)
    return json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _golden(export: Export, parity: ParityReport) -> PackagedFile:
    if parity.verdict is not Verdict.PASSED:
        raise GateBlocked(f"the parity of {parity.format} is {parity.verdict}: no image is built from it")
    if parity.format != export.format or parity.export_digest != export.files.digest:
        raise GateBlocked(
            f"the parity report is about {parity.format} {parity.export_digest}, "
            f"the export is {export.format} {export.files.digest}: run parity on this export"
        )
    if parity.golden is None:
        raise GateBlocked(f"the parity of {parity.format} stored no golden samples, which every image carries")
    return parity.golden


def _evidence_files(
    contract: ServingContract, runtime: Runtime, below: ImageInfo, engine: Engine, store: Store
) -> tuple[PackagedFile, PackagedFile]:
    """The image's SBOM and its list of licences, in the store."""
    inventory = inventory_of(below.id, engine, store)
    locks = [runtime.lock, *(extra.lock for extra in find_extras(extras(contract.preprocess)))]
    hashes = {name: found for lock in locks for name, found in locked_hashes(lock).items()}

    def put(name: str, content: bytes) -> PackagedFile:
        digest, size = store.put_stream(io.BytesIO(content))
        return PackagedFile(name, digest, size)

    return put(SBOM_FILE, bom(contract, inventory, hashes)), put(LICENCES_FILE, licences(contract, inventory))


def _check_versions(runtime: Runtime, export: Export) -> None:
    """The runtime image has the versions that the export was made and proven with."""
    wrong = [
        f"{name} {export.versions[name]} (the {runtime.name} image has {version})"
        for name, version in runtime.versions.items()
        if export.versions.get(name, version) != version
    ]
    if wrong:
        raise BuildFailed(
            f"the {export.format} export was made with {', '.join(wrong)}: "
            "export again with the locked environment (`make setup`), or `make lock`"
        )


def _contract(
    spec: ModelSpec, artifact: Artifact, export: Export, parity: ParityReport, golden: PackagedFile, runtime: Runtime
) -> ServingContract:
    packaged = [replace(file, path=f"{_MODEL}/{file.path}") for file in export.files.files]
    if artifact.preprocess is not None:
        packaged += [replace(file, path=f"{PREPROCESS_FOLDER}/{file.path}") for file in artifact.preprocess.files]
    files = sorted([*packaged, replace(golden, path=_GOLDEN)], key=lambda file: file.path)
    recorded = spec.serving.prediction_log
    identity = digest_of(
        [
            artifact.files.digest,
            export.files.digest,
            artifact.model_dump(mode="json", include={"signature"}),
            spec.model_dump(mode="json", include={"preprocess"}),
            artifact.preprocess and artifact.preprocess.digest,
        ]
    )
    return ServingContract(
        name=spec.name,
        version=identity.removeprefix("sha256:")[:12],
        format=export.format,
        runtime=export.runtime,
        model=_MODEL if export.root == "." else f"{_MODEL}/{export.root}",
        files=tuple(files),
        signature=artifact.signature,
        preprocess=spec.preprocess,
        tolerances={output.name: output.tolerance for output in parity.outputs},
        golden=_GOLDEN,
        max_batch=spec.serving.max_batch,
        runtime_versions=runtime.versions
        | {name: version for extra in find_extras(extras(spec.preprocess)) for name, version in extra.versions.items()},
        batching=spec.serving.batching,
        p99_ms=spec.serving.p99_ms,
        prediction_log=None if recorded is None else PredictionLog(**recorded.model_dump()),
        needs=Needs(SERVED.machine, PYTHON, export.needs, memory_bytes=export.files.size_bytes),
    )


def _labels(
    spec: ModelSpec,
    artifact: Artifact,
    export: Export,
    parity: ParityReport,
    contract: Digest,
    version: str,
    below: ImageInfo,
) -> dict[str, str]:
    """OCI annotations (image-spec, annotations.md) and Slipway's own; no time of day, so that inputs decide them."""
    return {
        "org.opencontainers.image.title": spec.name,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.authors": spec.owner,
        "org.opencontainers.image.description": f"{spec.name} as {export.format}, served by Slipway",
        "org.opencontainers.image.base.name": next(iter(below.tags), ""),
        "org.opencontainers.image.base.digest": below.id,
        "io.slipway.format": export.format,
        CONTRACT_LABEL: contract,
        "io.slipway.artifact": artifact.files.digest,
        EXPORT_LABEL: export.files.digest,
        COLD_START_LABEL: f"{spec.serving.cold_start_s:g}",
        "io.slipway.parity": digest_of(parity),
        **({"io.slipway.source-run": artifact.source_run} if artifact.source_run else {}),
        **({NEEDS_LABEL: " ".join(export.needs)} if export.needs else {}),
    }


def _existing(engine: Engine, image: str) -> ImageInfo:
    found = engine.find_image(image)
    if found is None:
        raise BuildFailed(f"the runtime image {image} is gone: something removes images on this engine")
    return found
