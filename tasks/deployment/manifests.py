"""What `slipway manifests` does: a package → a folder of manifests, whole and valid, or not there at all.

kubernetes/deployment.yaml  service.yaml  horizontalpodautoscaler.yaml  poddisruptionbudget.yaml
compose.yaml                for one machine
placement.json              the matrix, the recommendation and why
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts import Image, Package
from tasks.deployment.compose import compose
from tasks.deployment.kubernetes import Scale, documents
from tasks.deployment.validation import check_compose, check_kubernetes
from tasks.deployment.workload import Workload, workload
from tasks.errors import BadInput, GateBlocked
from tasks.placement import HourlyPrice, Recommendation, matrix_of, recommend
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.host import THIS_MACHINE


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user chose. `reference` is the image in a registry, by digest; without one, compose alone is written."""

    out: Path
    reference: str | None
    scale: Scale
    require_features: bool = False


@dataclass(frozen=True, slots=True)
class Manifests:
    """What was written."""

    path: Path
    files: tuple[str, ...]
    workload: Workload
    recommendation: Recommendation


def write_manifests(
    package: Package,
    image: Image,
    asked: Asked,
    catalogue: Mapping[str, InstanceType],
    prices: Mapping[str, HourlyPrice],
    attestation: str | None,
) -> Manifests:
    """Write the manifests of `image` to `asked.out`, which must not be there yet; `attestation` is the envelope.

    Raises:
        BadInput: `out` is there already, has no folder to be in, or cannot be written.
        GateBlocked: nothing that a cluster's nodes can be is proven for the image's format, or the evidence was not
            signed.
        PlatformError: what would be written is not valid.
    """
    if asked.out.exists():
        raise BadInput(f"{asked.out} is already there: give a folder that is not")
    if not asked.out.absolute().parent.is_dir():
        raise BadInput(f"{asked.out}: there is no folder {asked.out.absolute().parent} to write into; make it first")
    with _answering(asked.out):
        tempfile.TemporaryFile(dir=asked.out.absolute().parent).close()
    if attestation is None:
        raise GateBlocked(
            f"{package.name} {package.digest} has no signed evidence in the store, which manifests name: "
            "run the same `slipway package` again, which reuses every stage and signs it"
        )
    matrix = matrix_of(package, prices)
    recommendation = recommend(matrix)
    # An image without a registry is started by its own digest, which only the engine that has it knows.
    work = workload(package, image, asked.reference or image.digest, matrix, recommendation, catalogue, attestation)
    files: dict[str, str] = {}
    if asked.reference is not None:
        if not work.node_types:
            raise GateBlocked(
                f"{matrix.name} as {work.format} is proven on {THIS_MACHINE} alone, which is where smoke ran, and no "
                "node's instance type: name your nodes' types in smoke.instance_types and package again, or take "
                "--compose-only for this machine"
            )
        for name, document in documents(work, asked.scale, require_features=asked.require_features).items():
            check_kubernetes(document)
            files[f"kubernetes/{name}.yaml"] = _yaml(document, work)
    composed = compose(work)
    check_compose(composed)
    files["compose.yaml"] = _yaml(composed, work)
    placement = {"matrix": matrix.model_dump(mode="json"), "recommendation": recommendation.model_dump(mode="json")}
    files["placement.json"] = json.dumps(placement, indent=2, ensure_ascii=False) + "\n"
    _write(files, asked.out)
    return Manifests(asked.out, tuple(files), work, recommendation)


def _write(files: Mapping[str, str], out: Path) -> None:
    """All of them beside the destination, then renamed."""
    with _answering(out):
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
        try:
            aside.chmod(0o755)
            for name, text in files.items():
                path = aside / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
            aside.rename(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _answering(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror or error}") from error


def _yaml(document: dict[str, Any], work: Workload) -> str:
    from ruamel.yaml import YAML

    yaml, out = YAML(), io.StringIO()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(document, out)
    own = THIS_MACHINE in work.instance_types
    return (
        f"# {work.name} as {work.format}, written by `slipway manifests`. Package and evidence: see its annotations.\n"
        "# It names the instance types that smoke proved, and no other: write it again after the next package.\n"
        + (f"# {THIS_MACHINE}, where smoke ran, was proven too; no node is chosen by it.\n" if own else "")
        + out.getvalue()
    )
