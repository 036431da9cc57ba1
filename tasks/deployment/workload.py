"""What is to be run, and on which nodes: every figure from evidence. Pure.

In: a package, the image that is meant, the proven cells of its format, and the catalogue. Out: a `Workload`, from
which manifests are written without another decision. One that nothing proves cannot be made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.contracts import Image, Package, digest_of
from tasks.deployment.node_features import labels
from tasks.errors import BadInput, GateBlocked
from tasks.image.engine import NEEDS_LABEL
from tasks.placement import Cell, Matrix, Recommendation
from tasks.smoke.catalogue import OWN_FILE_VARIABLE, InstanceType
from tasks.smoke.host import THIS_MACHINE

#: A quarter more than was needed under load: a bisected limit is the edge itself, smoke lasts minutes, and a server
#: that runs for weeks keeps what its allocators could not give back.
_MEMORY_HEADROOM = 1.25
_MIB = 2**20
#: Of a replica's vCPUs, four fifths are asked for: the rest is the kubelet's, the system's and the
#: daemon sets' on a node of that size, and a pod that asks for all of them is never scheduled. The limit is all.
_REQUESTED_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Workload:
    """One image, and everything that its manifests say. `node_types` are the `instance_types` that a cluster's nodes
    can be of: all but the machine that smoke ran on."""

    name: str
    format: str
    version: str
    image: str
    architectures: tuple[str, ...]
    instance_types: tuple[str, ...]
    node_types: tuple[str, ...]
    recommended_type: str | None
    node_labels: tuple[str, ...]
    cpu_request_millis: int
    cpu_limit_millis: int
    memory_bytes: int
    cold_start_s: float
    evidence: Mapping[str, str]


def workload(
    package: Package,
    image: Image,
    reference: str,
    matrix: Matrix,
    recommendation: Recommendation,
    catalogue: Mapping[str, InstanceType],
    attestation: str,
) -> Workload:
    """What the evidence allows for `image`, which is to be started by `reference`; `attestation` is the envelope.

    Raises:
        BadInput: a proven type is not in `catalogue`.
        GateBlocked: no instance type is proven for the image's format, or what it needs was not measured.
    """
    proven = matrix.proven(image.format)
    if not proven:
        raise GateBlocked(_nothing_proven(matrix, image.format))
    if unknown := sorted({cell.instance_type for cell in proven} - catalogue.keys()):
        raise BadInput(
            f"{', '.join(unknown)}: proven, but no longer in the catalogue, which says what its nodes are: "
            f"name the file that has it in {OWN_FILE_VARIABLE}"
        )
    kinds = [catalogue[cell.instance_type] for cell in proven if cell.instance_type != THIS_MACHINE]
    common = frozenset.intersection(*(kind.features for kind in kinds)) if kinds else frozenset()
    recommended = recommendation.instance_type if recommendation.format == image.format else None
    cpus = min(cell.tried_vcpus or 0.0 for cell in proven)
    return Workload(
        name=_resource_name(package.name),
        format=image.format,
        version=image.labels.get("org.opencontainers.image.version", "unknown"),
        image=reference,
        architectures=tuple(sorted({kind.architecture for kind in kinds})),
        instance_types=tuple(sorted(cell.instance_type for cell in proven)),
        node_types=tuple(sorted(kind.name for kind in kinds)),
        recommended_type=None if recommended == THIS_MACHINE else recommended,
        node_labels=labels(common.union(image.labels.get(NEEDS_LABEL, "").split())),
        cpu_request_millis=math.floor(min(_share_of_a_machine(cell) for cell in proven) * _REQUESTED_SHARE * 1000),
        cpu_limit_millis=math.floor(_measured(cpus, "vCPUs") * 1000),
        memory_bytes=_memory(proven),
        cold_start_s=max(_measured(_cold_start(cell), "cold start") for cell in proven),
        evidence={
            "io.slipway.package": package.digest,
            "io.slipway.evidence": digest_of(package),
            "io.slipway.attestation": _sha256(attestation),
            "io.slipway.image": image.digest,
            "io.slipway.format": image.format,
            "io.slipway.verdict": package.verdict.value,
            "io.slipway.memory": _memory_basis(proven),
        },
    )


def _resource_name(name: str) -> str:
    """A Service's name begins with a letter (RFC 1035), which a model's need not."""
    return name if name[0].isalpha() else f"model-{name}"[:63].rstrip("-")


def _nothing_proven(matrix: Matrix, name: str) -> str:
    """One sentence: what is proven nowhere, and the first reason of each type."""
    cells = [cell for cell in matrix.cells if cell.format == name and not cell.is_proven]
    why = "; ".join(f"{cell.instance_type} is {cell.verdict} ({cell.reasons[0].code})" for cell in cells)
    return f"{matrix.name} as {name} is proven on no instance type, so there is nowhere to schedule it: {why or 'none'}"


def _share_of_a_machine(cell: Cell) -> float:
    """The vCPUs of one replica: those that the figures hold for, or its share where several were found to fit."""
    tried = cell.tried_vcpus or 0.0
    return tried if cell.replicas == 1 else min(tried, (cell.vcpus or 0.0) / cell.replicas)


def _memory(proven: tuple[Cell, ...]) -> int:
    """The limit: the most that any proven type needed and a quarter, in whole MiB, within the smallest type."""
    needed = max(_measured(cell.needed_bytes, "memory under load") for cell in proven)
    room = min(cell.memory_bytes or 0 for cell in proven)
    return min(math.ceil(needed * _MEMORY_HEADROOM / _MIB) * _MIB, room)


def _memory_basis(proven: tuple[Cell, ...]) -> str:
    """What the limit rests on: containers that lived within that much, or only the most that one was seen to use."""
    bisected = all(cell.capacity and cell.capacity.smallest_memory_bytes for cell in proven)
    return "bisected" if bisected else "peak"


def _cold_start(cell: Cell) -> float | None:
    return cell.figures.cold_start_s if cell.figures else None


def _measured(value: float | None, what: str) -> float:
    if not value:
        raise GateBlocked(f"smoke measured no {what}, which manifests are written from: run it again with --fresh")
    return value


def _sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
