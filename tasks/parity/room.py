"""Whether there is memory for the source's version in float64, and what is said where there is not.

In: a loaded source, and how much memory is free. Out: a `Shortage`, or None. Without the version the source's noise is
measured as that of sources whose framework has none: inputs are moved, and the rounding bound stands below
(`tasks.parity.tolerance`). That is a remark, and no verdict.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tasks.contracts import Finding, Owner, Verdict
from tasks.ingest.sources import SourceModel

#: How many times the source's weights are needed beside it: two for float64; one for the copy that is widened, which
#: goes; and two for the process of the export, which reads a file and unpacks it while the version is still there.
_TIMES = 5
_MEMORY = Path("/proc/meminfo")
#: A container's limit and what it has used, by the versions of control groups (Linux, "cgroup-v2", "cgroup-v1/memory").
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


@dataclass(frozen=True, slots=True)
class Shortage:
    """What the source's weights take, what the version would need beside them, and what is free."""

    weights_bytes: int
    needed_bytes: int
    free_bytes: int

    @property
    def remark(self) -> Finding:
        """What the report says of it."""
        weights, needed, free = (
            f"{size / 1e9:.3g} GB" for size in (self.weights_bytes, self.needed_bytes, self.free_bytes)
        )
        return Finding(
            code="PARITY_NO_FLOAT64_VERSION",
            owner=Owner.PLATFORM,
            verdict=Verdict.PASSED,
            message=f"the source's noise was measured without a float64 version of it: with weights of {weights} that "
            f"takes up to {needed} more, and {free} of memory are free",
            advice="nothing to do where it passed: what is allowed then comes from moved inputs and a rounding bound; "
            "for the closer measure, run parity on a machine with more memory",
            evidence={
                "weights_bytes": self.weights_bytes,
                "needed_bytes": self.needed_bytes,
                "free_bytes": self.free_bytes,
            },
        )


def shortage(source: SourceModel, loader: str, free_bytes: int | None = None) -> Shortage | None:
    """None where there is room, or nothing to make a version of; `free_bytes` is what the kernel says unless given."""
    weights = _weights_bytes(source, loader)
    free = _free_bytes() if free_bytes is None else free_bytes
    if free is None or weights * _TIMES <= free:
        return None
    return Shortage(weights, weights * _TIMES, free)


def _weights_bytes(source: SourceModel, loader: str) -> int:
    if loader in ("torch-state-dict", "torch-export"):
        weights = {tensor.data_ptr(): tensor.nbytes for tensor in source.call.state_dict().values()}  # type: ignore[attr-defined]
        return sum(weights.values())
    if loader == "keras":
        return int(source.native.count_params()) * 4  # Keras's own default, float32
    return 0


def _free_bytes() -> int | None:
    """What the kernel would give without swapping, within the container's limit; None where it does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _MEMORY.read_text().splitlines()
        found.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")))
    for limit, used in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # `max` is no number: there is no limit
            found.append(int(limit.read_text()) - int(used.read_text()))
    return min(found, default=None)
