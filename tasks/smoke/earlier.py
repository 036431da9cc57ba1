"""What an image was found to bear, kept for instance types that would give it the same.

The highest rate and the smallest memory take most of a smoke's time, and follow from the image, the vCPUs that the
container was given, this machine and the harness: not from the name of the type. In: the store and a key of all that
(`tasks.reuse.capacity_inputs`). Out: `Borne` and `Bracket` of an earlier type, with its name. What decides is still
seen under the type's own memory: the start, the golden answers, the latency and the peak load.
"""

from __future__ import annotations

from pydantic import ValidationError

from tasks.contracts import Contract, Digest
from tasks.smoke.bisection import Bracket
from tasks.smoke.observation import Borne, Limits
from tasks.store import Store

_STAGE = "capacity"


class _Kept(Contract):
    """What is known so far, and on which types it was measured."""

    rate: Borne | None = None
    rate_on: str = ""
    memory: Bracket | None = None
    memory_on: str = ""


class Earlier:
    """What is kept under one key; read and written by whoever has the machine's turn (`tasks.smoke.quiet`)."""

    def __init__(self, store: Store | None = None, key: Digest = "", *, fresh: bool = False) -> None:
        """Without a store nothing is known and nothing is kept. With `fresh` everything is measured, and kept."""
        self._store, self._key, self._fresh = store, key, fresh

    def rate(self) -> tuple[Borne, str] | None:
        """The highest rate, and the type that it was measured on."""
        kept = self._known()
        return None if kept.rate is None else (kept.rate, kept.rate_on)

    def memory(self, limits: Limits) -> tuple[Bracket, str] | None:
        """The smallest memory, and the type that it was measured on; none where a container has less than that."""
        kept = self._known()
        if kept.memory is None or limits.memory_bytes < kept.memory.enough:
            return None
        return kept.memory, kept.memory_on

    def keep(self, kind: str, *, rate: Borne | None = None, memory: Bracket | None = None) -> None:
        """Keep what was measured on the type `kind`. A bracket whose ends did not meet in time is not kept."""
        changes: dict[str, object] = {}
        if rate is not None:
            changes |= {"rate": rate, "rate_on": kind}
        if memory is not None and memory.is_exact:
            changes |= {"memory": memory, "memory_on": kind}
        if self._store is not None and changes:
            self._store.put_result(_STAGE, self._key, self._read().model_copy(update=changes).model_dump_json())

    def _known(self) -> _Kept:
        return _Kept() if self._fresh else self._read()

    def _read(self) -> _Kept:
        text = None if self._store is None else self._store.get_result(_STAGE, self._key)
        try:
            return _Kept() if text is None else _Kept.model_validate_json(text)
        except ValidationError:  # another version of Slipway wrote it in another form
            return _Kept()
