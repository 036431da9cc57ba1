"""Import torchax 0.0.13 beside torch 2.13.

torchax's tables name operator overloads for named tensors, which torch 2.13 no longer has, so that importing it
raises AttributeError. While it is imported, an absent overload answers a placeholder, which no graph ever names.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


def import_torchax() -> Any:
    """The `torchax.export` module; importing it again is free."""
    with absent_overloads_answered():
        importlib.import_module("torchax").default_env()  # imports its operators, which name overloads too
        return importlib.import_module("torchax.export")


@contextlib.contextmanager
def absent_overloads_answered() -> Iterator[None]:
    """While open, `torch.ops.aten.<operator>.<absent overload>` is a placeholder instead of an AttributeError."""
    import torch

    packet = torch._ops.OpOverloadPacket
    original = packet.__getattr__

    def answer(self: Any, key: str) -> Any:
        try:
            return original(self, key)
        except AttributeError:
            if key.startswith("__"):
                raise
            return _Absent(f"{self}.{key}")

    packet.__getattr__ = answer  # type: ignore[method-assign]
    try:
        yield
    finally:
        packet.__getattr__ = original  # type: ignore[method-assign]


class _Absent:
    """An overload that this torch does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
