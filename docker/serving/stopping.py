"""SIGTERM and SIGINT: in order where there is an order to keep, at once otherwise.

A first signal does what was prepared for it (`on_first`); a second, or a first before anything was prepared, as while a
model is loaded, ends the process at once with 128 + its number. A thread of its own waits for them, because Python
runs signal handlers between two steps of the main thread, and a step that loads a model may take minutes. As process 1
of a container, a process without a handler would not be ended by them at all.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from serving.log import log, settle

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """Handles both signals from its construction on, in the main thread, until the process ends."""

    def __init__(self) -> None:
        self._first: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._arrivals, self._arriving = os.pipe()
        os.set_blocking(self._arriving, False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self.listen()
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def listen(self) -> None:
        """Have the interpreter tell this of signals, and nobody else; in the main thread.

        Whatever thread a signal interrupts, its number is written to the pipe, in C and without the interpreter's lock.
        """
        signal.set_wakeup_fd(self._arriving, warn_on_full_buffer=False)

    def on_first(self, action: Callable[[], object] | None) -> None:
        """What the first signal does, in the thread that waits for signals; None lets it end the process."""
        with self._lock:
            self._first = action

    def _watch(self) -> None:
        while True:
            (number,) = os.read(self._arrivals, 1)
            if number not in _SIGNALS:
                continue
            with self._lock:
                action, self._first = self._first, None
            if action is None:
                log("ended at once", signal=signal.Signals(number).name)
                settle()
                os._exit(128 + number)
            action()
