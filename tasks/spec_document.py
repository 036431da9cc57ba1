"""YAML text → plain values that remember their lines.

In: the bytes of a model.yaml. Out: a `Document`, whose values are only mappings, lists, texts, numbers, true, false and
nothing, and every problem that YAML itself can have: syntax, duplicate keys, tags, aliases that never end. YAML 1.2:
`yes` is a text, `1e-3` a number, a date a text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import Problem

#: Where a value is: keys and list positions from the top.
KeyPath = tuple[str | int, ...]

_A_SPEC = "a mapping that begins with `name:` and `owner:`"
_MAX_VALUES = 100_000  # a spec has dozens; aliases of aliases can make billions from a few lines


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and the line (from 1) of every key and list item."""

    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest thing above it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: KeyPath, message: str) -> Problem:
        return Problem(self.line(path), dotted(path), message)


def dotted(path: KeyPath) -> str:
    """`('inputs', 0, 'shape')` → `inputs.0.shape`."""
    return ".".join(str(part) for part in path)


def read_document(path: Path) -> tuple[Document | None, list[Problem]]:
    """Read a model.yaml; no document where it cannot be read as one, and then at least one problem says why."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, [Problem(None, "", "there is no such file; give the path of a model.yaml")]
    except IsADirectoryError:
        inside = " (there is one)" if (path / "model.yaml").is_file() else ""
        return None, [Problem(None, "", f"is a folder; give the path of the model.yaml in it{inside}")]
    except OSError as error:
        return None, [Problem(None, "", f"cannot be read: {error.strerror}")]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [Problem(line, "", "is not UTF-8 text; save it as UTF-8, or give the path of a model.yaml")]
    return parse_document(text)


def parse_document(text: str, expected: str | None = None) -> tuple[Document | None, list[Problem]]:
    """The same for text, also of another file's; `expected` is said of one that is no mapping."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        unfinished = "end>" in str(error.problem) or "end of stream" in str(error.problem)
        mark = (error.context_mark if unfinished else None) or error.problem_mark or error.context_mark
        context = f" ({error.context})" if error.context else ""
        return None, [Problem(mark.line + 1 if mark else None, "", f"is not YAML: {error.problem}{context}")]
    except YAMLError as error:
        return None, [Problem(None, "", f"is not YAML: {' '.join(str(error).split())}")]
    except RecursionError:
        return None, [Problem(None, "", "is nested too deeply")]
    if root is None:
        return None, [Problem(1, "", f"is empty; expected {expected or _A_SPEC}")]

    reader = _Reader(yaml.constructor)
    data = reader.read(root, (), ())
    if not isinstance(data, dict):
        wanted = expected or "a mapping of keys such as `name:` and `inputs:`"
        return None, [*reader.problems, Problem(1, "", f"expected {wanted}, found {describe(data)}")]
    return Document(data, reader.lines), reader.problems


def describe(value: Any) -> str:
    """What was found, in words: `the text 'abc'`, `a list of 3`, `nothing`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        short = value if len(value) <= 60 else value[:57] + "…"
        return f"the text {short!r}" if value else "an empty text"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "a mapping" if value else "an empty mapping"


class _Reader:
    """Walks YAML's nodes once, collecting values, lines and problems."""

    def __init__(self, constructor: Any) -> None:
        self.constructor = constructor
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def read(self, node: Any, path: KeyPath, above: tuple[int, ...]) -> Any:
        """The node's value. `above` are the nodes that it lies in, by identity: an alias may name one of them."""
        from ruamel.yaml.nodes import MappingNode, ScalarNode

        self.lines.setdefault(path, node.start_mark.line + 1)
        self.values += 1
        if id(node) in above or self.values > _MAX_VALUES:
            if self.values <= _MAX_VALUES:
                self._report(node, path, "an alias refers to what it lies in; write the value out")
            elif self.values == _MAX_VALUES + 1:
                self._report(node, path, "aliases make this endless; write the values out")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if not node.tag.startswith("tag:yaml.org,2002:") or "/" in node.tag:
            self._report(node, path, f"YAML tags such as {node.tag} are not used here; remove it")
        above = (*above, id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path, above)
        return [self.read(item, (*path, index), above) for index, item in enumerate(node.value)]

    def _mapping(self, node: Any, path: KeyPath, above: tuple[int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                self._report(key_node, path, "a key must be a plain text")
                continue
            if key in data:
                first = self.lines[*path, key]
                self._report(key_node, (*path, key), f"is there twice, first on line {first}; remove one")
                continue
            self.lines[*path, key] = key_node.start_mark.line + 1
            data[key] = self.read(value_node, (*path, key), above)
        return data

    def _scalar(self, node: Any, path: KeyPath) -> Any:
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "null":
                return None
            case "bool":
                return self.constructor.construct_yaml_bool(node)
            case "int":
                return self.constructor.construct_yaml_int(node)
            case "float":
                return self.constructor.construct_yaml_float(node)
            case "str" | "timestamp" | "merge" | "value":
                return node.value
            case tag:
                self._report(node, path, f"YAML tags such as {tag} are not used here; remove it")
                return node.value

    def _report(self, node: Any, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, dotted(path), message))
