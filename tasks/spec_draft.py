"""What is structurally wrong with a model.yaml, and what holds of it: the first half of validation.

In: a `Document`. Out: a `Draft` of the parts that hold (which `tasks.spec_checks` then looks at), and a problem for
each key that is missing, unknown or of the wrong kind. pydantic does the checking; the sentences are
`tasks.spec_hints`'.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from serving.contract import DimRange, PreprocessStep, TensorSpec
from tasks.errors import Problem
from tasks.spec import Framework, ModelSpec
from tasks.spec_document import Document, KeyPath
from tasks.spec_hints import nearest, sentence
from tasks.spec_keys import MODELS, joined, keys_of

T = TypeVar("T")

#: What a check yields: where, and what is wrong there.
Found: TypeAlias = Iterator[tuple[KeyPath, str]]


@dataclass(frozen=True, slots=True)
class Draft:
    """What holds of a spec on its own, before its parts are looked at together.

    As fine as it goes, so that one mistake hides no other: elements that hold come with their position, and a value
    that does not hold is None.
    """

    document: Document
    uri: str | None
    framework: Framework | None
    entrypoint: str | None
    inputs: dict[int, TensorSpec]
    outputs: dict[int, TensorSpec]
    dynamic: dict[str, DimRange]
    preprocess: dict[int, PreprocessStep]
    data: str | None
    preprocessed: str | None
    formats: dict[int, str]
    serving_format: str | None
    max_batch: int | None
    instance_types: dict[int, str]
    steps: dict[int, float]

    def written(self, *path: str | int) -> Any:
        """The plain value at `path` whether it holds or not, None where there is none."""
        value: Any = self.document.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def texts(self, *path: str) -> Iterator[tuple[KeyPath, dict[str, str]]]:
        """Each mapping in the list at `path`, with those of its values that are texts: its names, mostly."""
        items = self.written(*path)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            values = item.items() if isinstance(item, dict) else ()
            yield (*path, index), {key: value for key, value in values if isinstance(value, str)}

    def names(self, part: str) -> list[str]:
        """The names of all inputs or outputs."""
        return [texts["name"] for _, texts in self.texts(part) if "name" in texts]

    def shapes(self) -> Iterator[tuple[KeyPath, tuple[int | str, ...] | None]]:
        """The shape of each input and output, None where it does not hold."""
        for part in ("inputs", "outputs"):
            for path, _ in self.texts(part):
                yield (*path, "shape"), _sound(tuple[int | str, ...], self.written(*path, "shape"))

    @property
    def batch(self) -> str | None:
        """The dimension that every shape begins with, where it is one and named."""
        leads = {shape[0] if shape else None for _, shape in self.shapes()}
        lead = leads.pop() if len(leads) == 1 else None
        return lead if isinstance(lead, str) else None


def read_keys(document: Document) -> tuple[Draft, list[Problem]]:
    """What holds in the document, and every structural problem."""
    data = copy.deepcopy(document.data)
    problems = [document.problem(path, message) for path, message in _unknown_keys(data, "", ())]
    broken: dict[KeyPath, Problem] = {}
    for path, kind in _errors(data):
        broken.setdefault(path, document.problem(path, sentence(document, path, kind)))
    return _draft(document, data), problems + list(broken.values())


# --- structure ----------------------------------------------------------------------------------------------------


def _unknown_keys(data: Any, pattern: str, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Take the unknown keys out of `data`, in place, and report each."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _unknown_keys(item, joined(pattern, "*"), (*path, index))
    if not isinstance(data, dict):
        return
    known = keys_of(pattern) if pattern in MODELS else None
    for key in list(data):
        if known is not None and key not in known:
            del data[key]
            hint = nearest(key, known) or f"; {pattern.removesuffix('.*') or 'a model.yaml'} takes {', '.join(known)}"
            yield (*path, key), f"unknown key{hint}"
        else:
            yield from _unknown_keys(data[key], joined(pattern, key if known else "*"), (*path, key))


def _errors(data: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Path and pydantic's kind of each structural error."""
    try:
        _validate(ModelSpec, {**data, "folder": "."})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            path = _existing(detail["loc"], data, missing=detail["type"] == "missing")
            if detail["type"] != "too_short" or not detail["input"]:  # else its elements are what is wrong
                yield path, detail["type"]


def _validate(form: Any, data: Any) -> Any:
    """Strictly, as JSON: a list is a tuple, a text may name an enum's value, but '3' is no number and 1 is not true."""
    return _adapter(form).validate_json(json.dumps(data), strict=True)


@lru_cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _existing(location: KeyPath, data: Any, *, missing: bool) -> KeyPath:
    """pydantic's location without the names of union members, which are no keys of the document."""
    path: list[str | int] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if missing:
                path.append(part)
            break
        path.append(part)
    return tuple(path)


# --- what holds ---------------------------------------------------------------------------------------------------


def _draft(document: Document, data: dict[str, Any]) -> Draft:
    source, evaluation, serving, smoke, release = (
        value if isinstance(value := data.get(part), dict) else {}
        for part in ("source", "evaluation", "serving", "smoke", "release")
    )
    return Draft(
        document=document,
        uri=_sound(str, source.get("uri")),
        framework=_sound(Framework, source.get("framework")),
        entrypoint=_sound(str, source.get("entrypoint")),
        inputs=_elements(TensorSpec, data.get("inputs")),
        outputs=_elements(TensorSpec, data.get("outputs")),
        dynamic=_elements(DimRange, data.get("dynamic")),
        preprocess=_elements(PreprocessStep, data.get("preprocess")),
        data=_sound(str, evaluation.get("data")),
        preprocessed=_sound(str, fed.get("data")) if isinstance(fed := evaluation.get("preprocessed"), dict) else None,
        formats=_elements(str, data.get("formats")),
        serving_format=_sound(str, serving.get("format")),
        max_batch=_sound(int, serving.get("max_batch")),
        instance_types=_elements(str, smoke.get("instance_types")),
        steps=_elements(float, release.get("steps")),
    )


def _sound(form: type[T], data: Any) -> T | None:
    try:
        return cast(T, _validate(form, data))
    except ValidationError:
        return None


def _elements(form: type[T], data: Any) -> dict[Any, T]:
    """The elements that hold, by their position in a list or their key in a mapping."""
    items = enumerate(data) if isinstance(data, list) else data.items() if isinstance(data, dict) else ()
    read = ((key, _sound(form, item)) for key, item in items)
    return {key: item for key, item in read if item is not None}
