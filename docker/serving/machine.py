"""What the machine offers that the server starts on: processor, memory, Python, a GPU's driver.

In: /proc and the control group. Out: a `Machine`, which `serving.package` holds a contract's `Needs` against. What the
kernel does not say is `None`: nothing is refused for what is not known.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from serving.contract import Needs

#: A mebibyte, which limits are given in, and what is too small for it.
_MIB, _KIB = 2**20, 2**10


@dataclass(frozen=True, slots=True)
class Machine:
    """One container's machine.

    `instructions` are the kernel's names of what the processor executes. `memory_bytes` is what the container
    may use, `held_bytes` what this process holds of it already and cannot give back (anonymous memory). `nvidia_driver`
    is the version of the driver whose GPUs the container was given; None where it was given none.
    """

    architecture: str
    python: str
    instructions: frozenset[str] | None
    memory_bytes: int | None
    held_bytes: int = 0
    nvidia_driver: str | None = None

    @classmethod
    def this(cls, root: Path = Path("/")) -> Machine:
        """Read this container's; `root` is where /proc and /sys are."""
        return cls(
            architecture=os.uname().machine,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            instructions=_instructions(root / "proc/cpuinfo"),
            memory_bytes=memory_limit(root),
            held_bytes=_kib(root / "proc/self/status", "RssAnon") or 0,
            nvidia_driver=_nvidia_driver(root),
        )

    def is_another_platform(self, needs: Needs) -> str | None:
        """A sentence where the architecture or Python is not the one that is needed."""
        for what, needed, found in (
            ("a processor of architecture", needs.architecture, self.architecture),
            ("Python", needs.python, self.python),
        ):
            if needed and needed != found:
                return f"the package is for {what} {needed}, this is {found}: run the image that was built for {found}"
        return None

    def lacks_gpu(self, needs: Needs) -> str | None:
        """A sentence where the package computes on a GPU, and there is none here or its driver is too old."""
        if needs.gpu is None:
            return None
        if self.nvidia_driver is None:
            return (
                f"the package computes with CUDA {needs.gpu.cuda}, and this container has no NVIDIA GPU: give it one "
                "(docker run --gpus, or nvidia.com/gpu in its limits), or serve a format that computes on the CPU"
            )
        if _numbers(self.nvidia_driver) < _numbers(needs.gpu.driver):
            return (
                f"CUDA {needs.gpu.cuda} needs NVIDIA's driver {needs.gpu.driver} or newer, this machine has "
                f"{self.nvidia_driver}: update the node's driver, or build the image with an older CUDA"
            )
        return None

    def lacks_instructions(self, needs: Needs) -> str | None:
        """A sentence where a processor here does not execute what the model's code holds."""
        if self.instructions is None:
            return None
        lacking = [name for name in needs.instructions if name not in self.instructions]
        if not lacking:
            return None
        return (
            f"the compiled model holds {', '.join(lacking)} instructions, which this processor does not execute: run "
            "it on an instance type that smoke proved it on, or serve a format that is not compiled"
        )

    def lacks_memory(self, needs: Needs) -> str | None:
        """A sentence where the weights alone, beside what is held already, are more than the container may use."""
        if self.memory_bytes is None or needs.memory_bytes + self.held_bytes <= self.memory_bytes:
            return None
        return (
            f"the model's weights take at least {mib(needs.memory_bytes)} beside the {mib(self.held_bytes)} that the "
            f"server holds already, and the container may use {mib(self.memory_bytes)}: raise its memory limit, or "
            "serve a smaller format"
        )


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that this container may hold: its control group's limit, and never more than the machine has.

    Cgroup v2 says `memory.max` ("max" for none), v1 `memory.limit_in_bytes` and, with what the groups above allow,
    `hierarchical_memory_limit`; see the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    Swap is left out: weights that are read from disk at every request are not served.
    """
    cgroup = root / "sys/fs/cgroup"
    limits = [
        int(text)
        for path in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes")
        if (text := _read(path).strip()).isdigit()
    ]
    for line in _read(cgroup / "memory" / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "hierarchical_memory_limit":
            limits.append(int(value))
    if (there := _kib(root / "proc/meminfo", "MemTotal")) is not None:
        limits.append(there)
    return min(limits, default=None)


def _instructions(path: Path) -> frozenset[str] | None:
    """The first processor's flags; `None` where the kernel lists none.

    Not everybody's: the kernel makes up the text while it is read, which takes milliseconds on a large machine.
    """
    try:
        with path.open() as lines:
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return None


def _nvidia_driver(root: Path) -> str | None:
    """The version of NVIDIA's kernel module, where the container has its control device.

    /proc/driver/nvidia/version says `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun …`, also in a
    container that was given no GPU; the device is there only in one that was.
    """
    if not (root / "dev/nvidiactl").exists():
        return None
    found = re.search(r"\s([0-9]+\.[0-9.]+)\s", _read(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall("[0-9]+", version)))


def _kib(path: Path, name: str) -> int | None:
    """A figure in bytes, of a file that the kernel writes as `Name:   123 kB`."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None


def _read(path: Path) -> str:
    """The file's text; none where it is not there or may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def mib(size_bytes: int) -> str:
    """For people; what a tenth of a MiB would round to nothing is said in KiB, rounded up."""
    if size_bytes < _MIB / 10:
        return f"{-(-size_bytes // _KIB)} KiB"
    mebibytes = size_bytes / _MIB
    return f"{mebibytes:,.0f} MiB" if mebibytes >= 10 else f"{mebibytes:.1f} MiB"
