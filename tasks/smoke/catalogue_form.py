"""The form of a catalogue's file, and what is said of an entry that has another.

In: plain values, as YAML gives them. Out: frozen entries whose names are not looked up yet; or sentences of what was
expected and what was found.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from tasks.contracts import Contract
from tasks.smoke.hardware import Architecture, DriverRange
from tasks.spec_document import describe

SECTIONS = ("sources", "cpus", "gpus", "types", "prices", "drivers")

#: Kubernetes, "Labels and Selectors": a label's value. Nodes are labelled with the type's name (docs/deploy.md).
LABEL_VALUE = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"

Names = Annotated[tuple[str, ...], Field(min_length=1)]

#: 16 MiB, in which no Python starts, to 64 TiB, more than any machine has (the largest of AWS have 32 TiB).
_Gib = Annotated[float, Field(ge=16 / 1024, le=64 * 1024, allow_inf_nan=False, strict=True)]
#: A tenth of a vCPU, the least that a CPU quota is of use with, to more than any machine has (AWS: 1,920).
_Vcpus = Annotated[float, Field(ge=0.1, le=4096, allow_inf_nan=False, strict=True)]


class CpuEntry(Contract):
    vendor: Literal["intel", "amd", "arm"]
    architecture: Architecture
    level: str
    features: tuple[str, ...] = ()
    emulation: str | None = None
    sources: Names


class GpuEntry(Contract):
    model: str
    memory_gib: _Gib
    inline_ecc: bool = Field(False, strict=True)
    compute_capability: str
    driver: DriverRange = DriverRange()
    sources: Names


class GpusOfType(Contract):
    model: str
    count: int = Field(1, ge=1, le=1024, strict=True)


class TypeEntry(Contract):
    provider: str
    vcpus: _Vcpus
    memory_gib: _Gib
    cpus: Names
    gpu: GpusOfType | None = None
    sources: Names


#: Key → what belongs there, where pydantic would say it by a pattern.
_BY_KEY = {
    "url": "an address that begins with http:// or https://",
    "currency": "three capital letters of ISO 4217, such as USD",
    "compute_capability": 'a compute capability in quotes, such as "8.6"',
    "min": 'the version of a driver in quotes, such as "525.60.13"',
    "max": 'the version of a driver in quotes, such as "525.60.13"',
}

#: Pydantic's kind of error → what was expected. `{…}` is of the error's own context.
_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping of keys",
    "finite_number": "a number that is finite",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than_equal": "at most {le:g}",
    "literal_error": "one of {expected}",
    "model_type": "a mapping of keys",
    "string_type": "a text",
    "too_short": "at least one",
    "tuple_type": "a list of names",
    "string_too_short": "a text that is not empty",
}


def complaints(error: ValidationError, keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each mistake: its dotted key, and a sentence. `keys` are those that such an entry has."""
    for detail in error.errors():
        path = tuple(str(part) for part in detail["loc"])
        yield ".".join(path), _sentence(detail["type"], path, detail["input"], detail.get("ctx", {}), keys)


def _sentence(kind: str, path: tuple[str, ...], found: Any, context: Mapping[str, Any], keys: Mapping[str, Any]) -> str:
    key = path[-1] if path else ""
    if kind == "missing":
        return "is missing" + (f": expected {_BY_KEY[key]}" if key in _BY_KEY else "")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(key, keys, n=1)
        return f"is no key that belongs here: {f'did you mean {near[0]}?' if near else 'remove it'}"
    if kind == "value_error":  # one of our own validators, whose words are ours
        return str(context["error"])
    if kind in _EXPECTED:
        expected = _BY_KEY.get(key) if kind == "string_type" else None
        return f"expected {expected or _EXPECTED[kind].format_map(context)}, found {describe(_plain(found))}"
    return f"expected {_BY_KEY.get(key, 'another form')}, found {describe(_plain(found))}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
