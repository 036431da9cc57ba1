"""Build contexts and layers: tars whose bytes follow from their content alone; the same input is the same layer.

No time of day, no owner, no permission of the machine that builds enters: files are 0644, folders 0755, all of root and
of one fixed date. In a context, what goes into the image lies below `root/`, and is copied as a whole (`COPY root /`):
a folder that is named in COPY would get the time of day.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import IO

from serving.contract import PackagedFile
from tasks.errors import CorruptObject
from tasks.store import Store

#: 2026-01-01, as in docker/base: nothing in an image is younger.
DATE = 1767225600


class Context:
    """A tar being written, of a context or of a layer; parent folders are added as they are needed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  closed by finish
        self._folders: set[str] = set()

    def add_bytes(self, name: str, content: bytes) -> None:
        self._tar.addfile(self._entry(name, len(content)), io.BytesIO(content))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as stream:
            self.add_stream(name, stream)

    def add_stream(self, name: str, stream: IO[bytes]) -> None:
        """All of a file that is open at its beginning."""
        self._tar.addfile(self._entry(name, os.fstat(stream.fileno()).st_size), stream)

    def add_tree(self, name: str, folder: Path) -> None:
        """Every file below `folder`; links and empty folders are left out."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.add_file(f"{name}/{path.relative_to(folder).as_posix()}", path)

    def add_stored(self, name: str, file: PackagedFile, store: Store) -> None:
        """A file from the store, held against its digest while it is read.

        Raises:
            CorruptObject: the store's bytes are not the ones that the digest names.
        """
        with store.open(file.digest) as stream:
            reader = _HashingReader(stream)
            try:
                self._tar.addfile(self._entry(name, file.size_bytes), reader)
            except OSError as error:  # the object is shorter than it should be
                raise CorruptObject(f"{file.path}: the store's object {file.digest} is cut short") from error
            if reader.digest != file.digest:
                raise CorruptObject(
                    f"{file.path}: expected {file.digest}, the store holds {reader.digest}: "
                    "remove that object from the store and run again with --fresh"
                )

    def finish(self) -> IO[bytes]:
        """The complete tar, at its beginning."""
        self._tar.close()
        self._stream.seek(0)
        return self._stream

    def _entry(self, name: str, size: int) -> tarfile.TarInfo:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._folders:
                self._folders.add(folder)
                self._tar.addfile(_fixed(folder, tarfile.DIRTYPE, 0o755))
        entry = _fixed(name, tarfile.REGTYPE, 0o644)
        entry.size = size
        return entry


class _HashingReader(io.RawIOBase):
    """Passes reads on, and digests what went through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._inner = stream
        self._sha = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._inner.read(size)
        self._sha.update(piece)
        return piece

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha.hexdigest()}"


def _fixed(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, DATE
    return entry
