"""Bytes on their way into the store: whole, unchanged, from wherever fsspec can read."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.errors import SourceError
from tasks.ingest.fetch import identity, locate, store_tree
from tasks.store import LocalStore, read_bytes


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


class WritingStore(LocalStore):
    """A store during whose reading somebody else writes to the source."""

    def __init__(self, root: Path, write: Any) -> None:
        super().__init__(root)
        self.write = write

    def put_stream(self, stream: IO[bytes]) -> tuple[str, int]:
        begun = stream.read(3)
        self.write()
        return super().put_stream(io.BytesIO(begun + stream.read()))


class Odd(MemoryFileSystem):
    """A filesystem of its own, to be made odd in one way."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.store, cls.pseudo_dirs = {}, [""]
        fsspec.register_implementation(cls.protocol, cls, clobber=True)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix(f"{cls.protocol}://").strip("/")


class CutShort(Odd):
    """Promises more bytes than it gives."""

    protocol = "cutshort"

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        found = super().info(path, **kwargs)
        return {**found, "size": found["size"] + 100} if found["type"] == "file" else found


class Forbidden(Odd):
    """Lets nobody read."""

    protocol = "forbidden"

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        if "r" in mode:
            raise PermissionError(13, "Permission denied", path)
        return super()._open(path, mode, **kwargs)


class Breaking(Odd):
    """Breaks off while it is read."""

    protocol = "breaking"

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return super()._open(path, mode, **kwargs) if "w" in mode else BrokenStream()


class BrokenStream(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("connection reset")


class Tagged(Forbidden):
    """Says what a file's content is, so that nobody has to read it."""

    protocol = "tagged"

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return {**super().info(path, **kwargs), "ETag": '"abc"'}


def test_a_path_is_relative_to_the_spec_and_its_bytes_are_stored(tmp_path: Path, store: LocalStore) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "m.bin").write_bytes(b"weights")
    tree = store_tree(locate("artifacts/m.bin", tmp_path), store)
    [file] = tree.files
    assert (file.path, file.size_bytes) == ("m.bin", 7)
    assert file.digest == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert read_bytes(store, file) == b"weights"


@pytest.mark.parametrize("form", ["file://{}", "{}"])
def test_absolute_paths_and_file_uris_are_read(tmp_path: Path, store: LocalStore, form: str) -> None:
    (tmp_path / "m.bin").write_bytes(b"weights")
    location = locate(form.format(tmp_path / "m.bin"), Path("/nowhere"))
    assert store_tree(location, store).size_bytes == 7


def test_any_fsspec_uri_is_read(tmp_path: Path, store: LocalStore, memory: MemoryFileSystem) -> None:
    memory.pipe("/bucket/m.bin", b"weights")
    location = locate("memory://bucket/m.bin", tmp_path)
    assert (location.name, location.uri) == ("m.bin", "memory://bucket/m.bin")
    assert read_bytes(store, store_tree(location, store).files[0]) == b"weights"


def test_a_folder_is_stored_with_its_paths(tmp_path: Path, store: LocalStore, memory: MemoryFileSystem) -> None:
    memory.pipe("/b/m/saved_model.pb", b"graph")
    memory.pipe("/b/m/variables/v.index", b"index")
    tree = store_tree(locate("memory://b/m", tmp_path), store)
    assert [file.path for file in tree.files] == ["saved_model.pb", "variables/v.index"]


def test_nothing_there_is_said_so(tmp_path: Path) -> None:
    for uri in ("m.bin", "file:///nowhere/m.bin", "memory://nowhere/m.bin"):
        with pytest.raises(SourceError, match="nothing is there"):
            locate(uri, tmp_path)


def test_a_filesystem_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gs://b/m: gs:// needs a package that is not installed .*gcsfs"):
        locate("gs://b/m", tmp_path)


def test_an_empty_file_and_an_empty_folder_are_refused(tmp_path: Path, store: LocalStore) -> None:
    (tmp_path / "m.bin").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match=r"m\.bin: is empty"):
        store_tree(locate("m.bin", tmp_path), store)
    with pytest.raises(SourceError, match="the folder is empty"):
        store_tree(locate("folder", tmp_path), store)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"first")

    def write() -> None:
        with path.open("ab") as out:
            out.write(b" and more")

    with pytest.raises(SourceError, match="changed while it was read; run again"):
        store_tree(locate("m.bin", tmp_path), WritingStore(tmp_path / "store", write))


def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"first")

    def write() -> None:
        (tmp_path / "new").write_bytes(b"other")  # as long as the first
        (tmp_path / "new").replace(path)

    with pytest.raises(SourceError, match="changed while it was read"):
        store_tree(locate("m.bin", tmp_path), WritingStore(tmp_path / "store", write))


def test_a_file_that_vanishes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"first")
    with pytest.raises(SourceError, match="nothing is there"):
        store_tree(locate("m.bin", tmp_path), WritingStore(tmp_path / "store", path.unlink))


def test_a_folder_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_bytes(b"first")
    store = WritingStore(tmp_path / "store", lambda: (tmp_path / "m" / "b").write_bytes(b"second"))
    with pytest.raises(SourceError, match="files came or went"):
        store_tree(locate("m", tmp_path), store)


def test_a_remote_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, memory: MemoryFileSystem) -> None:
    memory.pipe("/b/m.bin", b"first")
    store = WritingStore(tmp_path / "store", lambda: memory.pipe("/b/m.bin", b"other"))
    with pytest.raises(SourceError, match="changed while it was read"):
        store_tree(locate("memory://b/m.bin", tmp_path), store)


def test_a_source_that_ends_early_is_refused(tmp_path: Path, store: LocalStore) -> None:
    fsspec.filesystem("cutshort").pipe("/m.bin", b"12345")
    with pytest.raises(SourceError, match="ended after 5 of 105 bytes"):
        store_tree(locate("cutshort://m.bin", tmp_path), store)


def test_a_source_that_may_not_be_read_is_said_so(tmp_path: Path, store: LocalStore) -> None:
    fsspec.filesystem("forbidden").pipe("/m.bin", b"12345")
    with pytest.raises(SourceError, match="reading it is not permitted"):
        store_tree(locate("forbidden://m.bin", tmp_path), store)


def test_a_source_that_breaks_off_is_said_so_and_not_the_stores_fault(tmp_path: Path, store: LocalStore) -> None:
    fsspec.filesystem("breaking").pipe("/m.bin", b"12345")
    with pytest.raises(SourceError, match=r"breaking://m\.bin: cannot be read \(connection reset\)"):
        store_tree(locate("breaking://m.bin", tmp_path), store)


class Handler(BaseHTTPRequestHandler):
    """Gives `body`; of /cut.bin only the half of what it promises."""

    body = b"weights" * 1000

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.body if self.path == "/m.bin" else self.body[: len(self.body) // 2])

    do_HEAD = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_source_is_read_over_http(tmp_path: Path, store: LocalStore, web: str) -> None:
    [file] = store_tree(locate(f"{web}/m.bin", tmp_path), store).files
    assert read_bytes(store, file) == Handler.body


def test_a_download_that_is_cut_short_is_said_so(tmp_path: Path, store: LocalStore, web: str) -> None:
    with pytest.raises(SourceError, match=r"cut\.bin: (cannot be read|ended after)"):
        store_tree(locate(f"{web}/cut.bin", tmp_path), store)


def test_a_server_that_does_not_answer_is_said_so(tmp_path: Path, web: str) -> None:
    with pytest.raises(SourceError):
        locate("http://127.0.0.1:9/m.bin", tmp_path)


def test_nothing_of_a_refused_source_stays_in_the_stores_scratch(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"first")
    store = WritingStore(tmp_path / "store", path.unlink)
    with pytest.raises(SourceError):
        store_tree(locate("m.bin", tmp_path), store)
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_identity_follows_from_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"first")
    (tmp_path / "same.bin").write_bytes(b"first")
    first = identity(locate("m.bin", tmp_path))
    assert first[0][1:] == identity(locate("same.bin", tmp_path))[0][1:]
    (tmp_path / "m.bin").write_bytes(b"other")
    assert identity(locate("m.bin", tmp_path)) != first


def test_identity_of_a_remote_file_is_its_etag_without_reading_it(tmp_path: Path) -> None:
    fsspec.filesystem("tagged").pipe("/m.bin", b"12345")
    assert identity(locate("tagged://m.bin", tmp_path)) == [["m.bin", 'ETag="abc"']]
