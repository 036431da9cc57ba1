"""A tar that comes in pieces is unpacked as it is, and nothing in it reaches outside its folder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import PlatformError
from tasks.image.archive import unpack


def archive(*entries: tuple[str, bytes, bytes]) -> bytes:
    """A tar of (name, type, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


FILE, FOLDER = tarfile.REGTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("size", [1, 511, 512, 100_000])
def test_pieces_of_any_size_give_the_same_files(tmp_path: Path, size: int) -> None:
    content = archive(
        ("package", FOLDER, b""), ("package/contract.json", FILE, b"{}"), ("package/model/a/b", FILE, b"b" * 9000)
    )
    unpack(pieces(content, size), tmp_path)
    assert (tmp_path / "contract.json").read_bytes() == b"{}"
    assert (tmp_path / "model/a/b").read_bytes() == b"b" * 9000


def test_a_single_file_keeps_its_name(tmp_path: Path) -> None:
    unpack([archive(("contract.json", FILE, b"{}"))], tmp_path)
    assert (tmp_path / "contract.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "entry",
    [
        ("package/link", tarfile.SYMTYPE, b""),
        ("package/link", tarfile.LNKTYPE, b""),
        ("package/device", tarfile.CHRTYPE, b""),
        ("package/../../out", FILE, b"x"),
        ("/package/out", FILE, b"x"),
    ],
    ids=["symbolic link", "hard link", "device", "upwards", "absolute"],
)
def test_what_could_reach_outside_is_refused(tmp_path: Path, entry: tuple[str, bytes, bytes]) -> None:
    with pytest.raises(PlatformError, match="no plain file inside its folder"):
        unpack([archive(entry)], tmp_path / "folder")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("cut", [1, 700, 1200])
def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    content = archive(("package/model", FILE, b"x" * 5000))
    with pytest.raises(PlatformError, match="cannot be read"):
        unpack([content[:cut]], tmp_path)
