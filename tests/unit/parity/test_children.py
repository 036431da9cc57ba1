"""Children that run native code never outlive the process that needs them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.contract import Signature
from tasks.parity.divergence import onnx_values
from tasks.parity.exported import new_process
from tasks.processes import end_group

CHILD = """
import os, sys, time
from tasks.processes import die_with
die_with(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], start_new_session=True)
time.sleep(600)
"""


def gone(pid: int, within_s: float = 30) -> bool:
    """Whether the process ends in time; a zombie that nobody waits for counts as ended."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_child_is_killed_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(child)


def test_a_child_of_a_parent_that_is_gone_already_does_not_start() -> None:
    nobody = subprocess.Popen([sys.executable, "-c", "pass"])
    nobody.wait()
    ran = subprocess.run([sys.executable, "-c", CHILD, str(nobody.pid)], capture_output=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stdout == b""


def test_ending_a_group_ends_what_the_child_started() -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    end_group(process)
    assert process.returncode == -signal.SIGKILL
    assert gone(grandchild)


def test_ending_a_group_that_is_gone_is_free_of_effect() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], start_new_session=True)
    process.wait()
    end_group(process)
    assert process.returncode == 0


def _parity_worker(folder: Path) -> None:
    folder.mkdir()
    assert new_process(folder, folder / "log.txt", 60) == 1  # there is no request


def _divergence_worker(folder: Path) -> None:
    asked = onnx_values.ask(folder / "no.onnx", Signature((), ()), (), {}, {}, folder)
    assert asked.error is not None


@pytest.mark.parametrize("ask", [_parity_worker, _divergence_worker])
def test_what_a_worker_leaves_among_temporary_files_lies_in_its_own_folder(
    ask: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, startup, folder = tmp_path / "outside", tmp_path / "startup", tmp_path / "folder"
    outside.mkdir()
    startup.mkdir()
    (startup / "sitecustomize.py").write_text("import tempfile\ntempfile.mkstemp(prefix='left-')\n")
    monkeypatch.setenv("TMPDIR", str(outside))
    monkeypatch.setenv("PYTHONPATH", str(startup), prepend=":")
    ask(folder)
    assert list(outside.iterdir()) == []
    assert len(list(folder.rglob("left-*"))) == 1
