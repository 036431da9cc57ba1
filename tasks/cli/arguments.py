"""What was typed → the value that is meant, or `BadInput` with what was expected."""

from __future__ import annotations

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


def split(values: list[str] | None) -> list[str]:
    """Options that may be repeated, or given by comma."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def seconds(text: str) -> float:
    """A `--budget`: 90s, 2m, 1h."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or not int(text[:-1]):
        raise BadInput(f"--budget {text}: expected a whole number with a unit s, m or h, such as 2m")
    return float(text[:-1]) * unit
