"""What is done to a runtime's libraries before they enter an image."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.image.libraries import compile_bytecode, locked_versions, strip_symbols, trim
from tasks.image.runtimes import EXTRAS, RUNTIMES

ROOT = Path(__file__).parents[3]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def library(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_last_line_that_matches_decides(tmp_path: Path) -> None:
    write(tmp_path / "tree", "a/keep.so", "a/drop.py", "a/tests/t.py", "b/x.pyi", "b/x.py", "c/only/tests/t.py")
    write(tmp_path, "general", "own")
    (tmp_path / "general").write_text("# comment\n\n*.pyi\n*/tests/*\n")
    (tmp_path / "own").write_text("a/*\n!a/keep.so\n")
    trim(tmp_path / "tree", [tmp_path / "general", tmp_path / "own", tmp_path / "missing"])
    assert files(tmp_path / "tree") == ["a/keep.so", "b/x.py"]
    assert not (tmp_path / "tree" / "c").exists()


def test_a_stripped_library_still_works_and_the_file_that_it_shared_bytes_with_is_untouched(tmp_path: Path) -> None:
    cached, installed = tmp_path / "cached.so", tmp_path / "installed.so"
    shutil.copy(library("orjson.orjson"), cached)
    before = cached.read_bytes()
    installed.hardlink_to(cached)
    strip_symbols(installed)
    assert cached.read_bytes() == before
    assert installed.read_bytes()[58:64] == bytes(6)  # no section headers
    assert installed.stat().st_size < len(before)
    assert dumped_by(installed) == "[1,2.5,null]"


def dumped_by(orjson: Path) -> str:
    """What a copy of orjson's library writes, loaded by another process."""
    code = (
        "import importlib.machinery as m, importlib.util as u, sys;"
        "s = u.spec_from_file_location('orjson', sys.argv[1], loader=m.ExtensionFileLoader('orjson', sys.argv[1]));"
        "o = u.module_from_spec(s); s.loader.exec_module(o); print(o.dumps([1, 2.5, None]).decode())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(orjson)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_symbols_between_mapped_segments_go_and_the_library_is_still_loaded(tmp_path: Path) -> None:
    """As repaired wheels have them: mapped segments were added behind the symbol tables."""
    original = library("orjson.orjson").read_bytes()
    programs, sections = struct.unpack_from("<QQ", original, 32)
    _, count = struct.unpack_from("<HH", original, 54)
    offsets = [programs + index * 56 for index in range(count)]
    last = max(
        (at for at in offsets if original[at : at + 4] == b"\1\0\0\0"), key=lambda at: original[at + 8 : at + 16][::-1]
    )
    start = struct.unpack_from("<Q", original, last + 8)[0]
    gap = 64 * 0x1000
    widened = bytearray(original[:start] + b"symbols!" * (gap // 8) + original[start:])
    for at in offsets:
        (offset,) = struct.unpack_from("<Q", original, at + 8)
        if offset >= start:
            struct.pack_into("<Q", widened, at + 8, offset + gap)
    struct.pack_into("<Q", widened, 40, sections + gap)
    path = tmp_path / "widened.so"
    path.write_bytes(widened)
    assert dumped_by(path) == "[1,2.5,null]"
    strip_symbols(path)
    assert b"symbols!symbols!" * 512 not in path.read_bytes()
    assert path.stat().st_size < len(original)
    assert dumped_by(path) == "[1,2.5,null]"


def test_stripping_twice_changes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "x.so"
    shutil.copy(library("msgspec._core"), copy)
    strip_symbols(copy)
    once = copy.read_bytes()
    strip_symbols(copy)
    assert copy.read_bytes() == once


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), b"\x7fELF\x02\x02" + bytes(100)]
)
def test_what_is_no_64_bit_library_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(content)
    strip_symbols(path)
    assert path.read_bytes() == content


def test_bytecode_is_used_without_looking_at_the_source_and_names_its_place_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f():\n    raise ValueError\n")
    compile_bytecode(tmp_path, "/opt/runtime")
    (tmp_path / "m.py").write_text("def f():\n    return 'changed'\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import m; m.f()"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    (compiled,) = (tmp_path / "__pycache__").iterdir()
    assert b"/opt/runtime/m.py" in compiled.read_bytes()
    assert str(tmp_path).encode() not in compiled.read_bytes()
    assert "ValueError" in done.stderr


def test_without_its_source_a_module_is_still_imported_and_a_failure_in_it_is_still_located(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f():\n    raise ValueError\n")
    (tmp_path / "template.py").write_text("{% if this %}")
    compile_bytecode(tmp_path, "/opt/runtime", keep_sources=False)
    assert files(tmp_path) == ["m.pyc", "template.py"]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import m; m.f()"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert 'File "/opt/runtime/m.py", line 2, in f' in done.stderr


def test_bytecode_is_the_same_whoever_compiles_it(tmp_path: Path) -> None:
    written = []
    for name, seed in (("one", "1"), ("two", "2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "m.py").write_text("def f(x):\n    return x in {'a', 'b', 'c', 'd', 'e', 'f', 'g'}\n")
        os.utime(folder / "m.py", (int(seed), int(seed)))
        compile_bytecode_elsewhere(folder, seed)
        written.append((folder / "m.pyc").read_bytes())
    assert written[0] == written[1]


def compile_bytecode_elsewhere(folder: Path, hash_seed: str) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.image.libraries import compile_bytecode;"
        "compile_bytecode(Path(sys.argv[1]), '/opt/runtime', keep_sources=False)"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True)


@pytest.mark.parametrize("runtime", [*RUNTIMES.values(), *EXTRAS.values()], ids=[*RUNTIMES, *EXTRAS])
def test_a_runtime_has_exactly_the_environments_versions(runtime) -> None:
    environment = locked_versions(ROOT / "requirements.txt")
    pins = locked_versions(runtime.lock)
    assert pins == {name: environment[name] for name in pins}
    assert set(runtime.versions) == set(runtime.decisive)


@pytest.mark.parametrize("runtime", [*RUNTIMES.values(), *EXTRAS.values()], ids=[*RUNTIMES, *EXTRAS])
def test_a_lock_holds_what_its_list_names_each_by_hash(runtime) -> None:
    lines = (runtime.folder / "requirements.in").read_text().splitlines()
    assert set(locked_versions(runtime.lock)) == {line for line in lines if line and not line.startswith("#")}
    for block in runtime.lock.read_text().split("\n"):
        if "==" in block:
            assert block.endswith("\\"), block
