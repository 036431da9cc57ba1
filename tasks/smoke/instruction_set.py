"""Which of a type's CPU generations this host can prove, and how.

Three ways, decided by comparing features that numerical libraries dispatch on:

    native      this host has exactly the generation's features: what runs here runs there
    emulated    QEMU's user mode executes the generation's instruction set (everything below AVX-512, Arm below SVE)
    unproven    neither: with more features than the generation, an instruction that it lacks would not show here;
                with fewer, the code that it would choose was never run
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tasks.contracts import Digest, digest_of
from tasks.smoke.catalogue import LEVELS, CpuGeneration, InstanceType
from tasks.smoke.observation import InstructionSet, Proof

#: Vector and matrix extensions beyond the levels, by the kernel's names; other flags of a processor do not matter.
_EXTENSIONS = frozenset(
    {
        *("amx_bf16", "amx_fp16", "amx_int8", "amx_tile"),
        *("avx512_4fmaps", "avx512_4vnniw", "avx512_bf16", "avx512_bitalg", "avx512_fp16", "avx512_vbmi2"),
        *("avx512_vnni", "avx512_vp2intersect", "avx512_vpopcntdq", "avx512er", "avx512ifma", "avx512pf"),
        *("avx512vbmi", "avx_ifma", "avx_ne_convert", "avx_vnni", "avx_vnni_int8"),
        *("fma4", "gfni", "vaes", "vpclmulqdq", "xop"),
    }
)

#: Features by which processors are told apart here, by the kernel's names.
VOCABULARY = _EXTENSIONS.union(*LEVELS.values())

#: Debian's names for the emulators; static binaries, so that they run inside any image.
EMULATORS = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}
EMULATOR = EMULATORS["amd64"]


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that smoke runs on. `emulator` is for older processors of x86-64, `others` by architecture for
    processors of those that are not its own."""

    vcpus: int
    memory_bytes: int
    architecture: str
    features: frozenset[str]
    emulator: Path | None
    others: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def this(cls) -> Host:
        """Read /proc and look for the emulator."""
        machine = platform.machine().lower()
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
        found = {name: Path(path).resolve() for name, tool in EMULATORS.items() if (path := shutil.which(tool))}
        return cls(
            vcpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            architecture=architecture,
            features=_cpu_flags(Path("/proc/cpuinfo")),
            emulator=found.get("amd64"),
            others={name: path for name, path in found.items() if name != architecture},
        )

    @property
    def identity(self) -> Digest:
        """What a report's claims depend on: evidence from another machine is not taken for this one's."""
        vector = sorted(VOCABULARY & self.features)
        machine = [self.vcpus, self.memory_bytes >> 30, self.architecture, vector]
        return digest_of([*machine, self.emulator is not None, sorted(self.others)])


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
    if cpu.emulation and host.emulator:
        return InstructionSet(cpu.name, Proof.EMULATED, missing=missing, surplus=surplus)
    reasons = []
    if cpu.emulation:
        reasons.append(f"{EMULATOR} is not installed")
    if missing:
        reasons.append(f"this host has no {', '.join(missing)}")
    if surplus:
        reasons.append(f"this host also has {', '.join(surplus)}, whose use would not show here")
    return InstructionSet(cpu.name, Proof.UNPROVEN, reason="; ".join(reasons), missing=missing, surplus=surplus)


def _choose_foreign(cpu: CpuGeneration, host: Host) -> InstructionSet:
    """Of another architecture there is nothing here to compare with: emulated exactly, or not at all."""
    if cpu.emulation is None:
        return InstructionSet(cpu.name, Proof.UNPROVEN, reason="no emulated processor has exactly its instruction set")
    if cpu.architecture not in host.others:
        tool = EMULATORS.get(cpu.architecture, f"an emulator of {cpu.architecture}")
        return InstructionSet(cpu.name, Proof.UNPROVEN, reason=f"{tool} is not installed")
    return InstructionSet(cpu.name, Proof.EMULATED)


def _cpu_flags(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()  # nothing is known, so nothing is proven natively
    listed = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(set.intersection(*listed)) if listed else frozenset()
