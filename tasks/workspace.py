"""Locks and scratch folders that do not outlive their process, however it ends.

Both rest on `flock(2)`: the kernel lets go of a lock when the process that holds it is gone, also after SIGKILL or a
power cut. So nothing here compares process ids, which are used again and mean nothing in another container.

    locks/<name>.lock      held while something is worked on that only one process should work on
    work/<id>/             a scratch folder; work/<id>.lock is held as long as its process lives
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.errors import StoreUnavailable

_STALE_AFTER_S = 24 * 3600


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for whoever holds it; `on_wait` is called once before waiting.

    Excludes other processes on this machine, and other threads of this one; `shared`, only those that do not share it.
    Nothing is left at `path` afterwards, unless the last who held it shared it.

    Raises:
        StoreUnavailable: the folder cannot be written.
    """
    descriptor = _acquire(path, on_wait, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        if not shared:
            path.unlink(missing_ok=True)  # still locked: whoever opened it meanwhile sees that it is no longer there
        os.close(descriptor)


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """An empty folder below `root`, removed at the end, also when an exception ends it.

    Raises:
        StoreUnavailable: `root` cannot be written.
    """
    folder = root / uuid.uuid4().hex
    with locked(_lock_of(folder)):
        try:
            folder.mkdir()
        except OSError as error:
            raise StoreUnavailable(f"no scratch folder can be made in {root}: {error.strerror}") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path) -> tuple[Path, ...]:
    """Remove the locks, and the folders that go with them, whose process is gone; what is in use is left alone.

    Gives the folders that were removed.
    """
    swept = []
    for lock in sorted(root.glob("*.lock")):
        folder = lock.with_suffix("")
        with contextlib.suppress(FileNotFoundError, PermissionError):
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                if folder.exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    swept.append(folder)
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
    return (*swept, *_sweep_unlocked(root))


def use_own_temporary_folder() -> Path:
    """Let this process and its children put temporary files into a folder of their own, removed when it ends.

    For programs that run many exporters in their own process (tests, benchmarks): TensorFlow's and torch's compilers
    leave generated code wherever temporary files go.
    """
    folder, owner = Path(tempfile.mkdtemp(prefix="slipway-")), os.getpid()
    folder.chmod(0o711)  # programs that we start may give up root, and still have to get to their files below

    def remove() -> None:
        if os.getpid() == owner:  # a process that is forked from this one ends as well
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)  # before the libraries are imported, so after what they remove themselves
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    return folder


def _sweep_unlocked(root: Path) -> Iterator[Path]:
    """Folders that were made without a lock, once nothing can be using them any more."""
    for folder in sorted(path for path in root.glob("*") if path.is_dir() and not _lock_of(path).exists()):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _STALE_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
                yield folder


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _acquire(path: Path, on_wait: Callable[[], None] | None, how: int) -> int:
    while True:
        descriptor = _open(path)
        try:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                fcntl.flock(descriptor, how)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreUnavailable(
            f"{path.parent} cannot be written ({error.strerror}): set SLIPWAY_HOME to a folder that can"
        ) from error


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether the file that was locked is the one that others find at `path`: its last holder may have removed it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
