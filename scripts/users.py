"""Users of a model, made up: requests at a steady rate, in the background, and what became of them.

In: where the router listens and rows to ask about. Out: counts that grow. Arrivals are a Poisson process
(`tasks.load.openloop`), so the users do not wait for each other, and each request has an id of its own, by which the
router splits.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tasks.load.client import Address, Broken, post
from tasks.load.openloop import offer

#: Requests a second: enough that one percent of them decides within moments, little enough for two cores that also
#: run Airflow, the router, and both versions.
RATE = 200.0
#: Requests are prepared, and sent in turn, for so many seconds at a time; counts are as old at most.
_SLICE_S = 2.0
#: A user who waits longer than this has gone, s.
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What users met so far. `failed` are answers that were none: another status, no answer, no connection."""

    requests: int = 0
    failed: int = 0
    slow: int = 0


class Users:
    """Ask from the beginning of a `with` block to its end."""

    def __init__(self, port: int, path: str, rows: list[bytes], *, p99_ms: float, rate: float = RATE) -> None:
        """`rows` are bodies of requests, in JSON."""
        self._address, self._path, self._p99_ms, self._rate = Address("127.0.0.1", port), path, p99_ms, rate
        self._rows = itertools.cycle(rows)
        self._asked = Asked()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="users", daemon=True)

    @property
    def asked(self) -> Asked:
        """Everything up to the slice that is being asked."""
        return self._asked

    def __enter__(self) -> Users:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()

    def _ask(self) -> None:
        for seed in itertools.count():
            if self._enough.is_set():
                return
            # More than a slice will send, so that no id comes twice in it.
            messages = [self._message() for _ in range(int(self._rate * _SLICE_S * 2))]
            before = self._asked
            try:
                found = offer(
                    self._address,
                    messages,
                    self._rate,
                    _SLICE_S,
                    # Users do not give up on everybody because some are late, as a measurement does beyond its limit.
                    limit_ms=1000 * _PATIENCE_S,
                    patience_s=_PATIENCE_S,
                    seed=seed,
                )
            except (OSError, Broken):  # nobody listens, or what answers is no server: everybody in this slice failed
                lost = int(self._rate * _SLICE_S)
                self._asked = Asked(before.requests + lost, before.failed + lost, before.slow + lost)
                self._enough.wait(_SLICE_S)
                continue
            self._asked = Asked(
                before.requests + found.asked,
                before.failed + found.refused + found.unanswered,
                before.slow + found.late(self._p99_ms),
            )

    def _message(self) -> bytes:
        message = post(self._path, next(self._rows))
        head, _, body = message.partition(b"\r\n\r\n")
        return head + f"\r\nX-Request-Id: {uuid.uuid4().hex}\r\n\r\n".encode() + body


def rows_of(evaluation: Path, name: str, datatype: str = "FP32") -> list[bytes]:
    """One request for each row of an .npz: what users of the model send."""
    import numpy as np
    import orjson

    with np.load(evaluation) as data:
        values = data[name]
    return [
        orjson.dumps(
            {"inputs": [{"name": name, "datatype": datatype, "shape": [1, *row.shape], "data": row.ravel()}]},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for row in np.ascontiguousarray(values)
    ]
