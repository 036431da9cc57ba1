"""A fault of the corpus: a good export goes in, a file with one thing wrong comes out; and what the gate must say.

In: a source model and its good export (`Good`). Out: the file or folder that the runtime is given. The tables are
`FAULTS` in `onnx_structure`, `onnx_values`, `savedmodel_faults` and `torch_faults`; `table` has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.contract import Signature


@dataclass(frozen=True, slots=True)
class Good:
    """A source and its faithful export. `native` makes the source's module or model anew, to be changed."""

    native: Callable[[], Any]
    signature: Signature
    export: Path


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with one export.

    Attributes:
        name: what it is called, unique within its format.
        format: an entry of `tasks.export.FORMATS`.
        base: the source, an entry of `tests.parity.corpus.bases.BASES`.
        says: what it does, in a sentence.
        inject: writes the faulty export into the empty folder, and answers what the runtime is to load.
        code: the finding that must block it; None for a change that is too small to matter, which must pass.
        also: findings that may stand beside it. Any other one is the wrong reason.
        layers: the source's modules of which the report must name one as the first that diverges; empty where the
            fault is in none of them, or is not one of values. Several where an exporter fuses them into one operator.
    """

    name: str
    format: str
    base: str
    says: str
    inject: Callable[[Good, Path], Path]
    code: str | None
    also: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.format}-{self.name}"

    def caught_by(self, codes: list[str]) -> bool:
        """Whether these blocking findings are the right reason."""
        return self.code in codes and set(codes) <= {self.code, *self.also} if self.code else not codes
