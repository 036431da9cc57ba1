"""Import torchax 0.0.13 beside torch 2.13, and leave torch as it was.

torchax's tables name operator overloads for named tensors, which torch 2.13 no longer has, so that importing it
raises AttributeError. While it is imported, an absent overload answers a placeholder, which no graph ever names.

It also makes itself a device of torch, called jax, and turns a fast path of attention off. Neither is needed to lower
a graph, and with the device in place torch captures no `torch.cond`: both are kept from happening.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


def import_torchax() -> Any:
    """The `torchax.export` module; importing it again is free."""
    with _torch_protected():
        importlib.import_module("torchax").default_env()  # imports its operators, which name overloads too
        return importlib.import_module("torchax.export")


@contextlib.contextmanager
def _torch_protected() -> Iterator[None]:
    """While open, absent overloads are answered and torch's devices stay; at the end, its settings are as before."""
    import torch

    packet = torch._ops.OpOverloadPacket
    original, fast = packet.__getattr__, torch.backends.mha.get_fastpath_enabled()

    def answer(self: Any, key: str) -> Any:
        try:
            return original(self, key)
        except AttributeError:
            if key.startswith("__"):
                raise
            return _Absent(f"{self}.{key}")

    changed: tuple[tuple[Any, str, Any], ...] = (
        (packet, "__getattr__", answer),
        (torch.utils, "rename_privateuse1_backend", lambda name: None),
        (torch, "_register_device_module", lambda name, module: None),
    )
    before = [(place, name, getattr(place, name)) for place, name, _ in changed]
    for place, name, value in changed:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
        torch.backends.mha.set_fastpath_enabled(fast)


class _Absent:
    """An overload that this torch does not have."""

    def __init__(self, name: str) -> None:
        self.name = name
