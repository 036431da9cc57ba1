"""Background processes that outlive the command that started them, and can always be found again.

In: a command. Out: its process, in a session of its own. Each records its own process id and start time under
`<home>/run/` before it becomes the command, so that there is no moment in which it runs and is not known, whatever
happens to the one who started it. Two things make its descendants findable, also after it died: they stay in its
session, and they inherit the variable SLIPWAY_SERVICES, which names the home.

Needs Linux's /proc.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "SLIPWAY_SERVICES"
_PROC = Path("/proc")
# The shell writes its own line of /proc (process id, start time), then becomes the command: same process, same times.
_RECORD_THEN_EXEC = 'cat "/proc/$$/stat" >"$0.new" && mv "$0.new" "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `started` is in clock ticks since boot: with `pid` it names a process for good."""

    pid: int
    started: int
    session: int
    state: str

    @classmethod
    def parse(cls, stat: str) -> Process:
        """From a line of /proc/<pid>/stat (proc(5)); the command's name in it may hold spaces and parentheses."""
        pid, _, rest = stat.partition(" ")
        fields = rest[rest.rindex(")") + 2 :].split()
        return cls(pid=int(pid), state=fields[0], session=int(fields[3]), started=int(fields[19]))

    @classmethod
    def read(cls, pid: int) -> Process | None:
        """The process that has this id now; None if there is none, or only a zombie's entry is left."""
        try:
            process = cls.parse((_PROC / str(pid) / "stat").read_text())
        except (OSError, ValueError):
            return None
        return None if process.state in {"Z", "X"} else process


def launch(
    name: str, command: Sequence[str], *, home: Path, environment: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, recorded as `name`, and return once it is recorded.

    stdout and stderr go to `log`; the log of the time before is kept beside it (`<name>.old`).
    """
    record = _record(home, name)
    record.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".old"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _RECORD_THEN_EXEC, str(record), *command],
            env={**environment, MARK: str(home)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not record.exists() and process.poll() is None:
        time.sleep(0.005)
    return process


def running(home: Path, name: str) -> Process | None:
    """The process recorded as `name`, if it still runs."""
    recorded = _recorded(_record(home, name))
    if recorded is None:
        return None
    process = Process.read(recorded.pid)
    return process if process is not None and process.started == recorded.started else None


def launched_at(home: Path, name: str) -> float | None:
    """When the process recorded as `name` was launched, in seconds since the epoch."""
    try:
        return _record(home, name).stat().st_mtime
    except OSError:
        return None


def members(home: Path) -> tuple[Process, ...]:
    """Every process that belongs to this home's services, however it got there; never the caller or its ancestors."""
    sessions = {
        recorded.pid
        for path in (home / "run").glob("*.stat")
        if (recorded := _recorded(path)) is not None and not _reused(recorded)
    }
    mark = f"{MARK}={home}".encode()
    spared = _lineage(os.getpid())
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        process = Process.read(int(entry.name))
        if process is not None and (process.session in sessions or mark in _environment(process.pid)):
            found.append(process)
    return tuple(found)


def stop(home: Path, *, patience_s: float = 10) -> int:
    """Stop this home's services and everything they started; answers how many processes that were.

    The services are asked first, so that they can put their own workers away; then whoever is left is asked; then
    killed. Returns only when none is left.
    """
    seen = {process.pid for process in members(home)}
    leaders = [recorded for path in (home / "run").glob("*.stat") if (recorded := _recorded(path)) is not None]
    asked = [leader for leader in leaders if _send(leader, signal.SIGTERM)]
    if asked:
        seen |= _wait_until_gone(home, patience_s)
    for request, wait_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0)):
        left = members(home)
        if not left:
            break
        for process in left:
            _send(process, request)
        seen |= _wait_until_gone(home, wait_s)
    while left := members(home):  # what was forked between looking and killing
        seen |= {process.pid for process in left}
        for process in left:
            _send(process, signal.SIGKILL)
        time.sleep(0.05)
    for path in (home / "run").glob("*.stat*"):
        path.unlink(missing_ok=True)
    return len(seen)


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for an error message; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def listener(port: int) -> str | None:
    """Who listens on a TCP port of this machine, as words for a message; None when nobody does."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if any(os.readlink(handle) in inodes for handle in (entry / "fd").iterdir()):  # noqa: PTH115 (not a path)
                return f"{(entry / 'comm').read_text().strip()} (process {entry.name})"
        except OSError:
            continue
    return "a process of another user"


def _record(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.stat"


def _recorded(path: Path) -> Process | None:
    try:
        return Process.parse(path.read_text())
    except (OSError, ValueError):
        return None


def _reused(recorded: Process) -> bool:
    """Whether the recorded id belongs to another process by now. A dead leader's id stays taken by its session."""
    process = Process.read(recorded.pid)
    return process is not None and process.started != recorded.started


def _send(process: Process, request: signal.Signals) -> bool:
    current = Process.read(process.pid)
    if current is None or current.started != process.started:
        return False
    try:
        os.kill(process.pid, request)
    except ProcessLookupError:
        return False
    return True


def _wait_until_gone(home: Path, seconds: float) -> set[int]:
    seen: set[int] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = members(home)
        if not left:
            break
        seen |= {process.pid for process in left}
        time.sleep(0.1)
    return seen


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _lineage(pid: int) -> set[int]:
    lineage = set()
    while pid > 0:
        lineage.add(pid)
        try:
            stat = (_PROC / str(pid) / "stat").read_text()
        except OSError:
            break
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return lineage
