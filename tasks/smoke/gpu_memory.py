"""Whether models fit into one GPU's memory together, before any GPU is there to try it.

In: instance groups, as Triton calls them (a model, and how many instances of it share the GPU), and the GPU. Out: what
they need at their largest batch, from the least to the most that it can be, and how many instances would fit.

    needed = Σ over groups (weights × copies + workspace × instances) + one process and the driver
    usable = the data sheet's memory, less what inline error correction takes

Every instance holds its own copy of the weights (triton-inference-server/server, issues 3096 and 4138), except where
the backend shares them among instances on one GPU, which TensorRT does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.smoke.accelerators import Accelerators, RuntimeMemory
from tasks.smoke.hardware import Gpu


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`instances` of one model on one GPU; `workspace_bytes` are one instance's activations at the largest batch."""

    model: str
    weights_bytes: int
    workspace_bytes: int
    instances: int = 1
    shares_weights: bool = False

    @property
    def needed_bytes(self) -> int:
        copies = 1 if self.shares_weights else self.instances
        return self.weights_bytes * copies + self.workspace_bytes * self.instances

    @property
    def another_bytes(self) -> int:
        """What one instance more would need."""
        return self.workspace_bytes + (0 if self.shares_weights else self.weights_bytes)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What groups need of one GPU. The least is certain; the most assumes the largest runtime that was seen."""

    groups: tuple[InstanceGroup, ...]
    usable_bytes: int
    least_bytes: int
    most_bytes: int

    @property
    def certainly_too_large(self) -> bool:
        return self.least_bytes > self.usable_bytes

    @property
    def fits(self) -> bool:
        """With the largest runtime, too."""
        return self.most_bytes <= self.usable_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left beside the most that they need; negative where they do not fit."""
        return self.usable_bytes - self.most_bytes

    def most_instances(self, group: InstanceGroup) -> int | None:
        """How many instances of one group fit beside the other groups; None where one more would need nothing."""
        if group.another_bytes == 0:
            return None
        free = self.headroom_bytes + group.needed_bytes
        shared = group.weights_bytes if group.shares_weights else 0
        return max(0, (free - shared) // group.another_bytes)


def plan(groups: Sequence[InstanceGroup], usable_bytes: int, runtime: RuntimeMemory) -> MemoryPlan:
    """Put `groups` onto one GPU, all in one process."""
    needed = sum(group.needed_bytes for group in groups)
    return MemoryPlan(tuple(groups), usable_bytes, needed + runtime.least_bytes, needed + runtime.most_bytes)


def usable_bytes(gpu: Gpu, table: Accelerators) -> int:
    """What programs may have of one GPU's memory."""
    return int(gpu.memory_bytes * (1 - table.inline_ecc.share)) if gpu.inline_ecc else gpu.memory_bytes
