"""What a server may be told when it starts: each setting as an option (`--grace-s 5`) and as a variable of the
environment (`SERVING_GRACE_S=5`), the option first.

In: texts. Out: numbers that make sense, or `Refused` with a sentence that names the option or the variable. A variable
that is empty is as good as not there.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from serving.contract import Batching
from serving.package import Refusal, Refused, read_contract

N = TypeVar("N", int, float)

#: What was typed, by the option's name as argparse has it (`grace_s`); None where it was not.
Given = Mapping[str, str | None]

_PORT, _GRPC_PORT = 8000, 8001
#: TCP's largest port (RFC 9293, section 3.1: 16 bits).
_LAST_PORT = 2**16 - 1
#: No count of rows or workers is larger than what a machine could hold.
_MOST = 2**31 - 1
#: Of numbers that may have a fraction: anything but infinity.
_LARGEST = math.nextafter(math.inf, 0)
#: More threads than CPUs only take them from each other (docs/tune.md). Four times as many is room for whoever wants to
#: see that; thousands are a slip of the finger, with which a runtime is not ready for minutes.
_THREADS_PER_CPU = 4


@dataclass(frozen=True, slots=True)
class Setting(Generic[N]):
    """A number from `least` to `most`. `what` is for the help."""

    option: str
    what: str
    kind: Callable[[str | int], N]
    least: N
    most: N

    @property
    def variable(self) -> str:
        return f"SERVING_{self.option.upper().replace('-', '_')}"

    def read(self, given: Given, environment: Mapping[str, str], most: N | None = None, why: str = "") -> N | None:
        """What was said, None where nothing was. `most` replaces the setting's own, `why` says where it comes from.

        Raises:
            Refused: SETTINGS.
        """
        name, text = f"--{self.option}", given.get(self.option.replace("-", "_"))
        if text is None:
            name, text = self.variable, environment.get(self.variable) or None
        if text is None:
            return None
        most = self.most if most is None else most
        try:
            value = self.kind(text)
        except ValueError:
            value = self.kind(-1)  # below the least of every setting
        if self.least <= value <= most:  # NaN is not
            return value
        what = "a number" if isinstance(value, float) else "a whole number"
        span = f"of at least {self.least:g}" if most in (_MOST, _LARGEST) else f"from {self.least} to {most}"
        raise Refused(Refusal.SETTINGS, f"{name}: expected {what} {span}{why}, found {reprlib.repr(text)}")


PORT = Setting("port", "port to listen on", int, 1, _LAST_PORT)
GRPC_PORT = Setting("grpc-port", "port of gRPC; 0 for none", int, 0, _LAST_PORT)
THREADS = Setting("threads", "threads of one inference", int, 1, _MOST)
WORKERS = Setting("workers", "batches at once", int, 1, _MOST)
BATCH_ROWS = Setting("batch-rows", "most rows of a batch", int, 1, _MOST)
BATCH_WINDOW_MS = Setting(
    "batch-window-ms", "how long a batch waits for more while workers are busy", float, 0.0, _LARGEST
)
QUEUE_ROWS = Setting("queue-rows", "most rows that wait", int, 1, _MOST)
GRACE_S = Setting("grace-s", "seconds that requests in flight have to finish after SIGTERM", float, 0.0, _LARGEST)

ALL: tuple[Setting[int] | Setting[float], ...] = (
    PORT,
    GRPC_PORT,
    THREADS,
    WORKERS,
    BATCH_ROWS,
    BATCH_WINDOW_MS,
    QUEUE_ROWS,
    GRACE_S,
)


def read_ports(given: Given, environment: Mapping[str, str] = os.environ) -> tuple[int, int | None]:
    """HTTP's port and gRPC's, None for no gRPC.

    Raises:
        Refused: SETTINGS.
    """
    port, grpc_port = PORT.read(given, environment) or _PORT, GRPC_PORT.read(given, environment)
    grpc_port = _GRPC_PORT if grpc_port is None else grpc_port
    if port == grpc_port:
        names = f"{PORT.variable} and {GRPC_PORT.variable}"
        raise Refused(Refusal.SETTINGS, f"{names} are both {port}: expected two ports, or 0 for no gRPC")
    return port, grpc_port or None


def read_threads(folder: Path, given: Given, environment: Mapping[str, str] = os.environ) -> int | None:
    """Threads of one inference, no more than make sense on this machine, or than the package itself asks for.

    Raises:
        Refused: SETTINGS, or CONTRACT where there is something to hold against it.
    """
    if THREADS.read(given, environment) is None:
        return None
    cpus = os.cpu_count() or 1
    asked = read_contract(folder).batching.threads or 0  # `slipway tune` repeats it
    why = f" ({_THREADS_PER_CPU} for each of this machine's {cpus} CPUs)"
    return THREADS.read(given, environment, max(_THREADS_PER_CPU * cpus, asked), why)


def read_batching(folder: Path, given: Given, environment: Mapping[str, str] = os.environ) -> Batching:
    """What comes before the contract of the package in `folder`.

    Raises:
        Refused: SETTINGS, or CONTRACT where there is something to hold against it.
    """
    rows = BATCH_ROWS.read(given, environment)
    if rows is not None:
        most = read_contract(folder).max_batch
        rows = BATCH_ROWS.read(given, environment, most, " (the package's max_batch: larger ones were not proven)")
    return Batching(
        batch_rows=rows,
        batch_window_ms=BATCH_WINDOW_MS.read(given, environment),
        queue_rows=QUEUE_ROWS.read(given, environment),
        workers=WORKERS.read(given, environment),
        threads=read_threads(folder, given, environment),
    )
