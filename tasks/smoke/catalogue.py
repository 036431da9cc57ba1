"""The catalogue of instance types: reads its files, and gives a type by its name.

In: `instance_types.yaml` beside this module, the machine that this runs on, and the user's own file of the same form
(SLIPWAY_INSTANCE_TYPES), which may also say prices and drivers of types that are there already. Out: `InstanceType` by
name, every fact with its source.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from tasks.contracts import Contract
from tasks.errors import BadInput
from tasks.smoke.hardware import (
    LEVELS,
    Architecture,
    CpuGeneration,
    DriverRange,
    Gpu,
    InstanceType,
    Price,
    Source,
)
from tasks.smoke.host import this_machine

CATALOGUE_FILE = Path(__file__).with_name("instance_types.yaml")

#: The environment variable that names the user's own file.
OWN_FILE_VARIABLE = "SLIPWAY_INSTANCE_TYPES"

_T = TypeVar("_T")


def load_catalogue() -> dict[str, InstanceType]:
    """Slipway's instance types, this machine (`tasks.smoke.host.THIS_MACHINE`) and the user's own, by name.

    Raises:
        BadInput: a file cannot be read or an entry does not hold; every problem at once, each naming its entry.
    """
    paths = [CATALOGUE_FILE]
    if own := os.environ.get(OWN_FILE_VARIABLE):
        paths.append(Path(own))
    return read_catalogue(*paths, there=(this_machine(),))


def instance_type(name: str) -> InstanceType:
    """One type of the catalogue.

    Raises:
        BadInput: there is no such type; the message suggests the nearest names.
    """
    catalogue = load_catalogue()
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`slipway instance-types` shows them."
    raise BadInput(
        f"no instance type {name!r} in the catalogue: {hint} Your own types go into a file named by {OWN_FILE_VARIABLE}"
    )


def read_catalogue(*paths: Path, there: Iterable[InstanceType] = ()) -> dict[str, InstanceType]:
    """Read catalogue files in order; a later file may use the sources and CPUs of the earlier ones, and amend types
    that are `there` already.

    Raises:
        BadInput: as `load_catalogue`.
    """
    reader = _Reader()
    reader.types.update((kind.name, kind) for kind in there)
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
    memory_gib: float = Field(gt=0)
    inline_ecc: bool = False
    compute_capability: str
    driver: DriverRange = DriverRange()
    sources: _Names


class _GpusOfType(Contract):
    model: str
    count: int = 1


class _TypeEntry(Contract):
    provider: str
    vcpus: float = Field(gt=0)
    memory_gib: float = Field(gt=0)
    cpus: _Names
    gpu: _GpusOfType | None = None
    sources: _Names


class _File(Contract):
    sources: dict[str, Any] = Field(default_factory=dict)
    cpus: dict[str, Any] = Field(default_factory=dict)
    gpus: dict[str, Any] = Field(default_factory=dict)
    types: dict[str, Any] = Field(default_factory=dict)
    prices: dict[str, Any] = Field(default_factory=dict)
    drivers: dict[str, Any] = Field(default_factory=dict)


class _Unresolved(Exception):
    """An entry names something that is not there."""


class _Reader:
    """Collects entries from one file after the other, and every problem on the way."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.cpus: dict[str, CpuGeneration] = {}
        self.gpus: dict[str, Gpu] = {}
        self.types: dict[str, InstanceType] = {}
        self.problems: list[str] = []

    def read(self, path: Path) -> None:
        from ruamel.yaml.error import YAMLError

        try:
            content = _parse(path.read_text(encoding="utf-8"))
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
        for name, entry in file.gpus.items():
            self._add(path, "gpus", name, self.gpus, partial(self._gpu, entry))
        for name, entry in file.types.items():
            self._add(path, "types", name, self.types, partial(self._type, name, entry))
        for name, entry in file.prices.items():
            self._amend(path, "prices", name, partial(self._priced, entry))
        for name, driver in file.drivers.items():
            self._amend(path, "drivers", name, partial(self._driven, driver))

    def _add(self, path: Path, section: str, name: str, known: dict[str, _T], make: Callable[[], _T]) -> None:
        where = f"{path}: {section}.{name}"
        if name in known:
            self.problems.append(f"{where}: the name is taken already: choose another")
        elif (made := self._made(where, make)) is not None:
            known[name] = made

    def _amend(self, path: Path, section: str, name: str, change: Callable[[InstanceType], InstanceType]) -> None:
        """Say something more about a type that is there already, of this file or an earlier one."""
        where = f"{path}: {section}.{name}"
        changed = self._made(where, lambda: change(*self._resolve("instance type", (name,), self.types)))
        if changed is not None:
            self.types[name] = changed

    def _made(self, where: str, make: Callable[[], _T]) -> _T | None:
        """What `make` makes; none, and the problem noted, where the entry does not hold."""
        try:
            return make()
        except ValidationError as error:
            self._explain(where, error)
        except _Unresolved as error:
            self.problems.append(f"{where}: {error}")
        return None

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

    def _gpu(self, content: Any) -> Gpu:
        entry = _GpuEntry.model_validate(content)
        return Gpu(
            model=entry.model,
            count=1,
            memory_bytes=_bytes(entry.memory_gib),
            inline_ecc=entry.inline_ecc,
            compute_capability=entry.compute_capability,
            driver=entry.driver,
            sources=self._resolve("source", entry.sources, self.sources),
        )

    def _type(self, name: str, content: Any) -> InstanceType:
        entry = _TypeEntry.model_validate(content)
        cpus = self._resolve("cpu", entry.cpus, self.cpus)
        if len({cpu.architecture for cpu in cpus}) > 1:
            raise _Unresolved("its cpus are of several architectures: write one entry for each")
        gpu = None
        if entry.gpu is not None:
            (one,) = self._resolve("gpu", (entry.gpu.model,), self.gpus)
            gpu = Gpu.model_validate({**dict(one), "count": entry.gpu.count})
        return InstanceType(
            name=name,
            provider=entry.provider,
            vcpus=entry.vcpus,
            memory_bytes=_bytes(entry.memory_gib),
            cpus=cpus,
            gpu=gpu,
            sources=self._resolve("source", entry.sources, self.sources),
        )

    def _priced(self, content: Any, kind: InstanceType) -> InstanceType:
        return kind.model_copy(update={"price": Price.model_validate(content)})

    def _driven(self, driver: Any, kind: InstanceType) -> InstanceType:
        """A type whose machines are known to run one driver: the one that the user's own nodes are set up with."""
        if not isinstance(driver, str):
            raise _Unresolved(f'{driver} is a number to YAML: put the version of the driver in quotes, "{driver}"')
        exactly = DriverRange(min=driver, max=driver)
        if kind.gpu is None:
            raise _Unresolved("it has no GPU that a driver could be for")
        if not kind.gpu.driver.allows(driver):
            raise _Unresolved(f"driver {driver} is newer than {kind.gpu.driver.max}, the last for {kind.gpu.model}")
        return kind.model_copy(update={"gpu": kind.gpu.model_copy(update={"driver": exactly})})

    def _resolve(self, kind: str, names: tuple[str, ...], known: Mapping[str, _T]) -> tuple[_T, ...]:
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise _Unresolved(f"no {kind} {name!r}" + (f": did you mean {near[0]}?" if near else ""))
        return tuple(known[name] for name in names)


@lru_cache(maxsize=2)  # the shipped file and the user's: a tenth of a second each, asked for by every cell of a package
def _parse(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def _bytes(gib: float) -> int:
    return int(gib * 2**30)


__all__ = [
    "LEVELS",
    "CpuGeneration",
    "DriverRange",
    "Gpu",
    "InstanceType",
    "Price",
    "Source",
    "instance_type",
    "load_catalogue",
    "read_catalogue",
]
