"""What is written down of a model's releases, so that any process can go on after any other was killed.

    releases/<model>/lock                    held for moments: while it is written down, and while the router is told
    releases/<model>/serving.json            which package serves, on which port, and those before it; replaced whole
    releases/<model>/<release>/journal.jsonl every event, one a line, flushed to disk before anything follows from it
    releases/<model>/<release>/trace.jsonl   every look (`tasks.release.controller.trace`)

A line counts from the moment that its end is on disk: a torn last line never happened, and nothing was done because of
it. Any other damage is an error, because a release must not be judged on half of its history.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.contracts import Contract
from tasks.errors import CorruptObject, StoreUnavailable
from tasks.release.contracts import Release, Written
from tasks.release.controller.events import Entry, Event, Followed, State
from tasks.release.controller.machine import IllegalEvent, apply
from tasks.release.controller.serving import Serving
from tasks.workspace import locked

Line = TypeVar("Line", bound=Contract)


class Ledger:
    """One model's releases on disk. Every method but `locked` returns at once."""

    def __init__(self, home: Path, model: str) -> None:
        self.model = model
        self.folder = home / "releases" / model

    # --- who writes -----------------------------------------------------------------------------------------------

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the model's lock. Only for moments: a rollback waits for it."""
        return locked(self.folder / "lock")

    @contextlib.contextmanager
    def watched(self) -> Iterator[bool]:
        """Be the process that watches the release, as long as this one lives; false where another one does."""
        path = self.folder / "watch"
        with contextlib.ExitStack() as stack:
            yield _try_lock(path, stack)

    @property
    def is_watched(self) -> bool:
        """Whether a process of this machine watches a release of this model right now."""
        if not (self.folder / "watch").exists():
            return False
        with contextlib.ExitStack() as stack:
            return not _try_lock(self.folder / "watch", stack)

    # --- releases -------------------------------------------------------------------------------------------------

    def ids(self) -> tuple[str, ...]:
        """Every release and rollback, the newest first."""
        return tuple(sorted((path.parent.name for path in self.folder.glob("*/journal.jsonl")), reverse=True))

    def place(self, release_id: str) -> Path:
        """The folder of one release."""
        return self.folder / release_id

    def state(self, release_id: str) -> State:
        """Where a release stands.

        Raises:
            CorruptObject: its journal is damaged beyond a torn last line, or not there.
        """
        state = None
        path = self.place(release_id) / "journal.jsonl"
        for entry, _ in read_lines(path, Entry):
            try:
                state = apply(state, entry)
            except IllegalEvent as error:
                raise CorruptObject(f"{path}: {error}: nothing goes on from a journal like that") from error
        if state is None:
            raise CorruptObject(f"{path}: there is no whole entry in it: this release was never begun")
        return state

    def begun(self) -> Iterator[State]:
        """Every release that was begun, the newest first. One whose first line is torn never was."""
        for release_id in self.ids():
            if next(read_lines(self.place(release_id) / "journal.jsonl", Entry), None) is not None:
                yield self.state(release_id)

    def underway(self) -> State | None:
        """The release that is not over yet; there is one at most."""
        latest = next(self.begun(), None)
        return None if latest is None or latest.release.phase.is_over else latest

    def begin(self, event: Event, release: Release, by: str) -> State:
        """A new journal. Under the lock."""
        path = self.place(release.id) / "journal.jsonl"
        entry = Entry(sequence=0, at=release.started_at, by=by, event=event)
        state = apply(None, entry)
        append_line(path, entry)
        return state

    def record(self, state: State, event: Event, by: str, at: datetime) -> State:
        """One more event, on disk when this returns; the state after it. Under the lock.

        Raises:
            IllegalEvent: it cannot happen in this phase; nothing is written.
        """
        entry = Entry(sequence=state.sequence + 1, at=at, by=by, event=event)
        after = apply(state, entry)
        append_line(self.place(state.release.id) / "journal.jsonl", entry)
        return after

    def entries(self, release_id: str) -> tuple[Entry, ...]:
        """Everything that happened in a release."""
        return tuple(entry for entry, _ in read_lines(self.place(release_id) / "journal.jsonl", Entry))

    def put_aside(self) -> None:
        """Let journals that cannot be read be no releases any more; they stay beside, for people. Under the lock."""
        for release_id in self.ids():
            path = self.place(release_id) / "journal.jsonl"
            try:
                if next(read_lines(path, Entry), None) is not None:
                    self.state(release_id)
            except CorruptObject:
                path.rename(path.with_name("journal.damaged"))

    # --- what serves ----------------------------------------------------------------------------------------------

    def serving(self) -> Serving | None:
        """What serves; None before the first release.

        Raises:
            CorruptObject: the file is damaged.
        """
        path = self.folder / "serving.json"
        try:
            return Serving.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise CorruptObject(f"{path} does not say what serves ({_first_line(error)}): restore it") from error

    def keep(self, serving: Serving) -> None:
        """Let this be what serves. Readers see the old file or the new one."""
        replace_file(self.folder / "serving.json", serving.model_dump_json(indent=1).encode() + b"\n")


def models(home: Path) -> tuple[str, ...]:
    """Every model that was ever released, or tried to be."""
    return tuple(sorted({path.parents[1].name for path in (home / "releases").glob("*/*/journal.jsonl")}))


def history(journal: Path) -> tuple[Written, ...]:
    """A release as it was after each entry of its journal, and who wrote it."""
    found: list[State] = []
    for entry, _ in read_lines(journal, Entry):
        found.append(apply(found[-1] if found else None, entry))
    return tuple(Written(release=state.release, by=state.last_by) for state in found)


def tracked(journal: Path) -> str | None:
    """The MLflow run that holds a release's trail; None where MLflow does not have it (yet)."""
    found = [entry.event.run_id for entry, _ in read_lines(journal, Entry) if isinstance(entry.event, Followed)]
    return found[-1] if found else None


# --- files of lines -----------------------------------------------------------------------------------------------


def read_lines(path: Path, kind: type[Line], offset: int = 0) -> Iterator[tuple[Line, int]]:
    """Every whole line from `offset` on, and where the next one begins; nothing where there is no file. What follows
    the last line's end is left out.

    Raises:
        CorruptObject: a whole line is not what it should be.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be read: {error.strerror}") from error
    for line in content.split(b"\n")[:-1]:
        try:
            found = kind.model_validate_json(line)
        except ValidationError as error:
            raise CorruptObject(
                f"{path}, at byte {offset}: expected one {kind.__name__} as JSON, found something else "
                f"({_first_line(error)}): nothing goes on from a damaged file; restore it"
            ) from error
        offset += len(line) + 1
        yield found, offset


def append_line(path: Path, line: Contract) -> None:
    """One more line, on disk when this returns. A torn one before it is cut off.

    Raises:
        StoreUnavailable: the disk does not take it.
    """
    with _complaints(path.parent):
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b" if is_new else "r+b", buffering=0) as out:
            _cut_torn_line(out)
            rest = memoryview(line.model_dump_json().encode() + b"\n")
            while rest:  # a full disk takes a part of it before it complains
                rest = rest[out.write(rest) :]
            os.fsync(out.fileno())
        if is_new:
            _flush_folder(path.parent)
            _flush_folder(path.parent.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Let a file have this content: readers see all of the old one or all of the new one."""
    with _complaints(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.new")
        with aside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(path)
        _flush_folder(path.parent)


def _cut_torn_line(out: io.FileIO) -> None:
    """Leave `out` at the end of its last whole line, which is its end."""
    end = out.seek(0, os.SEEK_END)
    if end == 0:
        return
    out.seek(end - 1)
    if out.read(1) == b"\n":
        return
    out.seek(0)
    out.truncate(out.read().rfind(b"\n") + 1)
    out.seek(0, os.SEEK_END)


def _flush_folder(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(path: Path, stack: contextlib.ExitStack) -> bool:
    with _complaints(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _complaints(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{folder} cannot be written ({error.strerror}): make room or give access; nothing was done because of "
            "what could not be written down"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
