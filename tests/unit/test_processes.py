"""Background processes: found and stopped whatever they do, and no others with them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import processes
from scripts.processes import Process

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.stop(tmp_path, patience_s=0)


def launch(home: Path, *command: str, name: str = "one") -> Process:
    processes.launch(name, command, home=home, environment=os.environ, log=home / "logs" / f"{name}.log", folder=home)
    process = processes.running(home, name)
    assert process is not None
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text() != "sh\n")  # it has become the command
    return process


def until(condition: Callable[[], object], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(home: Path, name: str = "one") -> str:
    return (home / "logs" / f"{name}.log").read_text()


def alive(pid: int) -> bool:
    return Process.read(pid) is not None


def test_a_launched_process_runs_under_its_name_until_it_is_stopped(home: Path) -> None:
    process = launch(home, *SLEEP)
    assert alive(process.pid)
    assert processes.stop(home) == 1
    assert not alive(process.pid)
    assert processes.running(home, "one") is None


def test_stopping_a_home_where_nothing_runs_stops_nothing(home: Path) -> None:
    assert processes.stop(home) == 0


def test_a_process_outlives_the_one_who_launched_it_and_is_still_found(home: Path) -> None:
    code = f"""
import os, pathlib, signal, sys
from scripts import processes
home = pathlib.Path({str(home)!r})
processes.launch("one", {SLEEP!r}, home=home, environment=os.environ, log=home / "log", folder=home)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    process = processes.running(home, "one")
    assert process is not None
    assert processes.stop(home) >= 1
    assert not alive(process.pid)


def test_the_command_runs_in_the_process_that_was_recorded(home: Path) -> None:
    process = launch(home, sys.executable, "-uc", "import os, time; print(os.getpid()); time.sleep(600)")
    until(lambda: said(home))
    assert int(said(home)) == process.pid


def test_a_process_that_ignores_the_request_is_killed(home: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    process = launch(home, sys.executable, "-c", code)
    until(lambda: "deaf" in said(home))
    processes.stop(home, patience_s=0.1)
    assert not alive(process.pid)


@pytest.mark.parametrize("escape", ["os.setpgid(0, 0)", "os.setsid()"], ids=["own group", "own session"])
def test_children_are_stopped_with_their_parent_also_when_it_was_killed(home: Path, escape: str) -> None:
    code = f"""
import os, time
child = os.fork()
if child == 0:
    {escape}
    time.sleep(600)
print(child, flush=True)
time.sleep(600)
"""
    parent = launch(home, sys.executable, "-c", code)
    until(lambda: said(home))
    child = int(said(home))
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not alive(parent.pid))
    assert alive(child)
    assert processes.stop(home) == 1
    assert not alive(child)


def test_a_child_that_overwrites_its_environment_is_found_by_its_session(home: Path) -> None:
    code = """
import os, time
from setproctitle import setproctitle
child = os.fork()
if child == 0:
    setproctitle("x" * 4000)
    print(os.getpid(), flush=True)
    time.sleep(600)
time.sleep(600)
"""
    parent = launch(home, sys.executable, "-c", code)
    until(lambda: said(home))
    child = int(said(home))
    assert processes.MARK.encode() not in Path(f"/proc/{child}/environ").read_bytes()
    os.kill(parent.pid, signal.SIGKILL)
    processes.stop(home)
    assert not alive(child)


def test_a_record_whose_process_id_belongs_to_another_by_now_stops_nobody(home: Path) -> None:
    bystander = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        fields = Path(f"/proc/{bystander.pid}/stat").read_text().split()
        fields[21] = str(int(fields[21]) - 1)  # started a clock tick earlier: not this one
        (home / "run").mkdir()
        (home / "run" / "one.stat").write_text(" ".join(fields))
        assert processes.running(home, "one") is None
        assert processes.stop(home) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_one_home_leaves_the_other_alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    process = launch(other, *SLEEP)
    try:
        launch(home, *SLEEP)
        assert processes.stop(home) == 1
        assert alive(process.pid)
    finally:
        processes.stop(other)


def test_whoever_stops_is_spared_with_its_ancestors_even_under_the_same_mark(home: Path) -> None:
    code = f"import pathlib; from scripts import processes; print(processes.stop(pathlib.Path({str(home)!r})))"
    answer = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code],
        env={**os.environ, processes.MARK: str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "0\n"


def test_the_log_of_the_time_before_is_kept(home: Path) -> None:
    for text in ("first", "second"):
        launch_and_end = processes.launch(
            "one", ("echo", text), home=home, environment=os.environ, log=home / "logs" / "one.log", folder=home
        )
        launch_and_end.wait()
    assert said(home) == "second\n"
    assert (home / "logs" / "one.old").read_text() == "first\n"


def test_a_name_with_spaces_and_parentheses_is_read_as_the_kernel_writes_it() -> None:
    after = ["S", "1", "77", "78", *["0"] * 15, "4242", *["0"] * 30]
    process = Process.parse(f"99 (a) b (c)) {' '.join(after)}")
    assert process == Process(pid=99, started=4242, session=78, state="S")


def test_the_holder_of_a_port_is_named() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        holder = processes.listener(port)
        assert holder is not None
        assert f"process {os.getpid()}" in holder
    assert processes.listener(port) is None
