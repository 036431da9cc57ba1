"""Exports that were made elsewhere: what is never taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import BadInput
from tasks.export.foreign import adopt
from tasks.export.formats import FORMATS
from tasks.store import LocalStore


@pytest.mark.parametrize("format", [name for name, entry in FORMATS.items() if entry.is_compiled])
def test_a_compiled_model_that_was_made_elsewhere_is_never_opened(format: str, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"\x7fELF")
    with pytest.raises(BadInput, match="native code that runs when it is opened"):
        adopt(tmp_path, format, LocalStore(tmp_path / "store"))
