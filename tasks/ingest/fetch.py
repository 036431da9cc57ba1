"""Source bytes → the store, streamed: from a local path, or from any URI that fsspec opens.

A source that changes while it is read, ends early or cannot be read is refused: what is stored is what was there, all
of it, at one moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from serving.contract import PackagedFile
from tasks.contracts import FileTree
from tasks.errors import SlipwayError, SourceError
from tasks.store import Store

_CHUNK = 1 << 20

#: What tells two states of a file apart, by whatever name its filesystem calls it.
_IDENTITY = (
    "size",
    "mtime",
    "ino",
    "ETag",
    "etag",
    "LastModified",
    "last_modified",
    "created",
    "md5Hash",
    "generation",
)

#: Those of them that follow from the content, so that a remote file need not be read to be recognised.
_CONTENT_IDENTITY = ("ETag", "etag", "md5Hash", "content_md5")


@dataclass(frozen=True, slots=True)
class Location:
    """A file or folder on a filesystem that fsspec knows.

    `uri` is what is recorded and shown: pinned, an alias resolved to its version. `run` is the MLflow run that made
    it, where the URI says so.
    """

    filesystem: Any
    path: str
    uri: str
    run: str | None = None

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def is_folder(self) -> bool:
        with _reporting(self.uri):
            return bool(self.filesystem.isdir(self.path))

    def files(self) -> list[tuple[str, str]]:
        """(path, path relative to this) of every file, sorted; a file has itself under its own name."""
        if not self.is_folder:
            return [(self.path, self.name)]
        with _reporting(self.uri):
            found = self.filesystem.find(self.path)
        return sorted(((path, posixpath.relpath(path, self.path)) for path in found), key=lambda pair: pair[1])

    def at(self, relative: str) -> Location:
        """What lies at a path relative to this folder."""
        return replace(self, path=posixpath.join(self.path, relative))

    def beside(self, relative: str) -> Location:
        """What lies at a path relative to this file's folder."""
        return replace(self, path=posixpath.join(posixpath.dirname(self.path), relative))

    def exists(self) -> bool:
        with _reporting(self.uri):
            return bool(self.filesystem.exists(self.path))


def locate(uri: str, folder: Path) -> Location:
    """Where a path or an fsspec URI is; a plain path is relative to `folder`.

    Raises:
        SourceError: there is no filesystem for its scheme, or nothing is there.
    """
    import fsspec

    full = uri if "://" in uri else str((folder / uri).absolute())
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    with _reporting(uri):
        try:
            filesystem, path = fsspec.core.url_to_fs(full)
        except ImportError as error:
            reason = f"{scheme}:// needs a package that is not installed ({error})"
            raise SourceError(f"{uri}: {reason}; install it where Slipway runs, or give a local path") from error
        except ValueError as error:
            raise SourceError(f"{uri}: {error}; expected a path, or a URI such as s3://bucket/key") from error
    location = Location(filesystem, path, uri)
    if not location.exists():
        raise SourceError(f"{uri}: nothing is there; train the model first, or correct the path")
    return location


def store_tree(location: Location, store: Store) -> FileTree:
    """Stream a file, or every file of a folder, into the store.

    Raises:
        SourceError: it changed while it was read, ended early, is empty, or cannot be read.
    """
    before = location.files()
    if not before:
        raise SourceError(f"{location.uri}: the folder is empty; expected a model in it")
    files = [_store_file(location, path, name, store) for path, name in before]
    if location.files() != before:
        raise SourceError(f"{location.uri}: files came or went while it was read; run again when its writer is done")
    return FileTree(files=tuple(files))


def identity(location: Location) -> list[list[str]]:
    """Name and identity of every file, without storing anything: by its bytes, or by what a remote says of them."""
    found = []
    for path, name in location.files():
        known = {key: str(value) for key, value in _info(location, path).items() if key in _CONTENT_IDENTITY and value}
        found.append([name, *(f"{key}={value}" for key, value in sorted(known.items()))] if known else [name])
        if not known:
            sha = hashlib.sha256()
            with _reporting(location.uri), location.filesystem.open(path, "rb") as stream:
                for chunk in _chunks(stream):
                    sha.update(chunk)
            found[-1].append(sha.hexdigest())
    return found


def _store_file(location: Location, path: str, name: str, store: Store) -> PackagedFile:
    where = location.uri if name == location.name else f"{location.uri}/{name}"
    before = _info(location, path)
    with _reporting(location.uri), location.filesystem.open(path, "rb") as stream:
        digest, size = store.put_stream(cast(IO[bytes], _Source(stream, location.uri)))
    after = _info(location, path)
    if any(before.get(key) != after.get(key) for key in _IDENTITY):
        raise SourceError(f"{where}: changed while it was read; run again when its writer is done")
    if before.get("size") is not None and size != before["size"]:
        raise SourceError(f"{where}: ended after {size} of {before['size']} bytes; copy it again")
    if size == 0:
        raise SourceError(f"{where}: is empty (0 bytes); save it again")
    return PackagedFile(path=name, digest=digest, size_bytes=size)


@dataclass(frozen=True, slots=True)
class _Source:
    """A stream whose errors are the source's: inside the store, they would pass for the store's own."""

    stream: IO[bytes]
    uri: str

    def read(self, size: int = -1) -> bytes:
        with _reporting(self.uri):
            return self.stream.read(size)


def _info(location: Location, path: str) -> Mapping[str, Any]:
    with _reporting(location.uri):
        location.filesystem.invalidate_cache()
        return dict(location.filesystem.info(path))


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


@contextlib.contextmanager
def _reporting(uri: str) -> Iterator[None]:
    """Filesystems' errors as ours: some are OSErrors, others their library's own (aiohttp, botocore)."""
    try:
        yield
    except SlipwayError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: nothing is there; train the model first, or correct the path") from error
    except PermissionError as error:
        raise SourceError(
            f"{uri}: reading it is not permitted; grant it, or give credentials by environment"
        ) from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{uri}: cannot be read ({reason}); check that it can be reached from here") from error
