"""A file that is whole whenever it is read, also after a power cut: written aside, then put in its place."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.errors import PlatformError


def write_whole(path: Path, text: str, owner: int | None = None) -> None:
    """`owner` is whose folder and file are to be, where root writes for somebody who reads.

    Raises:
        PlatformError: it cannot be written.
    """
    aside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with aside.open("w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        if owner is not None:
            os.chown(path.parent, owner, owner)
            os.chown(aside, owner, owner)
        aside.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise PlatformError(f"{path} cannot be written: {error.strerror}") from error
