"""What a running HAProxy is told and asked, through the socket of its master process.

In: commands of its runtime API. Out: their answers, as text. The master passes commands on to its workers: the one that
takes connections, and those that a reload replaced, which still finish theirs. Whatever changes the split is told to
all of them.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import PlatformError

#: Seconds for one answer: it is a local socket, and HAProxy answers within a millisecond unless it stands still.
_TIMEOUT_S = 5.0
#: While a master reloads, it starts anew and refuses connections, for some hundredths of a second.
_RELOAD_S, _POLL_S = 1.0, 0.01

#: `show proc`: process id, what it is, how often the master was reloaded since; the new one first.
_WORKER = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)


class Unheard(PlatformError):
    """HAProxy does not answer on its socket."""


@dataclass(frozen=True, slots=True)
class Master:
    """The master process behind a socket."""

    socket: Path

    def workers(self) -> tuple[int, ...]:
        """The processes of its workers, the one that takes new connections first.

        Raises:
            Unheard: nothing answers, or there is no worker.
        """
        patience = time.monotonic() + _RELOAD_S
        while not (found := tuple(int(pid) for pid in _WORKER.findall(self.ask("show proc")))):
            if time.monotonic() > patience:
                raise Unheard(f"HAProxy behind {self.socket} has no worker: its log says why")
            time.sleep(_POLL_S)
        return found

    def tell(self, worker: int, commands: Sequence[str]) -> str:
        """Have one worker carry commands out, in order; what it said to all of them.

        Raises:
            Unheard: nothing answers.
        """
        # Variables may be set in experimental mode alone (HAProxy 2.6's management guide, "set var").
        return self.ask("; ".join(["experimental-mode on", *(f"@!{worker} {command}" for command in commands)]))

    def ask(self, command: str) -> str:
        """What the master itself answers.

        Raises:
            Unheard: nothing answers.
        """
        patience = time.monotonic() + _RELOAD_S
        while True:
            try:
                return self._asked(command)
            except ConnectionError as error:  # refused, or broken off in the middle
                if time.monotonic() > patience:
                    raise self._unheard(error) from error
                time.sleep(_POLL_S)
            except OSError as error:
                raise self._unheard(error) from error

    def _asked(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            _connect(connection, self.socket)
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            return _read(connection)

    def _unheard(self, error: OSError) -> Unheard:
        return Unheard(f"HAProxy does not answer behind {self.socket}: {error.strerror or error}")


def _connect(connection: socket.socket, path: Path) -> None:
    """By way of its folder: a path in an address has at most 108 bytes (unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _read(connection: socket.socket) -> str:
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces).decode(errors="replace")
