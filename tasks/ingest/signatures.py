"""The signature that a spec declares, against the one that a model brings: names, dtypes, ranks and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.contract import TensorSpec
from tasks.errors import SourceError


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor as the model describes it: None for what it does not say, and for sizes that vary."""

    name: str
    dtype: str | None
    shape: tuple[int | None, ...] | None


def check(what: str, declared: Sequence[TensorSpec], found: Sequence[Found], *, by_name: bool) -> None:
    """Compare the spec's inputs or outputs with the model's; `what` is "input" or "output".

    Raises:
        SourceError: with every difference, expected and found.
    """
    if problems := list(differences(what, declared, found, by_name=by_name)):
        raise SourceError("the model does not fit the spec: " + "; ".join(problems))


def differences(what: str, declared: Sequence[TensorSpec], found: Sequence[Found], *, by_name: bool) -> Iterator[str]:
    """Each difference as a sentence."""
    theirs = {tensor.name: tensor for tensor in found}
    if by_name and set(theirs) != {tensor.name for tensor in declared}:
        expected = ", ".join(tensor.name for tensor in declared)
        yield f"the spec declares the {what}s {expected}; the model has {', '.join(theirs) or 'none'}"
        return
    if len(declared) != len(found):
        names = ", ".join(tensor.name for tensor in found)
        yield f"the spec declares {len(declared)} {what}s, the model has {len(found)} ({names})"
        return
    for index, tensor in enumerate(declared):
        other = theirs[tensor.name] if by_name else found[index]
        if other.dtype is not None and other.dtype != tensor.dtype:
            yield f"{what} {tensor.name!r} is declared {tensor.dtype}, the model has {other.dtype}"
        yield from _shape_differences(f"{what} {tensor.name!r}", tensor.shape, other.shape)


def _shape_differences(
    what: str, declared: tuple[int | str, ...], found: tuple[int | None, ...] | None
) -> Iterator[str]:
    if found is None:
        return
    shown = "[" + ", ".join("any" if size is None else str(size) for size in found) + "]"
    expected = "[" + ", ".join(str(size) for size in declared) + "]"
    if len(declared) != len(found):
        yield f"{what} is declared {expected}, the model has {shown}"
        return
    for axis, (size, other) in enumerate(zip(declared, found, strict=True)):
        if other is None or size == other:
            continue
        if isinstance(size, str):
            yield f"{what}: the dimension {size!r} (axis {axis}) is frozen at {other} in the model"
        else:
            yield f"{what} is declared {expected}, the model has {shown} (axis {axis})"
