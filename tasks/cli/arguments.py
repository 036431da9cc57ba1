"""What was typed → the value that is meant, or `BadInput` with what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.errors import BadInput


def spec_path(path: Path) -> Path:
    """The spec's path; a folder stands for the model.yaml in it."""
    spec = path / "model.yaml" if path.is_dir() else path
    if not spec.is_file():
        what = f"there is no {spec.name} in this folder" if path.is_dir() else "there is no such file"
        raise BadInput(f"{path}: {what}: give the path of a model.yaml")
    return spec


def text_of(path: Path) -> str:
    """A file's text; bytes that are none are for whoever parses it to complain about."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: expected a file that can be read: {error.strerror}") from error


def refuse_empty(arguments: Sequence[str]) -> None:
    """An empty text, as of a variable that is not set, is no value: what is left out is not what was asked for."""
    for before, given in zip(["", *arguments], arguments, strict=False):
        option = given if given.startswith("--") else before
        if not given.strip() or (given.startswith("--") and given.endswith("=")):
            said = f"{option.removesuffix('=')}: is empty" if option.startswith("--") else "an argument is empty"
            raise BadInput(f"{said}: give a value, or leave it out")


def split(values: list[str] | None, option: str) -> list[str]:
    """An option that may be repeated, or given by comma; nothing only where it was not given."""
    parts = [part.strip() for value in values or () for part in value.split(",")]
    if not all(parts):
        raise BadInput(f"{option} {','.join(values or ())!r}: expected names by comma, found an empty one")
    return parts


def seconds(text: str) -> float:
    """A `--budget`: 90s, 2m, 1h."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or not int(text[:-1]):
        raise BadInput(f"--budget {text}: expected a whole number with a unit s, m or h, such as 2m")
    return float(text[:-1]) * unit
