"""Exports that were made elsewhere: what is never taken over, and that the format which was said decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import BadInput, SourceError
from tasks.export.foreign import adopt
from tasks.export.formats import FORMATS
from tasks.store import LocalStore
from tests.unit.ingest.conftest import save_onnx

#: Endings by which onnx takes a file for text, and onnxruntime for a form of its own.
ENDINGS = ("json", "textproto", "onnxtxt", "ort", "bin")


@pytest.mark.parametrize("format", [name for name, entry in FORMATS.items() if entry.is_compiled])
def test_a_compiled_model_that_was_made_elsewhere_is_never_opened(format: str, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"\x7fELF")
    with pytest.raises(BadInput, match="native code that runs when it is opened"):
        adopt(tmp_path, format, LocalStore(tmp_path / "store"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_onnx_is_said_so_whatever_its_name_ends_in(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"contract.{ending}"
    path.write_text('{"name": "digits"}\n')
    with pytest.raises(SourceError, match=f"contract.{ending} is no ONNX model"):
        adopt(path, "onnx", LocalStore(tmp_path / "store"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_onnx_model_is_one_whatever_its_name_ends_in(ending: str, tmp_path: Path) -> None:
    save_onnx(tmp_path / "m.onnx")
    path = (tmp_path / "m.onnx").rename(tmp_path / f"m.{ending}")
    export = adopt(path, "onnx", LocalStore(tmp_path / "store"))
    assert export.root == f"m.{ending}.onnx"
    assert [file.path for file in export.files.files] == [export.root]
