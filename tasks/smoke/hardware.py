"""What an instance type has: processors, accelerators, memory, and a price where the user gave one.

Frozen contracts, made by `tasks.smoke.catalogue` from its files. A provider may start one type on several CPU
generations; a type is only as good as the weakest of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.contracts import Contract

_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}

#: Level → the features it guarantees, by the kernel's names. x86-64: psABI, "Micro-Architecture Levels".
LEVELS: Mapping[str, frozenset[str]] = {
    "x86-64-v2": _V2,
    "x86-64-v3": _V3,
    "x86-64-v4": _V4,
    "armv8-a": frozenset(),
    "armv8.2-a": frozenset(),
    "armv8.4-a": frozenset(),
    "armv9-a": frozenset(),
}

Architecture = Literal["amd64", "arm64"]
Vendor = Literal["intel", "amd", "arm", "other"]

#: A driver's or a library's version: numbers with dots between.
VERSION_PATTERN = r"^[0-9]+(\.[0-9]+)*$"


class Source(Contract):
    """Where a fact is from."""

    title: str = Field(min_length=1)
    url: str = Field(pattern=r"^https?://")


class CpuGeneration(Contract):
    """One generation of processors, as far as programs can tell: its instruction set."""

    name: str
    vendor: Vendor
    architecture: Architecture
    level: str = Field(description="an entry of LEVELS")
    features: tuple[str, ...] = Field(description="the level's and its own, sorted")
    emulation: str | None = Field(description="model for qemu's -cpu; none where user-mode emulation cannot run it")
    sources: tuple[Source, ...] = Field(min_length=1)


class DriverRange(Contract):
    """The NVIDIA drivers that a GPU may be found with; an end that nobody fixed is open.

    `max` may be a branch: `470` is every 470.x.
    """

    min: str | None = Field(None, pattern=VERSION_PATTERN)
    max: str | None = Field(None, pattern=VERSION_PATTERN)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min and self.max and not self.allows(self.min):
            raise ValueError(f"min {self.min} is newer than max {self.max}")
        return self

    def allows(self, driver: str) -> bool:
        """Whether a driver of at least this version is within the range's upper end."""
        if self.max is None:
            return True
        most = numbers(self.max)
        return numbers(driver)[: len(most)] <= most

    def guarantees(self, driver: str) -> bool:
        """Whether every driver of the range is at least this version."""
        return self.min is not None and numbers(self.min) >= numbers(driver)


class Gpu(Contract):
    """The accelerators of an instance type. `inline_ecc`: error correction takes its share of the memory."""

    model: str
    count: int = Field(ge=1)
    memory_bytes: int = Field(gt=0, description="of one accelerator, by its data sheet")
    inline_ecc: bool = False
    compute_capability: str = Field(pattern=r"^[0-9]+\.[0-9]+$")
    driver: DriverRange = DriverRange()
    sources: tuple[Source, ...] = Field(min_length=1)


class Price(Contract):
    """What one machine costs an hour, said by the user: none is known otherwise."""

    per_hour: float = Field(gt=0, allow_inf_nan=False, strict=True)
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")


class InstanceType(Contract):
    """A machine that can be rented. `cpus` are all generations that the provider may start it on."""

    name: str
    provider: str
    vcpus: float = Field(gt=0)
    memory_bytes: int = Field(gt=0)
    cpus: tuple[CpuGeneration, ...] = Field(min_length=1)
    gpu: Gpu | None = None
    # Left out of dumps, and so of the digest that results are remembered by: it decides nothing that is measured.
    price: Price | None = Field(None, exclude=True, description="none where the user gave none")
    sources: tuple[Source, ...] = Field(min_length=1)

    @property
    def architecture(self) -> Architecture:
        return self.cpus[0].architecture

    @property
    def features(self) -> frozenset[str]:
        """What every machine of this type executes: the intersection over its CPU generations."""
        return frozenset.intersection(*(frozenset(cpu.features) for cpu in self.cpus))

    @property
    def level(self) -> str:
        """The highest level that every machine of this type reaches."""
        return min((cpu.level for cpu in self.cpus), key=list(LEVELS).index)


def numbers(version: str) -> tuple[int, ...]:
    """`525.60.13` as numbers, to compare."""
    return tuple(int(part) for part in version.split("."))
