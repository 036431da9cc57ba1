"""The store's promises, on a local disk and behind fsspec: the same for every implementation."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from serving.contract import PackagedFile
from tasks.contracts import FileTree, digest_of
from tasks.errors import CorruptObject, StoreUnavailable
from tasks.store import LocalStore, RemoteStore, Store, fetch, fetch_tree, open_store, put_file, put_tree, read_bytes


@pytest.fixture(params=["local", "memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield LocalStore(tmp_path / "store")
    elif request.param == "file":
        yield RemoteStore((tmp_path / "remote").as_uri())
    else:
        root = f"/{uuid.uuid4().hex}"
        yield RemoteStore(f"memory://{root}")
        memory = fsspec.filesystem("memory")
        if memory.exists(root):
            memory.rm(root, recursive=True)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put(store: Store, content: bytes) -> PackagedFile:
    digest, size = store.put_stream(io.BytesIO(content))
    return PackagedFile("content", digest, size)


def overwrite(store: Store, digest: str, content: bytes) -> None:
    """Alter an object behind the store's back."""
    if isinstance(store, LocalStore):
        store._object(digest).write_bytes(content)
    else:
        assert isinstance(store, RemoteStore)
        store._fs.pipe_file(store._object(digest), content)


KEY = digest_of("key")


# --- objects ------------------------------------------------------------------------------------------------------


@given(content=st.binary(max_size=3000))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_what_was_put_comes_back_under_its_sha256(store: Store, content: bytes) -> None:
    file = put(store, content)
    assert (file.digest, file.size_bytes) == (sha256(content), len(content))
    assert store.has(file.digest)
    assert read_bytes(store, file) == content


def test_an_object_larger_than_a_chunk_comes_back_whole(store: Store, tmp_path: Path) -> None:
    content = os.urandom((1 << 20) * 2 + 17)
    file = put(store, content)
    assert fetch(store, file, tmp_path / "out").read_bytes() == content


def test_the_same_bytes_twice_are_one_object(store: Store) -> None:
    assert put(store, b"same") == put(store, b"same")


def test_an_object_that_was_never_put_is_not_there(store: Store) -> None:
    assert not store.has(sha256(b"never"))
    with pytest.raises(CorruptObject, match="--fresh"), store.open(sha256(b"never")):
        pass


class Breaking(io.RawIOBase):
    """A source that gives some bytes and then an error."""

    def __init__(self, error: BaseException) -> None:
        self._error, self._given = error, False

    def read(self, size: int = -1) -> bytes:
        if not self._given:
            self._given = True
            return b"half"
        raise self._error


@pytest.mark.parametrize("error", [OSError("the source went away"), KeyboardInterrupt()])
def test_a_source_that_breaks_leaves_nothing_and_its_error_is_its_own(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        store.put_stream(Breaking(error))  # type: ignore[arg-type]
    assert raised.value is error
    assert not store.has(sha256(b"half"))


@pytest.mark.parametrize("altered", [b"", b"shorter", b"the same length!", b"longer than what was stored"])
def test_an_altered_object_is_refused_and_nothing_is_written(store: Store, tmp_path: Path, altered: bytes) -> None:
    file = put(store, b"what was stored!")
    overwrite(store, file.digest, altered)
    folder = tmp_path / "out"
    with pytest.raises(CorruptObject):
        fetch(store, file, folder / "file")
    assert list(folder.iterdir()) == []
    with pytest.raises(CorruptObject):
        read_bytes(store, file)


def test_a_fetch_that_fails_keeps_the_file_that_was_there(store: Store, tmp_path: Path) -> None:
    file = put(store, b"new content")
    overwrite(store, file.digest, b"altered")
    destination = tmp_path / "file"
    destination.write_bytes(b"earlier")
    with pytest.raises(CorruptObject):
        fetch(store, file, destination)
    assert destination.read_bytes() == b"earlier"


def test_putting_again_heals_a_truncated_object(store: Store) -> None:
    file = put(store, b"whole content")
    overwrite(store, file.digest, b"whole")
    put(store, b"whole content")
    assert read_bytes(store, file) == b"whole content"


# --- results ------------------------------------------------------------------------------------------------------


@given(text=st.text(max_size=300))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_a_result_comes_back_as_it_was_put(store: Store, text: str) -> None:
    store.put_result("export", KEY, text)
    assert store.get_result("export", KEY) == text


def test_results_of_another_stage_or_key_are_others(store: Store) -> None:
    store.put_result("export", KEY, "exported")
    assert store.get_result("parity", KEY) is None
    assert store.get_result("export", digest_of("other")) is None


def test_the_last_result_wins(store: Store) -> None:
    store.put_result("export", KEY, "first")
    store.put_result("export", KEY, "second")
    assert store.get_result("export", KEY) == "second"
    assert list(store.results("export")) == ["second"]


def test_results_come_newest_first(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.put_result("package", digest_of(name), name)
        time.sleep(0.02)
    store.put_result("package", digest_of("b"), "b again")
    assert list(store.results("package")) == ["b again", "c", "a"]


def test_a_stage_without_results_has_none(store: Store) -> None:
    assert list(store.results("smoke")) == []


# --- trees --------------------------------------------------------------------------------------------------------


names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)


@given(
    content=st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=50), min_size=1)
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_a_folder_comes_back_file_by_file(store: Store, tmp_path: Path, content: dict[str, bytes]) -> None:
    root = tmp_path / uuid.uuid4().hex
    for name, data in content.items():
        path = root / "in" / name
        if any(parent.is_file() for parent in path.parents) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    written = {path.relative_to(root / "in"): path for path in (root / "in").rglob("*") if path.is_file()}

    tree = put_tree(store, root / "in")
    fetched = fetch_tree(store, tree, root / "out")
    assert {path.relative_to(fetched): path.read_bytes() for path in fetched.rglob("*") if path.is_file()} == {
        name: path.read_bytes() for name, path in written.items()
    }


def test_a_trees_digest_follows_its_names_and_bytes_and_nothing_else(store: Store, tmp_path: Path) -> None:
    def tree_of(folder: str, **files: str) -> FileTree:
        for name, content in files.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(content)
        return put_tree(store, tmp_path / folder)

    first = tree_of("first", a="1", b="2")
    os.utime(tmp_path / "first" / "a", (0, 0))
    assert tree_of("second", b="2", a="1").digest == put_tree(store, tmp_path / "first").digest == first.digest
    assert tree_of("third", a="2", b="1").digest != first.digest
    assert tree_of("fourth", a="1", c="2").digest != first.digest


def test_a_single_file_is_a_tree_of_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    assert [file.path for file in put_tree(store, tmp_path / "model.onnx").files] == ["model.onnx"]


def test_a_link_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreUnavailable, match="is a link"):
        put_tree(store, tmp_path / "tree")


def test_a_file_can_be_stored_under_another_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    assert put_file(store, tmp_path / "source", "a/target").path == "a/target"


# --- many at once, and killed in the middle -----------------------------------------------------------------------


def test_many_writers_of_the_same_bytes_agree(store: Store) -> None:
    content, files = os.urandom(1 << 20), list[PackagedFile]()
    threads = [threading.Thread(target=lambda: files.append(put(store, content))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files) == 8
    assert read_bytes(store, files[0]) == content


def test_a_reader_never_sees_half_a_result(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    texts = {"a" * 200_000, "b" * 300_000}
    seen: set[str | None] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(store.get_result("package", KEY))

    store.put_result("package", KEY, "a" * 200_000)
    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        for text in texts:
            store.put_result("package", KEY, text)
    stop.set()
    reader.join()
    assert seen <= texts


_WRITE_SLOWLY = """
import io, sys, time
from pathlib import Path
from tasks.store import open_store

class Slow(io.RawIOBase):
    def read(self, size=-1):
        print("reading", flush=True)
        time.sleep(0.05)
        return b"x" * 1000

open_store(sys.argv[1]).put_stream(Slow())
"""


def test_a_killed_writer_publishes_nothing_and_what_it_left_is_swept(tmp_path: Path) -> None:
    root = tmp_path / "store"
    writer = subprocess.Popen([sys.executable, "-c", _WRITE_SLOWLY, str(root)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()

    assert not list((root / "objects").rglob("*")) if (root / "objects").exists() else True
    left = list((root / "tmp").iterdir())
    assert len(left) == 1
    LocalStore(root)
    assert left[0].exists()  # it may be another writer's, still at work
    os.utime(left[0], (0, 0))
    LocalStore(root)
    assert not left[0].exists()


# --- where it cannot be used --------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_no_empty_store() -> None:
    with pytest.raises(StoreUnavailable, match="no folder can be made in /proc"):
        open_store("/proc/nope/store")


def test_asking_makes_no_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert list(store.results("package")) == []
    assert store.get_result("package", KEY) is None
    assert not (tmp_path / "store").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder_is_said_to_be_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable, match="SLIPWAY_STORE"):
        put(LocalStore(tmp_path / "file" / "store"), b"content")


def test_a_full_disk_is_the_stores_error(tmp_path: Path) -> None:
    class Full(LocalStore):
        def _write(self, out: io.FileIO, content: bytes) -> None:
            with Path("/dev/full").open("wb", buffering=0) as full:
                super()._write(full, content)

    with pytest.raises(StoreUnavailable, match="No space left"):
        put(Full(tmp_path), b"content")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_scheme_that_nothing_serves_is_said_to_be_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="nowhere://"):
        open_store("nowhere://bucket")


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_a_path_and_its_file_uri_are_the_same_atomic_store(tmp_path: Path, scheme: str) -> None:
    opened = open_store(f"{scheme}{tmp_path}")
    assert isinstance(opened, LocalStore)
    assert opened.root == tmp_path


class HalfWay(RemoteStore):
    """A filesystem whose connection breaks in the middle of an object."""

    def _send(self, local: Path, path: str) -> None:
        original = self._fs.put_file

        def put_file(source: str, target: str) -> None:
            with self._fs.open(target, "wb") as out:
                out.write(Path(source).read_bytes()[:3])
                raise OSError("the connection broke")

        self._fs.put_file = put_file
        try:
            super()._send(local, path)
        finally:
            self._fs.put_file = original


def test_an_upload_that_breaks_leaves_no_half_object() -> None:
    store = HalfWay(f"memory:///{uuid.uuid4().hex}")
    with pytest.raises(StoreUnavailable, match="the connection broke"):
        put(store, b"content")
    assert not store.has(sha256(b"content"))


def readable(stream: IO[bytes]) -> bytes:
    return stream.read()


def test_open_gives_a_readable_stream(store: Store) -> None:
    file = put(store, b"content")
    with store.open(file.digest) as stream:
        assert readable(stream) == b"content"
