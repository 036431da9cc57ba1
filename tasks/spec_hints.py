"""What is said of a key that does not hold: what belongs there, what was found, and what to do about it.

In: a document, a path in it and pydantic's kind of error. Out: a sentence. Also who is meant by a word that is nearly
one of those that are known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from serving.contract import Channels, DType, Interpolation, Layout, NanPolicy, Padding
from tasks.spec import ClassRegression, Direction, Framework, Int8
from tasks.spec_document import Document, KeyPath, describe
from tasks.spec_keys import EXPECTED, pattern_of, required_keys

#: What other libraries call our dtypes and frameworks.
_ALIASES = {
    **{"float": "float32", "half": "float16", "double": "float64", "int": "int64", "long": "int64", "str": "string"},
    **{"torch": "pytorch", "tf": "tensorflow", "scikit-learn": "sklearn", "savedmodel": "tensorflow"},
}

#: Keys whose value is one of a few words; what else is one, is a dtype.
_ENUMS: dict[str, type[StrEnum]] = {
    "framework": Framework,
    "int8": Int8,
    "direction": Direction,
    "class_regression": ClassRegression,
    "nan": NanPolicy,
    "channels": Channels,
    "interpolation": Interpolation,
    "to": Layout,
    "padding": Padding,
}


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` where something known is near, else nothing."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def sentence(document: Document, path: KeyPath, kind: str) -> str:
    """What is wrong with the key at `path`; `kind` is pydantic's word for it."""
    expected = EXPECTED[pattern_of(path)]
    if kind == "missing":
        return f"is missing; expected {expected}"
    value: Any = document.data
    for part in path:
        value = value[part]
    return f"expected {expected}; found {describe(value)}{_hint(path, value, kind)}"


def _hint(path: KeyPath, value: Any, kind: str) -> str:
    """What to do about it, where the mistake is a common one."""
    hint = ""
    list_wanted = kind in ("tuple_type", "list_type")
    truth = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
    match value:
        case None:
            hint = (
                "; fill it in"
                if path[-1] in required_keys(pattern_of(path[:-1]))
                else "; fill it in, or remove the key"
            )
        case str() if kind in ("int_type", "float_type") and _is_number(value):
            hint = "; remove the quotes"
        case str() if kind == "bool_type" and value.lower() in truth:
            hint = f"; write {truth[value.lower()]}, without quotes"
        case str() if kind == "enum":
            near = nearest(value, _ENUMS.get(str(path[-1]), DType))
            hint = f"; did you mean {_ALIASES[value]}?" if value in _ALIASES else near
        case str() if path == ("name",):
            hint = _label_hint(value)
        case str() | int() | float() if list_wanted and not isinstance(value, bool):
            hint = f"; write [{value}]"
        case dict() if list_wanted:
            hint = "; begin each element with `- `"
    return hint


def _label_hint(name: str) -> str:
    """A DNS label made of `name`."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in name.lower()).split()
    label = "-".join(words)[:63].strip("-")
    return f"; {label} would do" if label else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
