"""Instance types: what each offers, which CPUs it may turn out to have, and where every fact is from.

In: `instance_types.yaml` beside this module, and the user's own file of the same form (SLIPWAY_INSTANCE_TYPES).
Out: `InstanceType` by name. A provider may start one type on several CPU generations; a type is only as good as the
weakest of them, so all are listed.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from tasks.contracts import Contract
from tasks.errors import BadInput

CATALOGUE_FILE = Path(__file__).with_name("instance_types.yaml")

#: The environment variable that names the user's own file.
OWN_FILE_VARIABLE = "SLIPWAY_INSTANCE_TYPES"

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
_T = TypeVar("_T")


class Source(Contract):
    """Where a fact is from."""

    title: str = Field(min_length=1)
    url: str = Field(pattern=r"^https?://")


class CpuGeneration(Contract):
    """One generation of processors, as far as programs can tell: its instruction set."""

    name: str
    vendor: Literal["intel", "amd", "arm"]
    architecture: Architecture
    level: str = Field(description="an entry of LEVELS")
    features: tuple[str, ...] = Field(description="the level's and its own, sorted")
    emulation: str | None = Field(description="model for qemu's -cpu; none where user-mode emulation cannot run it")
    sources: tuple[Source, ...] = Field(min_length=1)


class Gpu(Contract):
    """The accelerators of an instance type."""

    model: str
    count: int = Field(ge=1)
    memory_bytes: int = Field(gt=0, description="of one accelerator")
    compute_capability: str = Field(pattern=r"^[0-9]+\.[0-9]+$")
    sources: tuple[Source, ...] = Field(min_length=1)


class InstanceType(Contract):
    """A machine that can be rented. `cpus` are all generations that the provider may start it on."""

    name: str
    provider: str
    vcpus: float = Field(gt=0)
    memory_bytes: int = Field(gt=0)
    cpus: tuple[CpuGeneration, ...] = Field(min_length=1)
    gpu: Gpu | None = None
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


def load_catalogue() -> dict[str, InstanceType]:
    """Slipway's instance types and the user's own, by name.

    Raises:
        BadInput: a file cannot be read or an entry does not hold; every problem at once, each naming its entry.
    """
    paths = [CATALOGUE_FILE]
    if own := os.environ.get(OWN_FILE_VARIABLE):
        paths.append(Path(own))
    return read_catalogue(*paths)


def instance_type(name: str) -> InstanceType:
    """One type of the catalogue.

    Raises:
        BadInput: there is no such type; the message suggests the nearest names.
    """
    catalogue = load_catalogue()
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(catalogue))}"
    raise BadInput(
        f"no instance type {name!r} in the catalogue: {hint} Your own types go into a file named by {OWN_FILE_VARIABLE}"
    )


def read_catalogue(*paths: Path) -> dict[str, InstanceType]:
    """Read catalogue files in order; a later file may use the sources and CPUs of the earlier ones.

    Raises:
        BadInput: as `load_catalogue`.
    """
    reader = _Reader()
    for path in paths:
        reader.read(path)
    if reader.problems:
        raise BadInput("\n".join(reader.problems))
    return reader.types


# --- the file's form ----------------------------------------------------------------------------------------------

_Names = Annotated[tuple[str, ...], Field(min_length=1)]


class _CpuEntry(Contract):
    vendor: Literal["intel", "amd", "arm"]
    architecture: Architecture
    level: str
    features: tuple[str, ...] = ()
    emulation: str | None = None
    sources: _Names


class _GpuEntry(Contract):
    model: str
    count: int = 1
    memory_gib: float = Field(gt=0)
    compute_capability: str
    sources: _Names


class _TypeEntry(Contract):
    provider: str
    vcpus: float = Field(gt=0)
    memory_gib: float = Field(gt=0)
    cpus: _Names
    gpu: _GpuEntry | None = None
    sources: _Names


class _File(Contract):
    sources: dict[str, Any] = Field(default_factory=dict)
    cpus: dict[str, Any] = Field(default_factory=dict)
    types: dict[str, Any] = Field(default_factory=dict)


class _Unresolved(Exception):
    """An entry names something that is not there."""


class _Reader:
    """Collects entries from one file after the other, and every problem on the way."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.cpus: dict[str, CpuGeneration] = {}
        self.types: dict[str, InstanceType] = {}
        self.problems: list[str] = []

    def read(self, path: Path) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            content = YAML(typ="safe").load(path)
        except OSError as error:
            self.problems.append(
                f"{path}: the instance types cannot be read ({error.strerror}): check {OWN_FILE_VARIABLE}"
            )
            return
        except (YAMLError, UnicodeDecodeError) as error:
            self.problems.append(f"{path}: not YAML: {' '.join(str(error).split())}")
            return
        try:
            file = _File.model_validate(content)
        except ValidationError as error:
            self._explain(f"{path}", error)
            return
        for name, entry in file.sources.items():
            self._add(path, "sources", name, self.sources, partial(Source.model_validate, entry))
        for name, entry in file.cpus.items():
            self._add(path, "cpus", name, self.cpus, partial(self._cpu, name, entry))
        for name, entry in file.types.items():
            self._add(path, "types", name, self.types, partial(self._type, name, entry))

    def _add(self, path: Path, section: str, name: str, known: dict[str, _T], make: Callable[[], _T]) -> None:
        where = f"{path}: {section}.{name}"
        if name in known:
            self.problems.append(f"{where}: the name is taken already: choose another")
            return
        try:
            known[name] = make()
        except ValidationError as error:
            self._explain(where, error)
        except _Unresolved as error:
            self.problems.append(f"{where}: {error}")

    def _explain(self, where: str, error: ValidationError) -> None:
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"])
            self.problems.append(f"{where}{'.' if key else ''}{key}: {detail['msg']}")

    def _cpu(self, name: str, content: Any) -> CpuGeneration:
        entry = _CpuEntry.model_validate(content)
        if entry.level not in LEVELS:
            raise _Unresolved(f"level {entry.level!r} is none of {', '.join(LEVELS)}")
        if entry.level.startswith("x86-64") != (entry.architecture == "amd64"):
            raise _Unresolved(f"level {entry.level} is not one of {entry.architecture}")
        return CpuGeneration(
            name=name,
            vendor=entry.vendor,
            architecture=entry.architecture,
            level=entry.level,
            features=tuple(sorted(LEVELS[entry.level].union(entry.features))),
            emulation=entry.emulation,
            sources=self._resolve("source", entry.sources, self.sources),
        )

    def _type(self, name: str, content: Any) -> InstanceType:
        entry = _TypeEntry.model_validate(content)
        cpus = self._resolve("cpu", entry.cpus, self.cpus)
        if len({cpu.architecture for cpu in cpus}) > 1:
            raise _Unresolved("its cpus are of several architectures: write one entry for each")
        gpu = entry.gpu and Gpu(
            model=entry.gpu.model,
            count=entry.gpu.count,
            memory_bytes=_bytes(entry.gpu.memory_gib),
            compute_capability=entry.gpu.compute_capability,
            sources=self._resolve("source", entry.gpu.sources, self.sources),
        )
        return InstanceType(
            name=name,
            provider=entry.provider,
            vcpus=entry.vcpus,
            memory_bytes=_bytes(entry.memory_gib),
            cpus=cpus,
            gpu=gpu,
            sources=self._resolve("source", entry.sources, self.sources),
        )

    def _resolve(self, kind: str, names: tuple[str, ...], known: Mapping[str, _T]) -> tuple[_T, ...]:
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise _Unresolved(f"no {kind} {name!r}" + (f": did you mean {near[0]}?" if near else ""))
        return tuple(known[name] for name in names)


def _bytes(gib: float) -> int:
    return int(gib * 2**30)


__all__ = [
    "LEVELS",
    "CpuGeneration",
    "Gpu",
    "InstanceType",
    "Source",
    "instance_type",
    "load_catalogue",
    "read_catalogue",
]
