"""The machine that smoke runs on: its processors' features, and what it has to stand for others.

In: /proc, and the tools that lie in PATH. Out: a `Host`, whose `identity` evidence is remembered by; and the facts of
this machine as an instance type (`this_machine`), for those who serve on their own.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.contracts import Digest, digest_of
from tasks.smoke import masking
from tasks.smoke.hardware import LEVELS, Architecture, CpuGeneration, InstanceType, Source, Vendor

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

#: The instance type that is this machine, whichever it is. The catalogue has it beside those that can be rented.
THIS_MACHINE = "this-machine"

_VENDORS: Mapping[str, Vendor] = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
_SOURCE = Source(
    title="this machine: proc(5), /proc/cpuinfo", url="https://man7.org/linux/man-pages/man5/proc_cpuinfo.5.html"
)


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that smoke runs on. `emulator` is for older processors of x86-64, `others` by architecture for
    processors of those that are not its own; `cpumask` hides features of its own (`tasks.smoke.masking`)."""

    vcpus: int
    memory_bytes: int
    architecture: str
    features: frozenset[str]
    emulator: Path | None
    others: Mapping[str, Path] = field(default_factory=dict)
    vendor: Vendor = "other"
    cpumask: Path | None = None

    @classmethod
    def this(cls) -> Host:
        """Read /proc, look for the emulators, and make the tool that hides features where that can work."""
        architecture, features = _architecture(), _features()
        found = {name: Path(path).resolve() for name, tool in EMULATORS.items() if (path := shutil.which(tool))}
        return cls(
            vcpus=_vcpus(),
            memory_bytes=_memory_bytes(),
            architecture=architecture,
            features=features,
            emulator=found.get("amd64"),
            others={name: path for name, path in found.items() if name != architecture},
            vendor=_vendor(architecture),
            cpumask=masking.tool() if masking.TRAPS in features else None,
        )

    @property
    def identity(self) -> Digest:
        """What a report's claims depend on: evidence from another machine is not taken for this one's."""
        vector = sorted(VOCABULARY & self.features)
        machine = [self.vcpus, self.memory_bytes >> 30, self.architecture, self.vendor, vector]
        return digest_of([*machine, self.emulator is not None, sorted(self.others), self.cpumask is not None])


def this_machine() -> InstanceType:
    """This machine as an instance type: all its CPUs and memory, and exactly its features."""
    architecture, features = _architecture(), VOCABULARY & _features()
    known = [name for name in LEVELS if name.startswith("x86-64") == (architecture == "amd64")]
    reached = [name for name in known if LEVELS[name] <= features]
    return InstanceType(
        name=THIS_MACHINE,
        provider="local",
        vcpus=_vcpus(),
        memory_bytes=_memory_bytes(),
        cpus=(
            CpuGeneration(
                name="this-processor",
                vendor=_vendor(architecture),
                architecture=architecture,
                # Of Arm's, which guarantee no features here, no more is claimed than the lowest.
                level=reached[-1] if reached and architecture == "amd64" else known[0],
                features=tuple(sorted(features)),
                emulation=None,
                sources=(_SOURCE,),
            ),
        ),
        sources=(_SOURCE,),
    )


def _vcpus() -> int:
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _architecture() -> Architecture:
    return "arm64" if platform.machine().lower() in {"aarch64", "arm64"} else "amd64"


def _vendor(architecture: Architecture) -> Vendor:
    named = {line.partition(":")[2].strip() for line in _lines("vendor_id")}
    return "arm" if architecture == "arm64" else _VENDORS.get(min(named, default=""), "other")


def _features() -> frozenset[str]:
    """What all of the machine's processors have; nothing where that cannot be read, so nothing is proven natively."""
    listed = [set(line.partition(":")[2].split()) for line in (*_lines("flags"), *_lines("Features"))]
    return frozenset(set.intersection(*listed)) if listed else frozenset()


def _lines(key: str) -> list[str]:
    return [line for line in _cpuinfo().splitlines() if line.partition(":")[0].strip() == key]


@functools.cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
