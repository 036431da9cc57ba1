"""A tar that an engine streams → files in a folder. It may come from any image, so nothing in it is taken on trust."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tasks.errors import PlatformError


def unpack(pieces: Iterable[bytes], folder: Path) -> None:
    """Write the regular files of a tar, as it comes in, below `folder`; its topmost folder is left out.

    Raises:
        PlatformError: it is cut short, or holds links, devices or paths that leave the folder.
    """
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Pieces(pieces)), mode="r|") as tar:
            for entry in tar:
                parts = PurePosixPath(entry.name).parts
                inside = parts[1:] or parts
                if entry.isdir():
                    continue
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is None or ".." in parts or entry.name.startswith("/"):
                    raise PlatformError(f"{entry.name} is no plain file inside its folder: it is left where it is")
                target = folder.joinpath(*inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:
                    shutil.copyfileobj(content, out)
    except tarfile.TarError as error:
        raise PlatformError(f"the engine's copy of the files cannot be read: {error}") from error


class _Pieces(io.RawIOBase):
    """Reads what an iterable of pieces yields."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
