"""Zip archives, which most model files are: whole, honest about their size, and with names that stay inside.

What a scan reads must be what the framework's loader reads, so archives that two readers could understand differently
(a name twice, data before the archive, a comment that could hold another directory) are refused.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import SourceError, UnsafeSource

#: Above this, an archive that grows more than `_MOST_GROWTH` times is a bomb. Models hardly compress at all.
_BOMB_BYTES = 1 << 28
_MOST_GROWTH = 50
_ENCRYPTED = 0x1


@contextmanager
def opened(path: Path, what: str) -> Iterator[zipfile.ZipFile]:
    """A checked archive. `what` says what it should be, such as "a Keras model".

    Raises:
        SourceError: it is not a zip archive, was cut short, or a member does not match its checksum.
        UnsafeSource: it would write outside its folder, fill the disk, or hide members from a scan.
    """
    damaged = f"{path.name} is not {what}, or was cut short while it was copied"
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                raise SourceError(f"{damaged}: it does not begin like a zip archive; copy or save it again")
        with zipfile.ZipFile(path) as archive:
            _refuse_tricks(path, archive)
            if broken := archive.testzip():
                raise SourceError(f"{path.name}: {broken} does not match its checksum; copy or save the file again")
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise SourceError(f"{damaged}: {error}; copy or save it again") from error


def is_zip(path: Path) -> bool:
    """Whether the file begins like a zip archive."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _refuse_tricks(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    seen: set[str] = set()
    for member in members:
        name = member.orig_filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
            raise UnsafeSource(f"{path.name}: the member {name!r} would be written outside its folder; save it again")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsafeSource(f"{path.name}: the member {name!r} is a link; save the file again")
        if member.flag_bits & _ENCRYPTED:
            raise SourceError(f"{path.name}: the member {name!r} is encrypted; save the file without a password")
        if name.casefold() in seen:
            raise UnsafeSource(f"{path.name}: the member {name!r} is there twice, so readers disagree; save it again")
        seen.add(name.casefold())
    if archive.comment:
        raise UnsafeSource(f"{path.name}: the archive has a comment, which no model file has; save it again")
    grown, size = sum(member.file_size for member in members), path.stat().st_size
    if grown > _BOMB_BYTES and grown > _MOST_GROWTH * size:
        raise UnsafeSource(
            f"{path.name}: its {size} bytes would unpack to {grown}: expected a model, found what fills a disk"
        )
