"""Whether a catalogue's processor can be as it is written: its features, and the emulator that stands for it. Pure.

In: what an entry says. Out: every mistake in it, in words. What would be proven of a processor that cannot be is worth
nothing: a feature that nobody knows is compared with nothing, and an emulated model that has other features than the
generation proves another processor.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tasks.smoke.hardware import LEVELS, Architecture, Vendor
from tasks.smoke.host import VOCABULARY

#: The features by which processors are told apart, by the kernel's names. Arm's levels guarantee none by themselves.
KNOWN: Mapping[Architecture, frozenset[str]] = {
    "amd64": VOCABULARY,
    "arm64": frozenset({"asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2"}),
}

_VENDORS: Mapping[Architecture, tuple[Vendor, ...]] = {"amd64": ("intel", "amd"), "arm64": ("arm",)}


@dataclass(frozen=True, slots=True)
class _Model:
    """A processor of QEMU's user mode: the one that it stands for, and nothing more or less."""

    architecture: Architecture
    vendor: Vendor
    level: str
    more: frozenset[str] = frozenset()  # beyond the level


#: What `-cpu` of QEMU 7.2's user mode gives (target/i386/cpu.c, target/arm/cpu64.c), as CPUID answers under it: no
#: AVX-512 and no AMX under any model. EPYC-Milan's `vaes` and `vpclmulqdq` are Zen 3's own, and QEMU 7.2 leaves them
#: out: wide AES and carry-less multiplication, by which numerical libraries do not choose their arithmetic.
_MODELS = {
    "SandyBridge": _Model("amd64", "intel", "x86-64-v2", frozenset({"avx", "xsave"})),
    "IvyBridge": _Model("amd64", "intel", "x86-64-v2", frozenset({"avx", "f16c", "xsave"})),
    "Haswell": _Model("amd64", "intel", "x86-64-v3"),
    "Broadwell": _Model("amd64", "intel", "x86-64-v3"),
    "EPYC": _Model("amd64", "amd", "x86-64-v3"),
    "EPYC-Rome": _Model("amd64", "amd", "x86-64-v3"),
    "EPYC-Milan": _Model("amd64", "amd", "x86-64-v3", frozenset({"vaes", "vpclmulqdq"})),
    "cortex-a72": _Model("arm64", "arm", "armv8-a"),
    "neoverse-n1": _Model("arm64", "arm", "armv8.2-a", frozenset({"asimddp", "asimdhp"})),
}


def mistakes(
    vendor: Vendor, architecture: Architecture, level: str, features: Iterable[str], emulation: str | None
) -> Iterator[str]:
    """What cannot be of such a processor, each in words; nothing where it holds."""
    if level not in LEVELS:
        yield f"level {level!r} is none of {', '.join(LEVELS)}"
    elif level.startswith("x86-64") != (architecture == "amd64"):
        yield f"level {level} is not one of {architecture}"
    if vendor not in _VENDORS[architecture]:
        yield f"vendor {vendor} makes none of {architecture}: expected {' or '.join(_VENDORS[architecture])}"
    unknown = [name for name in features if name not in KNOWN[architecture]]
    yield from (_unknown(name, architecture) for name in unknown)
    if emulation is not None and level in LEVELS:
        known = LEVELS[level].union(features).difference(unknown)
        yield from _emulated(emulation, architecture, vendor, level, known)


def _unknown(name: str, architecture: Architecture) -> str:
    elsewhere = [other for other, known in KNOWN.items() if name in known]
    if elsewhere:
        return f"feature {name!r} is one of {elsewhere[0]}, and the processor is of {architecture}"
    near = difflib.get_close_matches(name, KNOWN[architecture], n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(KNOWN[architecture]))}"
    return f"no feature {name!r} is known: {hint}"


def _emulated(
    name: str, architecture: Architecture, vendor: Vendor, level: str, features: frozenset[str]
) -> Iterator[str]:
    model = _MODELS.get(name)
    if model is None or model.architecture != architecture:
        known = ", ".join(each for each, of in _MODELS.items() if of.architecture == architecture)
        yield f"emulation {name!r} is none of the models whose features are known ({known}): leave it out"
        return
    if model.vendor != vendor:
        yield f"emulation {name} is of {model.vendor}, and the processor of {vendor}: libraries choose by the maker too"
    has = LEVELS[model.level] | model.more
    if beyond := sorted(features - has):
        yield f"emulation {name} does not execute {', '.join(beyond)}: leave emulation out, or those features"
    if surplus := sorted(has - features):
        yield f"emulation {name} also has {', '.join(surplus)}, whose use would not show: leave emulation out"
    elif not beyond and model.level != level:
        yield f"emulation {name} is {model.level}, and the processor {level}: leave emulation out"
