"""Bytes by digest, and stage results by key: what makes a stage that did not change free.

In: local files. Out: `PackagedFile` and `FileTree` references, later materialised again with every byte verified.
One layout on a local disk and on any fsspec filesystem:

    objects/ab/cdef…                sha256 of the content
    results/<stage>/<key>.json      a stage's contract, by the digest of its inputs

Publishing is atomic: written aside, flushed to disk, renamed. A killed process leaves only a file in `tmp/`, which the
next writer sweeps once it is a day old.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from serving.contract import PackagedFile
from tasks.contracts import Digest, FileTree
from tasks.errors import CorruptObject, StoreUnavailable

_CHUNK = 1 << 20
_STALE_AFTER_S = 24 * 3600


class Store(Protocol):
    """Content-addressed bytes, and results by key. Implementations are safe to use from many processes at once."""

    def put_stream(self, stream: IO[bytes]) -> tuple[Digest, int]:
        """Store what `stream` yields; its digest and size in bytes. Storing the same bytes again is free of effect."""

    def open(self, digest: Digest) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Read an object. The caller verifies; `fetch` does."""

    def has(self, digest: Digest) -> bool: ...

    def put_result(self, stage: str, key: Digest, text: str) -> None:
        """Remember a stage's result; the last writer wins, and readers see a whole text or none."""

    def get_result(self, stage: str, key: Digest) -> str | None: ...

    def results(self, stage: str) -> Iterator[str]:
        """Every result of a stage, newest first."""


class LocalStore:
    """A store in a folder on a local disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in ("objects", "results", "tmp"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"the store {root} cannot be written ({error.strerror}): "
                "set SLIPWAY_HOME or SLIPWAY_STORE to a folder that can"
            ) from error
        self._sweep()

    def put_stream(self, stream: IO[bytes]) -> tuple[Digest, int]:
        sha, size = hashlib.sha256(), 0
        with self._aside() as (path, out):
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
                size += len(chunk)
                out.write(chunk)
            digest = f"sha256:{sha.hexdigest()}"
            self._publish(out, path, self._object(digest))
        return digest, size

    @contextlib.contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        try:
            stream = self._object(digest).open("rb")
        except FileNotFoundError as error:
            raise CorruptObject(
                f"the store {self.root} has no object {digest}: run the stage that made it again with --fresh"
            ) from error
        with stream:
            yield stream

    def has(self, digest: Digest) -> bool:
        return self._object(digest).is_file()

    def put_result(self, stage: str, key: Digest, text: str) -> None:
        with self._aside() as (path, out):
            out.write(text.encode())
            self._publish(out, path, self._result(stage, key))

    def get_result(self, stage: str, key: Digest) -> str | None:
        try:
            return self._result(stage, key).read_text()
        except FileNotFoundError:
            return None

    def results(self, stage: str) -> Iterator[str]:
        folder = self.root / "results" / stage
        paths = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # another process may replace it meanwhile
                yield path.read_text()

    def _object(self, digest: Digest) -> Path:
        hexadecimal = digest.removeprefix("sha256:")
        return self.root / "objects" / hexadecimal[:2] / hexadecimal[2:]

    def _result(self, stage: str, key: Digest) -> Path:
        return self.root / "results" / stage / f"{key.removeprefix('sha256:')}.json"

    @contextlib.contextmanager
    def _aside(self) -> Iterator[tuple[Path, IO[bytes]]]:
        path = self.root / "tmp" / uuid.uuid4().hex
        try:
            with path.open("xb") as out:
                yield path, out
        except OSError as error:
            raise StoreUnavailable(f"the store {self.root} cannot be written: {error}") from error
        finally:
            path.unlink(missing_ok=True)

    def _publish(self, out: IO[bytes], aside: Path, final: Path) -> None:
        out.flush()
        os.fsync(out.fileno())
        final.parent.mkdir(parents=True, exist_ok=True)
        aside.replace(final)
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _sweep(self) -> None:
        for path in (self.root / "tmp").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
                    path.unlink()


class RemoteStore:
    """A store behind any fsspec filesystem (s3, gs, abfs, memory, …), whose single-object writes are atomic."""

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise StoreUnavailable(f"the store {uri} cannot be opened: {error}") from error

    def put_stream(self, stream: IO[bytes]) -> tuple[Digest, int]:
        import tempfile

        with tempfile.TemporaryFile() as spool:
            sha, size = hashlib.sha256(), 0
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
                size += len(chunk)
                spool.write(chunk)
            digest = f"sha256:{sha.hexdigest()}"
            if not self.has(digest):
                spool.seek(0)
                with self._open(self._object(digest), "wb") as out:
                    shutil.copyfileobj(spool, out, _CHUNK)
        return digest, size

    @contextlib.contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        try:
            with self._open(self._object(digest), "rb") as stream:
                yield stream
        except FileNotFoundError as error:
            raise CorruptObject(
                f"the store {self.uri} has no object {digest}: run the stage that made it again with --fresh"
            ) from error

    def has(self, digest: Digest) -> bool:
        return bool(self._fs.exists(self._object(digest)))

    def put_result(self, stage: str, key: Digest, text: str) -> None:
        with self._open(self._result(stage, key), "wb") as out:
            out.write(text.encode())

    def get_result(self, stage: str, key: Digest) -> str | None:
        try:
            with self._open(self._result(stage, key), "rb") as stream:
                return stream.read().decode()
        except FileNotFoundError:
            return None

    def results(self, stage: str) -> Iterator[str]:
        folder = f"{self._root}/results/{stage}"
        if not self._fs.exists(folder):
            return
        listing = self._fs.ls(folder, detail=True, refresh=True)
        for entry in sorted(
            listing, key=lambda entry: str(entry.get("LastModified") or entry.get("created")), reverse=True
        ):
            with self._open(entry["name"], "rb") as stream:
                yield stream.read().decode()

    @contextlib.contextmanager
    def _open(self, path: str, mode: str) -> Iterator[IO[bytes]]:
        try:
            if "w" in mode:
                self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with self._fs.open(path, mode) as stream:
                yield stream
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"the store {self.uri} does not answer: {error}") from error

    def _object(self, digest: Digest) -> str:
        hexadecimal = digest.removeprefix("sha256:")
        return f"{self._root}/objects/{hexadecimal[:2]}/{hexadecimal[2:]}"

    def _result(self, stage: str, key: Digest) -> str:
        return f"{self._root}/results/{stage}/{key.removeprefix('sha256:')}.json"


def open_store(uri: str) -> Store:
    """The store at a path or an fsspec URI (`s3://bucket/prefix`, `memory://x`, `file:///path`)."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    return RemoteStore(uri) if "://" in uri else LocalStore(Path(uri).absolute())


def put_file(store: Store, path: Path, name: str | None = None) -> PackagedFile:
    """Store one local file, under its own name unless another is given."""
    with path.open("rb") as stream:
        digest, size = store.put_stream(stream)
    return PackagedFile(path=name or path.name, digest=digest, size_bytes=size)


def put_tree(store: Store, root: Path) -> FileTree:
    """Store a file, or every file below a folder. Links are refused: they could point outside the tree."""
    if root.is_file():
        return FileTree(files=(put_file(store, root),))
    files = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise StoreUnavailable(
                f"{path} is a link, which the store does not follow: copy what it points to in its place"
            )
        if path.is_file():
            files.append(put_file(store, path, path.relative_to(root).as_posix()))
    return FileTree(files=tuple(sorted(files, key=lambda file: file.path)))


def fetch(store: Store, file: PackagedFile, destination: Path) -> Path:
    """Write one object to `destination`, verifying size and digest; nothing is left there when they do not match."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    sha, size = hashlib.sha256(), 0
    aside = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    try:
        with store.open(file.digest) as stream, aside.open("xb") as out:
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
                size += len(chunk)
                out.write(chunk)
        if f"sha256:{sha.hexdigest()}" != file.digest or size != file.size_bytes:
            raise CorruptObject(
                f"{file.path}: expected {file.size_bytes} bytes with {file.digest}, "
                f"the store holds {size} bytes with sha256:{sha.hexdigest()}: "
                "remove that object from the store and run again with --fresh"
            )
        aside.replace(destination)
    finally:
        aside.unlink(missing_ok=True)
    return destination


def fetch_tree(store: Store, tree: FileTree, folder: Path) -> Path:
    """Write a whole tree below `folder`, every byte verified; the folder."""
    for file in tree.files:
        fetch(store, file, folder / file.path)
    return folder


def read_bytes(store: Store, file: PackagedFile) -> bytes:
    """One small object's content, verified."""
    with store.open(file.digest) as stream:
        content = stream.read()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != file.digest:
        raise CorruptObject(
            f"{file.path}: the store's object {file.digest} was altered: remove it and run again with --fresh"
        )
    return content
