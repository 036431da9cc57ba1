"""The table of formats: light, complete, and right about what exists."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from tasks.export import FORMATS, formats_of
from tasks.spec import Framework

EXPORTERS = [(name, framework, path) for name, entry in FORMATS.items() for framework, path in entry.exporters.items()]


@pytest.mark.parametrize(("name", "framework", "path"), EXPORTERS)
def test_every_exporter_in_the_table_exists(name: str, framework: str, path: str) -> None:
    module, _, function = path.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert Framework(framework)


@pytest.mark.parametrize(
    ("framework", "expected"),
    [
        ("pytorch", ("onnx", "onnx-int8", "onnx-fp16", "savedmodel", "torch-export", "torch-aoti")),
        ("keras", ("onnx", "onnx-int8", "onnx-fp16", "savedmodel")),
        ("tensorflow", ("onnx", "onnx-int8", "onnx-fp16", "savedmodel")),
        ("sklearn", ("onnx",)),
        ("onnx", ("onnx", "onnx-int8", "onnx-fp16")),
        ("caffe", ()),
    ],
)
def test_each_framework_gives_its_formats(framework: str, expected: tuple[str, ...]) -> None:
    assert formats_of(framework) == expected


def test_formats_are_called_by_their_key() -> None:
    assert {name: entry.name for name, entry in FORMATS.items()} == {name: name for name in FORMATS}


def test_the_table_and_every_exporter_import_no_framework() -> None:
    modules = sorted({path.partition(":")[0] for _, _, path in EXPORTERS})
    program = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules!r}];"
        "print(*{'torch', 'tensorflow', 'keras', 'jax', 'onnx', 'sklearn', 'tf2onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
