"""Locks and scratch folders: exclusive while their process lives, gone when it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import StoreUnavailable
from tasks.workspace import locked, scratch, sweep

_HOLD = """
import sys
from pathlib import Path
from tasks.workspace import locked, scratch
with {what}(Path(sys.argv[1])) as held:
    print(held or "", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds a lock or a scratch folder until it is told to end, or killed."""

    def __init__(self, what: str, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD.format(what=what), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.held = self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_a_lock_held_by_another_process_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "cell.lock"
    holder = Holder("locked", path)
    waited = threading.Event()
    order = []

    def release() -> None:
        waited.wait()
        order.append("released")
        holder.end()

    thread = threading.Thread(target=release)
    thread.start()
    with locked(path, on_wait=waited.set):
        order.append("acquired")
    thread.join()
    assert order == ["released", "acquired"]


def test_a_free_lock_is_not_waited_for(tmp_path: Path) -> None:
    waits = []
    with locked(tmp_path / "lock", on_wait=lambda: waits.append(1)):
        pass
    assert not waits


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    Holder("locked", tmp_path / "lock").kill()
    with locked(tmp_path / "lock", on_wait=lambda: pytest.fail("a dead process held the lock")):
        pass


def test_a_lock_leaves_no_file(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_threads_exclude_each_other_however_often_the_file_is_made_anew(tmp_path: Path) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(tmp_path / "lock"):
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_those_who_share_a_lock_hold_it_together(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def work() -> None:
        with locked(tmp_path / "lock", shared=True):
            both.wait(timeout=10)

    thread = threading.Thread(target=work)
    thread.start()
    work()
    thread.join()


def test_who_does_not_share_a_lock_waits_for_all_who_do(tmp_path: Path) -> None:
    said = list[str]()
    waits = threading.Event()

    def alone() -> None:
        with locked(tmp_path / "lock", on_wait=waits.set):
            said.append("alone")

    thread = threading.Thread(target=alone)
    with locked(tmp_path / "lock", shared=True), locked(tmp_path / "lock", shared=True):
        thread.start()
        assert waits.wait(timeout=10)
        said.append("together")
    thread.join()
    assert said == ["together", "alone"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_scratch_folder_goes_when_its_work_ends_however_it_ends(tmp_path: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with scratch(tmp_path) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("content")
            raise error

    with pytest.raises(error):
        work()
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_folder_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    holder = Holder("scratch", tmp_path)
    (Path(holder.held) / "file").write_text("left behind")
    holder.kill()
    assert sweep(tmp_path) == (Path(holder.held),)
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    holder = Holder("scratch", tmp_path)
    try:
        assert sweep(tmp_path) == ()
        assert Path(holder.held).is_dir()
    finally:
        holder.end()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_without_its_folder_is_swept_too(tmp_path: Path) -> None:
    (tmp_path / "killed-before-its-folder.lock").touch()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_never_had_a_lock_is_swept_a_day_later(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    assert sweep(tmp_path) == ()
    os.utime(tmp_path / "foreign", (0, 0))
    assert sweep(tmp_path) == (tmp_path / "foreign",)


def test_sweeping_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == ()


def test_a_place_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreUnavailable, match="SLIPWAY_HOME"), scratch(tmp_path / "file"):
        pass


_LITTER = """
import os, subprocess, sys, tempfile
from tasks.workspace import use_own_temporary_folder
folder = use_own_temporary_folder()
if os.fork() == 0:
    sys.exit()  # ends like its parent
os.wait()
leave = "import tempfile; print(tempfile.NamedTemporaryFile(delete=False).name)"
tempfile.mkdtemp()
child = subprocess.run([sys.executable, "-c", leave], capture_output=True, text=True, check=True).stdout
print(child.startswith(f"{folder}/"), len(list(folder.iterdir())))
"""


def test_temporary_files_of_a_process_and_its_children_go_when_it_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _LITTER], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "2"]
    assert list(tmp_path.iterdir()) == []
