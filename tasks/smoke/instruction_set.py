"""Which of a type's CPU generations this host can prove, and how.

Four ways, decided by comparing features that numerical libraries dispatch on:

    native      this host has exactly the generation's features: what runs here runs there
    emulated    QEMU's user mode executes the generation's instruction set (everything below AVX-512, Arm below SVE)
    masked      this host, of the same maker, has them all and more, and hides the rest from programs (AVX-512)
    unproven    neither: with more features than the generation, an instruction that it lacks would not show here;
                with fewer, the code that it would choose was never run
"""

from __future__ import annotations

from dataclasses import replace

from tasks.smoke.hardware import CpuGeneration, InstanceType
from tasks.smoke.host import EMULATOR, EMULATORS, VOCABULARY, Host
from tasks.smoke.masking import TRAPS, can_hide
from tasks.smoke.observation import InstructionSet, Proof


def plan(kind: InstanceType, host: Host) -> tuple[InstructionSet, ...]:
    """How each distinct instruction set of a type is to be tried on this host; the type's order."""
    chosen: dict[tuple[object, ...], InstructionSet] = {}
    for cpu in kind.cpus:
        chosen.setdefault((cpu.vendor, cpu.level, cpu.features), replace(_choose(cpu, host), level=cpu.level))
    return tuple(chosen.values())


def times_count(kind: InstanceType, host: Host) -> bool:
    """Whether times that are taken here say something of the type: not where all its processors are older ones, which
    only an emulator could stand for. One with AVX-512 of another kind is near enough to be timed, if not to be proven.
    """
    return any(cpu.emulation is None or _choose(cpu, host).proof is Proof.NATIVE for cpu in kind.cpus)


def _choose(cpu: CpuGeneration, host: Host) -> InstructionSet:
    if cpu.architecture != host.architecture:
        return _choose_foreign(cpu, host)
    theirs, ours = VOCABULARY & set(cpu.features), VOCABULARY & host.features
    missing, surplus = tuple(sorted(theirs - ours)), tuple(sorted(ours - theirs))
    if not missing and not surplus:
        return InstructionSet(cpu.name, Proof.NATIVE)
    compared = InstructionSet(cpu.name, Proof.UNPROVEN, missing=missing, surplus=surplus)
    if cpu.emulation:  # before a mask: an emulator also stops at what is used without asking
        return (
            replace(compared, proof=Proof.EMULATED)
            if host.emulator
            else replace(compared, reason=f"{EMULATOR} is not installed")
        )
    if missing:
        return replace(compared, reason=f"this host has no {', '.join(missing)}")
    cannot_hide = _why_not_masked(cpu, surplus, host)
    if cannot_hide is None:
        return replace(compared, proof=Proof.MASKED)
    also = f"this host also has {', '.join(surplus)}, whose use would not show here"
    return replace(compared, reason=f"{also}, and {cannot_hide}")


def _why_not_masked(cpu: CpuGeneration, surplus: tuple[str, ...], host: Host) -> str | None:
    """Why what this host has more than the processor cannot be hidden from programs; none where it can."""
    if cpu.vendor != host.vendor:
        return f"is of another maker than {cpu.name}, by which libraries choose their code too"
    if TRAPS not in host.features or not can_hide(surplus):
        return f"cannot hide it (no {TRAPS} in /proc/cpuinfo)"
    return None if host.cpumask else "the tool that hides it could not be compiled: install Debian's g++"


def _choose_foreign(cpu: CpuGeneration, host: Host) -> InstructionSet:
    """Of another architecture there is nothing here to compare with: emulated exactly, or not at all."""
    if cpu.emulation is None:
        return InstructionSet(cpu.name, Proof.UNPROVEN, reason="no emulated processor has exactly its instruction set")
    if cpu.architecture not in host.others:
        tool = EMULATORS.get(cpu.architecture, f"an emulator of {cpu.architecture}")
        return InstructionSet(cpu.name, Proof.UNPROVEN, reason=f"{tool} is not installed")
    return InstructionSet(cpu.name, Proof.EMULATED)
