"""Things to write, handed to a thread of their own: whoever serves requests never waits for a pipe or a disk.

Memory is bounded: what does not fit beside what already waits is lost, and counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: After each write the thread rests this long, so that under load it wakes for many things at once: each waking takes
#: the interpreter from the event loop.
_REST_S = 0.02


class Spool(Generic[T]):
    """Passes items to `write`, in order, in a thread. `lost` counts those that did not fit into `most_bytes`."""

    def __init__(self, write: Callable[[list[T]], None], most_bytes: int, name: str) -> None:
        self._write = write
        self._most_bytes = most_bytes
        self._items: list[T] = []
        self._bytes = 0  # of what waits and of what is being written
        self._lock = threading.Lock()
        self._something = threading.Event()
        self._closing = False
        self.lost = 0
        # A daemon, because a pipe that nobody reads must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T, size_bytes: int) -> bool:
        """Hand over an item; whether it was taken."""
        with self._lock:
            if self._bytes + size_bytes > self._most_bytes:
                self.lost += 1
                return False
            self._bytes += size_bytes
            self._items.append(item)
            first = len(self._items) == 1
        if first:
            self._something.set()
        return True

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing waits; whether that came within `timeout_s`."""
        end = time.monotonic() + timeout_s
        while self._bytes:
            if time.monotonic() > end:
                return False
            time.sleep(_REST_S / 4)
        return True

    def close(self, timeout_s: float) -> bool:
        """Write what waits; whether that was done within `timeout_s`."""
        self._closing = True
        self._something.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._something.wait()
            self._something.clear()
            closing = self._closing
            with self._lock:
                items, self._items = self._items, []
                held = self._bytes
            if items:
                self._write(items)
                with self._lock:
                    self._bytes -= held
            if closing:
                return
            time.sleep(_REST_S)
