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
import io
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from serving.contract import PackagedFile
from tasks.contracts import Digest, FileTree
from tasks.errors import CorruptObject, StoreUnavailable

_CHUNK = 1 << 20
_STALE_AFTER_S = 24 * 3600
_MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class Store(Protocol):
    """Content-addressed bytes, and results by key. Implementations are safe to use from many processes at once."""

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this very store in another process."""

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
    """A store in a folder on a local disk. The folder is made when something is first stored."""

    def __init__(self, root: Path) -> None:
        """Raises StoreUnavailable where `root` can be no folder, or is none and cannot be made."""
        self.root = root
        there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
        if not there.is_dir():
            raise StoreUnavailable(
                f"the store {root} cannot be there: {there} is a file; name a folder in SLIPWAY_STORE or SLIPWAY_HOME"
            )
        if there != root.absolute():
            _check_place(root, there)
        self._sweep()

    @property
    def uri(self) -> str:
        return str(self.root.absolute())

    def put_stream(self, stream: IO[bytes]) -> tuple[Digest, int]:
        sha, size = hashlib.sha256(), 0
        with self._aside() as (path, out):
            while chunk := stream.read(_CHUNK):  # the source's errors are the caller's: they are not the store's
                sha.update(chunk)
                size += len(chunk)
                self._write(out, chunk)
            digest = f"sha256:{sha.hexdigest()}"
            self._publish(out, path, self._object(digest))
        return digest, size

    @contextlib.contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        try:
            with self._answering():
                stream = self._object(digest).open("rb")
        except FileNotFoundError as error:
            raise CorruptObject(_missing(self.root, digest)) from error
        with stream:
            yield stream

    def has(self, digest: Digest) -> bool:
        return self._object(digest).is_file()

    def put_result(self, stage: str, key: Digest, text: str) -> None:
        with self._aside() as (path, out):
            self._write(out, text.encode())
            self._publish(out, path, self._result(stage, key))

    def get_result(self, stage: str, key: Digest) -> str | None:
        try:
            with self._answering():
                return self._result(stage, key).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None

    def results(self, stage: str) -> Iterator[str]:
        paths = []
        for path in (self.root / "results" / stage).glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # another process may replace it meanwhile
                paths.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(paths, reverse=True):
            with contextlib.suppress(FileNotFoundError), self._answering():
                yield path.read_bytes().decode(errors="replace")

    def _object(self, digest: Digest) -> Path:
        hexadecimal = digest.removeprefix("sha256:")
        return self.root / "objects" / hexadecimal[:2] / hexadecimal[2:]

    def _result(self, stage: str, key: Digest) -> Path:
        return self.root / "results" / stage / f"{key.removeprefix('sha256:')}.json"

    def _write(self, out: io.FileIO, content: bytes) -> None:
        rest = memoryview(content)
        with self._answering():
            while rest:  # a full disk takes a part of it before it complains
                rest = rest[out.write(rest) :]

    @contextlib.contextmanager
    def _aside(self) -> Iterator[tuple[Path, io.FileIO]]:
        """A file that nobody finds, unbuffered: nothing is left to be written when it is closed."""
        path = self.root / "tmp" / uuid.uuid4().hex
        with self._answering():
            path.parent.mkdir(parents=True, exist_ok=True)
            out = path.open("xb", buffering=0)
        try:
            with out:
                yield path, out
        finally:
            path.unlink(missing_ok=True)

    def _publish(self, out: io.FileIO, aside: Path, final: Path) -> None:
        with self._answering():
            os.fsync(out.fileno())
            final.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(final)
            folder = os.open(final.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Name the store in what the disk complains about; that something is not there is an answer, no complaint."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(
                f"the store {self.root} does not answer ({error.strerror}): "
                "make room or give access, or set SLIPWAY_HOME or SLIPWAY_STORE to a folder that can be written"
            ) from error

    def _sweep(self) -> None:
        for path in (self.root / "tmp").glob("*"):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
                    path.unlink()


class RemoteStore:
    """A store behind any fsspec filesystem (s3, gs, abfs, memory, …).

    Objects are sent whole from a local copy. Where a filesystem can publish half of one, its size gives it away: it is
    sent again by the next writer, and refused by readers, who verify.
    """

    def __init__(self, uri: str) -> None:
        import fsspec

        self.uri = uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise StoreUnavailable(f"the store {uri} cannot be opened: {error}") from error

    def put_stream(self, stream: IO[bytes]) -> tuple[Digest, int]:
        with tempfile.NamedTemporaryFile() as copy:
            sha, size = hashlib.sha256(), 0
            while chunk := stream.read(_CHUNK):
                sha.update(chunk)
                size += len(chunk)
                copy.write(chunk)
            copy.flush()
            digest = f"sha256:{sha.hexdigest()}"
            if self._size(self._object(digest)) != size:
                self._send(Path(copy.name), self._object(digest))
        return digest, size

    @contextlib.contextmanager
    def open(self, digest: Digest) -> Iterator[IO[bytes]]:
        try:
            with self._answering():
                stream = self._fs.open(self._object(digest), "rb")
        except FileNotFoundError as error:
            raise CorruptObject(_missing(self.uri, digest)) from error
        with stream:
            yield stream

    def has(self, digest: Digest) -> bool:
        return self._size(self._object(digest)) is not None

    def put_result(self, stage: str, key: Digest, text: str) -> None:
        path = self._result(stage, key)
        with self._answering():
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, text.encode())

    def get_result(self, stage: str, key: Digest) -> str | None:
        return self._read(self._result(stage, key))

    def results(self, stage: str) -> Iterator[str]:
        try:
            with self._answering():
                listing = self._fs.ls(f"{self._root}/results/{stage}", detail=True, refresh=True)
        except FileNotFoundError:
            return
        for entry in sorted(listing, key=_modified, reverse=True):
            text = self._read(entry["name"]) if entry["name"].endswith(".json") else None
            if text is not None:
                yield text

    def _read(self, path: str) -> str | None:
        try:
            with self._answering():
                return bytes(self._fs.cat_file(path)).decode(errors="replace")
        except FileNotFoundError:
            return None

    def _size(self, path: str) -> int | None:
        try:
            with self._answering():
                return int(self._fs.info(path)["size"])
        except FileNotFoundError:
            return None

    def _send(self, local: Path, path: str) -> None:
        with self._answering():
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._fs.put_file(str(local), path)
            except BaseException:
                # fsspec closes what it was writing, and that publishes the part that was written.
                with contextlib.suppress(Exception):
                    self._fs.rm_file(path)
                raise

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"the store {self.uri} does not answer: {error}") from error

    def _object(self, digest: Digest) -> str:
        hexadecimal = digest.removeprefix("sha256:")
        return f"{self._root}/objects/{hexadecimal[:2]}/{hexadecimal[2:]}"

    def _result(self, stage: str, key: Digest) -> str:
        return f"{self._root}/results/{stage}/{key.removeprefix('sha256:')}.json"


def _missing(store: object, digest: Digest) -> str:
    return f"the store {store} has no object {digest}: run the stage that made it again with --fresh"


def _modified(entry: Mapping[str, Any]) -> float:
    """When a listed file was last written, in seconds; filesystems call it by different names and types."""
    found = next((entry[name] for name in _MODIFIED if entry.get(name) is not None), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found.timestamp() if isinstance(found, datetime) else float(found)


def _check_place(root: Path, there: Path) -> None:
    """Whether folders can be made in `there`: only trying says so, since root may write anywhere by mode."""
    try:
        Path(tempfile.mkdtemp(prefix=".slipway-", dir=there)).rmdir()
    except OSError as error:
        raise StoreUnavailable(
            f"the store {root} is not there and cannot be made: no folder can be made in {there} "
            f"({error.strerror or error}); name another in SLIPWAY_STORE or SLIPWAY_HOME"
        ) from error


def open_store(uri: str) -> Store:
    """The store at a path or an fsspec URI (`s3://bucket/prefix`, `memory://x`, `file:///path`)."""
    uri = re.sub(r"^(file|local)://", "", uri)
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
