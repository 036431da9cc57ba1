"""The engine: limits that hold, ends that are told apart, and nothing that outlives its owner."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import EngineUnavailable, PlatformError
from tasks.image import RUNTIMES, ContainerSpec, Engine, Runtime, connect, ensure_runtime, run, running
from tasks.image.engine import COMPONENT_LABEL, PID_LABEL
from tasks.image.runtimes import base_image
from tasks.settings import Settings

pytestmark = pytest.mark.docker
MIB = 1 << 20


@pytest.fixture(scope="module")
def spec(engine: Engine) -> ContainerSpec:
    """A container of the base image, under a name and component of this run."""
    mark = f"engine-test-{uuid.uuid4().hex[:8]}"
    return ContainerSpec(image=base_image(engine).id, name=mark, component=mark)


@pytest.fixture(autouse=True)
def _nothing_is_left(spec: ContainerSpec) -> Iterator[None]:
    yield
    assert containers(spec) == []


def containers(spec: ContainerSpec) -> list[str]:
    return listed(f"{COMPONENT_LABEL}={spec.component}")


def listed(*labels: str) -> list[str]:
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    command = ["docker", "ps", "-a", "-q", *filters]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def python(spec: ContainerSpec, code: str, **changes: Any) -> ContainerSpec:
    return replace(spec, command=("python3.11", "-c", code), **changes)


def test_a_container_that_ends_is_told_with_its_exit_code_and_output(engine: Engine, spec: ContainerSpec) -> None:
    done = run(engine, python(spec, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"), 60)
    assert (done.state.exit_code, done.state.oom_killed, done.timed_out) == (7, False, False)
    assert sorted(done.logs.split()) == ["err", "out"]
    # Not which came first: the engine notes a start when it gets to it, and this container has ended by then.
    assert done.state.started_at is not None
    assert done.state.finished_at is not None


def test_a_container_that_does_not_end_is_killed_and_told(engine: Engine, spec: ContainerSpec) -> None:
    done = run(engine, python(spec, "import time; print('here', flush=True); time.sleep(600)"), 3)
    assert (done.state.exit_code, done.state.oom_killed, done.timed_out) == (137, False, True)
    assert done.logs == "here\n"


def test_running_out_of_memory_is_told_apart_from_being_killed(engine: Engine, spec: ContainerSpec) -> None:
    done = run(engine, python(spec, "x = bytearray(200 << 20)", memory_bytes=64 * MIB), 60)
    assert (done.state.exit_code, done.state.oom_killed) == (137, True)


def test_the_cpu_quota_is_what_the_container_sees(engine: Engine, spec: ContainerSpec) -> None:
    code = (
        "from pathlib import Path; p = Path('/sys/fs/cgroup');"
        "v2 = p / 'cpu.max'; v1 = p / 'cpu/cpu.cfs_quota_us';"
        "print(v2.read_text().split()[0] if v2.exists() else v1.read_text().strip())"
    )
    assert run(engine, python(spec, code, cpus=1.5), 60).logs.strip() == "150000"


def test_the_most_memory_that_was_held_is_known_while_it_runs(engine: Engine, spec: ContainerSpec) -> None:
    code = "x = bytearray(100 << 20); del x; print('done', flush=True); import time; time.sleep(600)"
    with running(engine, python(spec, code, memory_bytes=512 * MIB)) as container:
        while "done" not in engine.logs(container):
            time.sleep(0.05)
        peak = engine.peak_memory_bytes(container)
    assert peak is not None
    assert 100 * MIB < peak < 200 * MIB


def test_files_are_mounted_for_reading_only(engine: Engine, spec: ContainerSpec, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o666)
    code = "print(open('/mnt/file').read()); open('/mnt/file', 'w')"
    done = run(engine, python(spec, code, mounts={path: "/mnt/file"}), 60)
    assert "content\n" in done.logs
    assert "Read-only file system" in done.logs
    assert path.read_text() == "content"


def test_the_root_is_read_only_and_there_is_no_network(engine: Engine, spec: ContainerSpec) -> None:
    code = (
        "import os, socket\n"
        "for attempt in (lambda: open('/home/nonroot/x', 'w'), lambda: os.mkdir('/x'),"
        " lambda: socket.create_connection(('1.1.1.1', 53), 2)):\n"
        "    try: attempt(); print('worked')\n"
        "    except OSError as error: print('refused')\n"
    )
    assert run(engine, python(spec, code), 60).logs.split() == ["refused"] * 3


def test_a_leftover_of_the_same_name_is_removed_first(engine: Engine, spec: ContainerSpec) -> None:
    first = engine.start(python(spec, "import time; time.sleep(600)"))
    with running(engine, python(spec, "import time; time.sleep(600)")) as second:
        assert first != second
        assert len(containers(spec)) == 1


def test_removing_what_is_not_there_is_no_error(engine: Engine, spec: ContainerSpec) -> None:
    engine.remove(spec.name)
    engine.remove_image(f"slipway/{spec.name}:none")


def test_a_missing_image_is_a_sentence(engine: Engine, spec: ContainerSpec) -> None:
    with pytest.raises(PlatformError, match="is not in the engine"):
        engine.start(replace(spec, image=f"slipway/{spec.name}:none"))


def test_a_command_that_there_is_not_leaves_no_container(engine: Engine, spec: ContainerSpec) -> None:
    with pytest.raises(PlatformError, match="could not be started"):
        engine.start(replace(spec, command=("nothing",)))
    assert containers(spec) == []


def test_a_port_that_is_not_published_is_a_sentence(engine: Engine, spec: ContainerSpec) -> None:
    waiting = python(spec, "import time; time.sleep(600)")
    with running(engine, waiting) as container, pytest.raises(PlatformError, match="is not published"):
        engine.host_port(container, 8000)


def test_an_engine_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(EngineUnavailable, match="no Docker engine answers: start one"):
        connect()


HOLD = """
import sys, time
from tasks.image import ContainerSpec, connect
engine = connect()
engine.start(ContainerSpec(image=sys.argv[1], name=sys.argv[2], component=sys.argv[2],
                           command=("python3.11", "-c", "import time; time.sleep(600)")))
print("started", flush=True)
time.sleep(600)
"""


def start_elsewhere(spec: ContainerSpec) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, spec.image, spec.name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_another_processes_container_is_left_alone_until_that_process_is_dead(
    engine: Engine, spec: ContainerSpec
) -> None:
    process = start_elsewhere(spec)
    try:
        assert engine.sweep(spec.component) == ()
        with pytest.raises(PlatformError, match="belongs to someone else"):
            engine.start(spec)
    finally:
        process.kill()
        process.wait()
    assert engine.sweep(spec.component) == (spec.name,)


def test_a_dead_processes_container_gives_way_to_a_new_one(engine: Engine, spec: ContainerSpec) -> None:
    process = start_elsewhere(spec)
    process.kill()
    process.wait()
    with running(engine, python(spec, "import time; time.sleep(600)")):
        assert len(containers(spec)) == 1


# --- builds -------------------------------------------------------------------------------------------------------

BUILD = """
import io, os, sys
from tasks.image import connect
from tasks.image.context import Context
context = Context(io.BytesIO())
context.add_bytes("Dockerfile", f"FROM {sys.argv[1]}\\nLABEL mark={sys.argv[2]}\\nCOPY root /\\nRUN "
                  '["python3.11", "-c", "import time; time.sleep(600)"]\\n'.encode())
context.add_bytes("root/opt/x", os.urandom(1 << 20))
print("building", flush=True)
connect().build(context.finish(), f"slipway/{sys.argv[2]}:x", {}, {})
"""


def test_a_killed_build_leaves_no_container_and_no_tag(engine: Engine, spec: ContainerSpec) -> None:
    process = subprocess.Popen([sys.executable, "-c", BUILD, spec.image, spec.name], stdout=subprocess.PIPE)
    while not steps_of(spec) and process.poll() is None:
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while steps_of(spec) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert steps_of(spec) == []
    assert engine.find_image(f"slipway/{spec.name}:x") is None
    while (left := engine.images(f"mark={spec.name}")) and time.monotonic() < deadline:
        for image in left:
            with contextlib.suppress(PlatformError):  # its children first
                engine.remove_image(image.id)
    assert left == ()


def steps_of(spec: ContainerSpec) -> list[str]:
    """The containers in which the engine runs the steps of this test's build."""
    return listed(f"mark={spec.name}")


def ensure(settings: Settings, name: str, answers: Any) -> None:
    try:
        answers.put(ensure_runtime(name, connect(), settings))
    except Exception as error:  # noqa: BLE001  a test waits for an answer of this process
        answers.put(error)


def test_two_processes_that_need_a_runtime_at_once_build_it_once(
    engine: Engine, spec: ContainerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime of one small library, made for this test."""
    onnx = RUNTIMES["onnx"]
    folder = tmp_path / spec.name
    folder.mkdir()
    (folder / "Dockerfile").write_text((onnx.folder / "Dockerfile").read_text() + f"LABEL mark={spec.name}\n")
    (folder / "trim").write_text("")
    (block,) = re.findall(r"^orjson==.*\n(?:    .*\n)+", onnx.lock.read_text(), re.MULTILINE)
    (folder / "requirements.txt").write_text(block)
    monkeypatch.setitem(RUNTIMES, spec.name, Runtime(spec.name, folder, ()))
    settings = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    try:
        processes = [context.Process(target=ensure, args=(settings, spec.name, answers)) for _ in range(2)]
        for process in processes:
            process.start()
        first, second = answers.get(timeout=300), answers.get(timeout=300)
        for process in processes:
            process.join()
        assert first == second
        assert len([image for image in engine.images(f"mark={spec.name}") if image.tags]) == 2  # libraries and server
        assert list((tmp_path / "home" / "work").glob("*")) == []
    finally:
        for image in engine.images(f"mark={spec.name}"):
            for tag in image.tags:
                engine.remove_image(tag)


def test_files_come_out_of_an_image_that_nothing_of_is_run(engine: Engine, spec: ContainerSpec, tmp_path: Path) -> None:
    engine.copy_out(spec.image, "/etc/passwd", tmp_path)
    assert "nonroot" in (tmp_path / "passwd").read_text()
    with pytest.raises(PlatformError, match="has no /nowhere"):
        engine.copy_out(spec.image, "/nowhere", tmp_path)
    with pytest.raises(PlatformError, match="no plain file inside its folder"):
        engine.copy_out(spec.image, "/usr/bin", tmp_path)  # python3 is a link
    assert listed(f"{COMPONENT_LABEL}=copy", f"{PID_LABEL}={os.getpid()}") == []


def test_an_image_that_is_not_there_is_said(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="slipway/image-test:nowhere is not in the engine"):
        engine.copy_out("slipway/image-test:nowhere", "/etc/passwd", tmp_path)
