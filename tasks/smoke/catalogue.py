"""The catalogue of instance types: reads its files, and gives a type by its name.

In: `instance_types.yaml` beside this module, the machine that this runs on, and the user's own file of the same form
(SLIPWAY_INSTANCE_TYPES), which may also say prices and drivers of types that are there already. Out: `InstanceType` by
name, every fact with its source.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tasks.contracts import Contract
from tasks.errors import BadInput, Problem
from tasks.smoke.catalogue_form import (
    LABEL_VALUE,
    SECTIONS,
    CpuEntry,
    GpuEntry,
    TypeEntry,
    complaints,
)
from tasks.smoke.hardware import (
    LEVELS,
    CpuGeneration,
    DriverRange,
    Gpu,
    InstanceType,
    Price,
    Source,
)
from tasks.smoke.host import this_machine
from tasks.smoke.processors import mistakes
from tasks.spec_document import Document, describe, parse_document

CATALOGUE_FILE = Path(__file__).with_name("instance_types.yaml")

#: The environment variable that names the user's own file.
OWN_FILE_VARIABLE = "SLIPWAY_INSTANCE_TYPES"

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Contract)


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


class _Unresolved(Exception):
    """An entry does not hold: one problem for each argument, none where what it names was itself refused."""


class _Reader:
    """Collects entries from one file after the other, and every problem on the way."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.cpus: dict[str, CpuGeneration] = {}
        self.gpus: dict[str, Gpu] = {}
        self.types: dict[str, InstanceType] = {}
        self.refused: set[tuple[str, str]] = set()  # section and name: whoever names them is not told again
        self.problems: list[str] = []

    def read(self, path: Path) -> None:
        try:
            document, problems = _parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.append(
                f"{path}: the instance types cannot be read ({error.strerror}): check {OWN_FILE_VARIABLE}"
            )
            return
        except UnicodeDecodeError:
            self.problems.append(f"{path}: not UTF-8 text: save it as UTF-8")
            return
        self.problems.extend(_said(path, problem) for problem in problems)
        if document is None:
            return
        sections = dict(self._sections(path, document.data))
        for name, entry in sections["sources"].items():
            self._add(path, "sources", name, self.sources, Source, entry, lambda _, made: made)
        for name, entry in sections["cpus"].items():
            self._add(path, "cpus", name, self.cpus, CpuEntry, entry, self._cpu)
        for name, entry in sections["gpus"].items():
            self._add(path, "gpus", name, self.gpus, GpuEntry, entry, self._gpu)
        for name, entry in sections["types"].items():
            self._add(path, "types", name, self.types, TypeEntry, entry, self._type)
        for name, entry in sections["prices"].items():
            self._amend(path, "prices", name, partial(self._priced, entry))
        for name, driver in sections["drivers"].items():
            self._amend(path, "drivers", name, partial(self._driven, driver))

    def _sections(self, path: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name in content.keys() - set(SECTIONS):
            near = difflib.get_close_matches(name, SECTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(SECTIONS)}"
            self.problems.append(f"{path}: {name}: no such section: {hint}")
        for name in SECTIONS:
            found = content.get(name, {})
            if not isinstance(found, dict):
                self.problems.append(f"{path}: {name}: expected a mapping of names, found {describe(found)}")
            yield name, found if isinstance(found, dict) else {}

    def _add(
        self,
        path: Path,
        section: str,
        name: str,
        known: dict[str, _T],
        form: type[_E],
        content: Any,
        make: Callable[[str, _E], _T],
    ) -> None:
        where = f"{path}: {section}.{name}"
        if name in known:
            self.problems.append(f"{where}: the name is taken already: choose another")
            return
        made = self._made(where, lambda: make(name, self._read_entry(where, form, content)))
        if made is None:
            self.refused.add((section, name))
        else:
            known[name] = made

    def _read_entry(self, where: str, form: type[_E], content: Any) -> _E:
        """The entry as its form has it; where it has another, the names in it are looked up all the same."""
        try:
            return form.model_validate(content)
        except ValidationError as error:
            self._explain(where, error, form.model_fields)
            if not isinstance(content, dict):
                raise _Unresolved from error
            named: list[tuple[str, str, Mapping[str, Any]]] = [("source", "sources", self.sources)]
            named += [("cpu", "cpus", self.cpus)] if form is TypeEntry else []
            problems = [
                problem
                for kind, key, known in named
                for problem in self._missing(kind, _texts(content.get(key)), known)
            ]
            raise _Unresolved(*problems) from error

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
            self._explain(where, error, {})
        except _Unresolved as error:
            self.problems.extend(f"{where}: {problem}" for problem in error.args)
        return None

    def _explain(self, where: str, error: ValidationError, keys: Mapping[str, Any]) -> None:
        for key, sentence in complaints(error, keys):
            self.problems.append(f"{where}{'.' if key else ''}{key}: {sentence}")

    def _cpu(self, name: str, entry: CpuEntry) -> CpuGeneration:
        problems = [
            *mistakes(entry.vendor, entry.architecture, entry.level, entry.features, entry.emulation),
            *self._missing("source", entry.sources, self.sources),
        ]
        if problems:
            raise _Unresolved(*problems)
        return CpuGeneration(
            name=name,
            vendor=entry.vendor,
            architecture=entry.architecture,
            level=entry.level,
            features=tuple(sorted(LEVELS[entry.level].union(entry.features))),
            emulation=entry.emulation,
            sources=self._resolve("source", entry.sources, self.sources),
        )

    def _gpu(self, _: str, entry: GpuEntry) -> Gpu:
        return Gpu(
            model=entry.model,
            count=1,
            memory_bytes=_bytes(entry.memory_gib),
            inline_ecc=entry.inline_ecc,
            compute_capability=entry.compute_capability,
            driver=entry.driver,
            sources=self._resolve("source", entry.sources, self.sources),
        )

    def _type(self, name: str, entry: TypeEntry) -> InstanceType:
        problems = [
            *self._missing("cpu", entry.cpus, self.cpus),
            *self._missing("gpu", (entry.gpu.model,) if entry.gpu else (), self.gpus),
            *self._missing("source", entry.sources, self.sources),
        ]
        problems += [
            f"cpu {each} is there twice: remove one" for each, times in Counter(entry.cpus).items() if times > 1
        ]
        if not re.fullmatch(LABEL_VALUE, name):
            problems.append(
                "its name cannot be the value of a node's label in Kubernetes: at most 63 letters, digits, '-', '_' "
                "and '.', with a letter or digit at both ends"
            )
        if len({self.cpus[each].architecture for each in entry.cpus if each in self.cpus}) > 1:
            problems.append("its cpus are of several architectures: write one entry for each")
        if problems:
            raise _Unresolved(*problems)
        gpu = None
        if entry.gpu is not None:
            (one,) = self._resolve("gpu", (entry.gpu.model,), self.gpus)
            gpu = Gpu.model_validate({**dict(one), "count": entry.gpu.count})
        return InstanceType(
            name=name,
            provider=entry.provider,
            vcpus=entry.vcpus,
            memory_bytes=_bytes(entry.memory_gib),
            cpus=self._resolve("cpu", entry.cpus, self.cpus),
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

    def _resolve(self, kind: str, names: Sequence[str], known: Mapping[str, _T]) -> tuple[_T, ...]:
        problems = self._missing(kind, names, known)
        if problems or not all(name in known for name in names):
            raise _Unresolved(*problems)
        return tuple(known[name] for name in names)

    def _missing(self, kind: str, names: Iterable[str], known: Mapping[str, Any]) -> list[str]:
        """What is said of those names that are not there; of a refused entry enough is said."""
        section = "types" if kind == "instance type" else f"{kind}s"
        unknown = [name for name in names if name not in known and (section, name) not in self.refused]
        nearest = {name: difflib.get_close_matches(name, known, n=1) for name in unknown}
        return [
            f"no {kind} {name!r}" + (f": did you mean {nearest[name][0]}?" if nearest[name] else "") for name in unknown
        ]


def _said(path: Path, problem: Problem) -> str:
    line = "" if problem.line is None else f":{problem.line}"
    return f"{path}{line}: {f'{problem.key}: ' if problem.key else ''}{problem.message}"


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


@lru_cache(maxsize=2)  # the shipped file and the user's: a third of a second each, asked for by every cell of a package
def _parse(text: str) -> tuple[Document | None, list[Problem]]:
    return parse_document(text, expected=f"a mapping with some of {', '.join(SECTIONS)}")


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
