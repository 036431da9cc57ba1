"""A type of another architecture: its image's answers, under emulation; nothing else of it can be known here.

In: an image of this host's architecture and a type of another. Out: findings and proofs about the type's processors.
The package is put on that architecture's libraries (`tasks.image.variant`) and tests itself under QEMU's user mode.
Wrong answers and illegal instructions fail the type. Right ones prove the answers of those processors and leave the
type inconclusive: when it is ready, how fast it answers and in how much memory, emulation does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tasks.contracts import Finding, Image, Owner, ProcessorProof, Verdict
from tasks.errors import BuildFailed
from tasks.image.engine import ContainerSpec, Engine
from tasks.image.variant import NoVariant, variant
from tasks.settings import Settings
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.claims import instruction_set, processor
from tasks.smoke.emulation import Emulator, under
from tasks.smoke.host import Host
from tasks.smoke.instruction_set import plan
from tasks.smoke.observation import InstructionSet, Proof
from tasks.smoke.run import COMPONENT, Effort, container_name
from tasks.store import Store

#: What a finding can hold of an installer's last lines.
_REASON = 300


@dataclass(frozen=True, slots=True)
class Foreign:
    """What was found out about a type of another architecture; the worst finding comes first."""

    findings: tuple[Finding, ...]
    processors: tuple[ProcessorProof, ...]


def try_answers(
    image: Image,
    kind: InstanceType,
    host: Host,
    effort: Effort,
    store: Store,
    engine: Engine,
    settings: Settings,
    work: Path,
) -> Foreign:
    """Let the package test itself under each of the type's processors that can be emulated.

    Raises:
        CorruptObject: the store's bytes are not the ones that their digests name.
        EngineUnavailable: the engine does not answer.
    """
    planned = plan(kind, host)
    if any(tried.proof is Proof.EMULATED for tried in planned):
        try:
            made = variant(image, kind.architecture, store, engine, settings).id
        except (NoVariant, BuildFailed) as error:
            why = f"no image was made for {kind.architecture}: {' '.join(str(error).split())[-_REASON:]}"
            planned = tuple(replace(tried, proof=Proof.UNPROVEN, reason=why) for tried in planned)
        else:
            nothing = work / "nothing"
            nothing.mkdir(parents=True, exist_ok=True)
            planned = tuple(_tried(tried, made, kind, host, effort, engine, nothing) for tried in planned)
    return judge_foreign(planned, kind, host)


def judge_foreign(tried: tuple[InstructionSet, ...], kind: InstanceType, host: Host) -> Foreign:
    """From how each processor was tried to findings: what failed, and that the type is not proven."""
    failed = [finding for one in tried for finding in instruction_set(one) if finding.verdict is Verdict.FAILED]
    processors = tuple(processor(one, right_here=False) for one in tried)
    return Foreign((*failed, _unproven(tried, processors, kind, host)), processors)


def _tried(
    planned: InstructionSet, made: str, kind: InstanceType, host: Host, effort: Effort, engine: Engine, nothing: Path
) -> InstructionSet:
    model = next(cpu.emulation for cpu in kind.cpus if cpu.name == planned.cpu)
    emulator = host.others.get(kind.architecture)
    if model is None or emulator is None:
        return planned
    spec = ContainerSpec(image=made, name=f"{container_name(made, kind)}-emulated", component=COMPONENT)
    return under(planned, Emulator(emulator, model, nothing), spec, engine, effort.emulation_within_s)


def _unproven(
    tried: tuple[InstructionSet, ...], processors: tuple[ProcessorProof, ...], kind: InstanceType, host: Host
) -> Finding:
    right = [proof.cpu for proof in processors if proof.verdict is Verdict.PASSED]
    said = [f"{kind.name} is {kind.architecture}, this host and the image are {host.architecture}"]
    if right:
        said.append(
            f"made for {kind.architecture}, the package gives every golden answer under an emulated "
            f"{' and '.join(right)}; how fast and in how much memory, emulation does not tell"
        )
    untried = [finding for one in tried for finding in instruction_set(one) if finding.verdict is Verdict.INCONCLUSIVE]
    said += [finding.message for finding in untried]
    return Finding(
        code="SMOKE_ARCHITECTURE_UNPROVEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message="; ".join(said),
        advice=f"build and smoke the image on a {kind.architecture} machine, "
        "or take the type out of smoke.instance_types",
        evidence={"architecture": kind.architecture, "host": host.architecture, "answers_proven": " ".join(right)},
    )
