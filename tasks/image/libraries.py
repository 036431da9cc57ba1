"""A runtime's locked libraries → a folder that is copied into its image: installed, trimmed, compiled.

All of it happens outside the image, because the base has no installer, no shell and no network. Wheels come from uv's
cache, a folder (`SLIPWAY_WHEELS`, air-gapped) or the package index; each is held against the lock's hash.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from tasks.errors import BuildFailed

#: Shared objects below this size are not worth rewriting.
_STRIP_FROM_BYTES = 1 << 20
#: A program header whose bytes are mapped (System V ABI, chapter 5).
_PT_LOAD = 1


def locked_versions(lock: Path) -> dict[str, str]:
    """Distribution → version, from a hashed requirements.txt."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), flags=re.MULTILINE)
    return dict(pins)


def locked_hashes(lock: Path) -> dict[str, tuple[str, ...]]:
    """Distribution → the sha256 of each wheel that a hashed requirements.txt allows."""
    found: dict[str, tuple[str, ...]] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE):
        name, _, rest = block.partition("==")
        if rest:
            found[name] = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest))
    return found


def install(lock: Path, target: Path, platform: str | None = None) -> None:
    """Install exactly what the lock names into `target`; wheels of `platform` (a name of uv's) instead of this
    machine's, where one is given.

    Raises:
        BuildFailed: with the installer's last lines.
    """
    uv = _uv()
    environment = os.environ | {"UV_PYTHON": sys.executable, "UV_NO_PROGRESS": "1"}
    # pip's settings for people behind a mirror hold for uv as well; uv separates links by commas.
    if links := os.environ.get("PIP_FIND_LINKS"):
        environment.setdefault("UV_FIND_LINKS", ",".join(links.split()))
    if index := os.environ.get("PIP_INDEX_URL"):
        environment.setdefault("UV_DEFAULT_INDEX", index)
    command = [str(uv), "pip", "install", "--target", str(target), "--no-deps", "--require-hashes"]
    if platform is not None:
        command += ["--python-platform", platform, "--only-binary", ":all:"]
    if wheels := os.environ.get("SLIPWAY_WHEELS"):
        command += ["--no-index", "--find-links", wheels]
    elif not _has_cpu_torch(environment.get("UV_FIND_LINKS", "")):
        # PyPI has no CPU build of torch; PyTorch's own index does.
        command += ["--torch-backend", "cpu"]
    done = subprocess.run(
        [*command, "--requirement", str(lock)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise BuildFailed(
            f"the libraries of {lock.parent.name} could not be installed from its lock; uv says:\n{last}\n"
            "without network, name a folder of wheels (`make wheels`) in SLIPWAY_WHEELS"
        )


def trim(folder: Path, patterns: list[Path]) -> None:
    """Remove what the pattern files remove (their last matching line decides), empty folders and symbol tables."""
    rules = [line for path in patterns if path.is_file() for line in path.read_text().splitlines()]
    rules = [line for line in rules if line and not line.startswith("#")]
    for path in [path for path in folder.rglob("*") if not path.is_dir()]:
        name = path.relative_to(folder).as_posix()
        decisive = next((rule for rule in reversed(rules) if fnmatchcase(name, rule.removeprefix("!"))), "!")
        if not decisive.startswith("!"):
            path.unlink()
        elif ".so" in path.suffixes and path.stat().st_size >= _STRIP_FROM_BYTES:
            strip_symbols(path)
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()


def strip_symbols(path: Path) -> None:
    """Cut out of an ELF file what the loader never maps: symbol tables for debuggers and the section headers.

    Program headers (System V ABI chapter 5) name what is mapped; it stays as it is, byte by byte. Where a wheel was
    repaired, mapped bytes follow the symbol tables too: they move down by whole multiples of the segments' alignment,
    so that offset and address stay congruent, as the loader demands. The file is replaced, not written to: it may share
    its bytes with a package cache.
    """
    with path.open("rb") as stream:
        header = stream.read(64)
        if header[:6] != b"\x7fELF\x02\x01":  # 64 bit, little-endian
            return
        programs, sections = struct.unpack_from("<QQ", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        stream.seek(programs)
        table = bytearray(stream.read(size * count))
        # p_type, p_offset, p_filesz and p_align of each program header
        entries = [struct.unpack_from("<I4xQ16xQ8xQ", table, index * size) for index in range(count)]
        spans = [(offset, offset + length) for _, offset, length, _ in entries if length]
        align = max((align for kind, _, _, align in entries if kind == _PT_LOAD), default=0)
        pieces = _moved_together(sorted([(0, 64), (programs, programs + len(table)), *spans]), align)
        if not sections or not align:
            return

        def moved(offset: int) -> int:
            return offset - next((shift for start, end, shift in pieces if start <= offset < end), 0)

        for index, (_, offset, _, _) in enumerate(entries):
            struct.pack_into("<Q", table, index * size + 8, moved(offset))
        aside = path.with_name(f"{path.name}.stripped")
        with aside.open("wb") as out:
            for start, end, shift in pieces:
                stream.seek(start)
                out.seek(start - shift)
                _copy(stream, out, end - start)
            out.seek(0)
            # e_phoff where the table went; e_shoff, e_shentsize, e_shnum and e_shstrndx: no section headers
            out.write(header[:32] + struct.pack("<QQ", moved(programs), 0) + header[48:58] + bytes(6))
            out.seek(moved(programs))
            out.write(table)
    shutil.copymode(path, aside)
    aside.replace(path)


def _moved_together(spans: list[tuple[int, int]], align: int) -> list[tuple[int, int, int]]:
    """Sorted spans of a file, merged, each with how far down it moves: by what whole alignments fit into the gaps."""
    pieces: list[tuple[int, int, int]] = []
    for start, end in spans:
        if pieces and start <= pieces[-1][1]:
            first, last, shift = pieces[-1]
            pieces[-1] = (first, max(last, end), shift)
        else:
            gap, shift = (start - pieces[-1][1], pieces[-1][2]) if pieces else (0, 0)
            pieces.append((start, end, shift + (gap // align * align if align else 0)))
    return pieces


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    while piece := source.read(min(1 << 20, length)):
        target.write(piece)
        length -= len(piece)


def compile_bytecode(folder: Path, installed_at: str, *, keep_sources: bool = True) -> None:
    """Compile every module for the same Python (3.11), named as it will be in the image.

    Unchecked, because an image's sources do not change: nothing is compared at start, and no time enters the files.
    Without its source, a module's bytecode lies in the source's place (PEP 3147, "Case 3"); tracebacks still name
    file, line and function.
    """
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    command += [] if keep_sources else ["-b"]
    # Some wheels carry templates that are no valid Python; they are no modules either.
    # Sets of constants are written in the order of their hashes.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    subprocess.run(
        [*command, "-s", str(folder), "-p", installed_at, str(folder)],
        env=environment,
        capture_output=True,
        check=False,
    )
    for source in () if keep_sources else folder.rglob("*.py"):
        if source.with_suffix(".pyc").is_file():
            source.unlink()


def _uv() -> Path:
    beside = Path(sys.executable).with_name("uv")
    found = beside if beside.is_file() else shutil.which("uv")
    if found is None:
        raise BuildFailed("uv is missing, which installs the runtimes' libraries: run `make setup`")
    return Path(found)


def _has_cpu_torch(links: str) -> bool:
    folders = (Path(link.removeprefix("file://")) for link in links.split(",") if link)
    return any(any(folder.glob("torch-*+cpu-cp311-*.whl")) for folder in folders)
