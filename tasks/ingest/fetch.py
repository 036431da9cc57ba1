"""Source bytes → the store, streamed: a local path, or any URI that fsspec opens.

A source that changes while it is read, ends early or cannot be read is refused: what is stored is what was there.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from serving.contract import PackagedFile
from tasks.contracts import FileTree
from tasks.errors import SourceError
from tasks.store import Store

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder on a filesystem that fsspec knows. `uri` is how the user wrote it."""

    filesystem: Any
    path: str
    uri: str

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))


def locate(uri: str, folder: Path) -> Location:
    """Where `uri` is; a plain path is relative to `folder`.

    Raises:
        SourceError: no filesystem for its scheme, or nothing is there.
    """
    import fsspec

    full = uri if "://" in uri else str((folder / uri).absolute())
    try:
        filesystem, path = fsspec.core.url_to_fs(full)
        there = filesystem.exists(path)
    except (ImportError, ValueError, OSError) as error:
        raise SourceError(f"{uri}: cannot be opened: {error}") from error
    if not there:
        raise SourceError(f"{uri}: nothing is there; train the model first, or correct the path")
    return Location(filesystem, path, uri)


def store_tree(location: Location, store: Store) -> tuple[FileTree, str]:
    """Stream a file, or every file of a folder, into the store; the tree, and the root inside it."""
    if not location.filesystem.isdir(location.path):
        return FileTree(files=(_store_file(location, location.path, location.name, store),)), location.name
    files = [_store_file(location, path, name, store) for path, name in _listing(location)]
    if not files:
        raise SourceError(f"{location.uri}: the folder is empty")
    return FileTree(files=tuple(files)), "."


def digest_tree(location: Location) -> list[tuple[str, str]]:
    """Path and sha256 of every file, without storing anything."""
    paths = _listing(location) if location.filesystem.isdir(location.path) else [(location.path, location.name)]
    digests = []
    for path, name in paths:
        sha = hashlib.sha256()
        with _reading(location, path) as stream:
            for chunk in _chunks(stream):
                sha.update(chunk)
        digests.append((name, f"sha256:{sha.hexdigest()}"))
    return digests


def _listing(location: Location) -> list[tuple[str, str]]:
    found = location.filesystem.find(location.path)
    return sorted(((path, posixpath.relpath(path, location.path)) for path in found), key=lambda pair: pair[1])


def _reading(location: Location, path: str) -> Any:
    try:
        return location.filesystem.open(path, "rb")
    except OSError as error:
        raise SourceError(f"{location.uri}: cannot be read: {error}") from error


def _store_file(location: Location, path: str, name: str, store: Store) -> PackagedFile:
    before = location.filesystem.info(path)
    with _reading(location, path) as stream:
        digest, size = store.put_stream(stream)
    location.filesystem.invalidate_cache()
    after = location.filesystem.info(path)
    if size != before.get("size") or any(before.get(key) != after.get(key) for key in ("size", "mtime", "ETag")):
        raise SourceError(f"{location.uri}: {name} changed while it was read; run again when its writer is done")
    if size == 0:
        raise SourceError(f"{location.uri}: {name} is empty")
    return PackagedFile(path=name, digest=digest, size_bytes=size)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk
