"""This host's own processor with some of its features hidden, for an image's own self-test.

In: features by the kernel's names. Out: a `Mask`, which puts a tool before a container's program: `cpumask.c`, a static
binary that is compiled here once, mounted read-only; the image is not changed. Programs then choose their code as on a
processor without those features, and it runs natively. An instruction that is used without asking for it still runs:
what a mask proves is answers, not that nothing is illegal.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.settings import Settings

if TYPE_CHECKING:  # the catalogue is read where no container is started
    from tasks.image.engine import ContainerSpec

#: What /proc/cpuinfo says where processor and kernel can make CPUID trap (arch_prctl(2), ARCH_SET_CPUID).
TRAPS = "cpuid_fault"

_SOURCE = Path(__file__).with_name("cpumask.c")
_IN_IMAGE = "/slipway-cpumask"
#: The tool's exit code where it cannot do its work; no refusal of a server has it.
CANNOT = 125

#: Extension → where CPUID tells it: leaf, subleaf, register, bit (Linux, arch/x86/include/asm/cpufeatures.h; leaf 7 and
#: 0x80000001 are words of its own there). Whoever lacks the tiles of AMX has no state of them either (leaf 13).
_BITS = {
    "avx512ifma": ("7.0.b.21",),
    "avx512pf": ("7.0.b.26",),
    "avx512er": ("7.0.b.27",),
    "avx512vbmi": ("7.0.c.1",),
    "avx512_vbmi2": ("7.0.c.6",),
    "gfni": ("7.0.c.8",),
    "vaes": ("7.0.c.9",),
    "vpclmulqdq": ("7.0.c.10",),
    "avx512_vnni": ("7.0.c.11",),
    "avx512_bitalg": ("7.0.c.12",),
    "avx512_vpopcntdq": ("7.0.c.14",),
    "avx512_4vnniw": ("7.0.d.2",),
    "avx512_4fmaps": ("7.0.d.3",),
    "avx512_vp2intersect": ("7.0.d.8",),
    "amx_bf16": ("7.0.d.22",),
    "avx512_fp16": ("7.0.d.23",),
    "amx_tile": ("7.0.d.24", "13.0.a.17", "13.0.a.18"),
    "amx_int8": ("7.0.d.25",),
    "avx_vnni": ("7.1.a.4",),
    "avx512_bf16": ("7.1.a.5",),
    "amx_fp16": ("7.1.a.21",),
    "avx_ifma": ("7.1.a.23",),
    "avx_vnni_int8": ("7.1.d.4",),
    "avx_ne_convert": ("7.1.d.5",),
    "xop": (f"{0x80000001}.0.c.11",),
    "fma4": (f"{0x80000001}.0.c.16",),
}

#: Features that can be hidden, by the kernel's names.
HIDEABLE = frozenset(_BITS)


@dataclass(frozen=True, slots=True)
class Mask:
    """The tool, and the features of this host that programs must not see."""

    path: Path
    hidden: tuple[str, ...]

    def before(self, container: ContainerSpec, *program: str) -> ContainerSpec:
        """`container` with `program` in the place of its own, run behind the mask."""
        bits = ",".join(bit for feature in self.hidden for bit in _BITS[feature])
        return replace(
            container, entrypoint=(_IN_IMAGE, bits), command=program, mounts={**container.mounts, self.path: _IN_IMAGE}
        )


def can_hide(features: Iterable[str]) -> bool:
    return HIDEABLE.issuperset(features)


@functools.cache
def tool() -> Path | None:
    """The compiled tool, made where it is not there yet; none where no compiler makes a static program of it."""
    folder = Settings.from_environment().home / "tools"
    source = _SOURCE.read_bytes()
    made = folder / f"cpumask-{hashlib.sha256(source).hexdigest()[:12]}"
    if made.exists():
        return made
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:  # two may come to it at once
            target = Path(aside) / "cpumask"
            command = [compiler, "-static", "-O2", "-o", str(target), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            target.chmod(0o755)
            target.rename(made)
    except (OSError, subprocess.SubprocessError):  # no libc.a, nowhere to write: then nothing is proven that way
        return None
    return made
