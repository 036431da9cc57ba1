"""Build contexts: nothing but their content decides their bytes, and the store's bytes are checked on the way."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from serving.contract import PackagedFile
from tasks.errors import CorruptObject
from tasks.image.context import Context
from tasks.store import LocalStore


def entries(stream: io.BytesIO) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        return {entry.name: entry for entry in tar}


def tree(folder: Path, mtime: int, mode: int) -> Path:
    (folder / "b" / "c").mkdir(parents=True)
    for name in ("b/c/two", "b/one", "a"):
        path = folder / name
        path.write_text(name)
        path.chmod(mode)
        os.utime(path, (mtime, mtime))
    return folder


def test_times_owners_and_permissions_of_this_machine_stay_out(tmp_path: Path) -> None:
    written = []
    for name, mtime, mode in (("x", 1, 0o600), ("y", 2_000_000_000, 0o755)):
        stream = io.BytesIO()
        context = Context(stream)
        context.add_tree("root", tree(tmp_path / name, mtime, mode))
        context.add_bytes("Dockerfile", b"FROM x")
        context.finish()
        written.append(stream.getvalue())
    assert written[0] == written[1]
    found = entries(stream)
    assert list(found) == ["root", "root/a", "root/b", "root/b/c", "root/b/c/two", "root/b/one", "Dockerfile"]
    assert {(entry.uid, entry.gid, entry.mode) for entry in found.values() if entry.isfile()} == {(0, 0, 0o644)}


def test_a_stored_file_arrives_whole(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    digest, size = store.put_stream(io.BytesIO(b"weights" * 1000))
    stream = io.BytesIO()
    context = Context(stream)
    context.add_stored("package/model", PackagedFile("model", digest, size), store)
    with tarfile.open(fileobj=context.finish()) as tar:
        member = tar.extractfile("package/model")
        assert member is not None
        assert member.read() == b"weights" * 1000


@pytest.mark.parametrize("content", [b"Weights", b"weight", b""])
def test_an_object_that_was_altered_in_the_store_never_enters_an_image(tmp_path: Path, content: bytes) -> None:
    store = LocalStore(tmp_path)
    digest, size = store.put_stream(io.BytesIO(b"weights"))
    (path,) = (tmp_path / "objects").glob("*/*")
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(CorruptObject, match="model"):
        Context(io.BytesIO()).add_stored("package/model", PackagedFile("model", digest, size), store)
