"""How many rows, threads and workers: what the contract says, and for the rest what the machine suggests.

In: a contract, the CPUs, and what the environment overrides. Out: a `Scheduling`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from serving.batching import Limits
from serving.contract import Batching, DimRange, DType, ServingContract
from serving.cpus import available_cpus

#: Batches at once: two, so that a slow one holds nobody up. An inference has all CPUs already; more at once only take
#: them from each other (docs/tune.md).
_WORKERS = 2
#: Full batches that may wait, where nobody says otherwise: a few clients with thousands of rows each are let in, a
#: crowd whose wait could only end in time-outs is not.
_QUEUE_BATCHES = 1024
#: Bytes of model inputs that may wait, where nobody says otherwise: a small container (1 GB) must not die of a crowd
#: with large images. Preprocessed inputs count, at their largest; what clients sent may be there as well.
_QUEUE_BYTES = 256 << 20
#: A string's bytes, for the reckoning.
_STRING_BYTES = 128


@dataclass(frozen=True, slots=True)
class Scheduling:
    """`limits` of the line, and the threads of one inference."""

    limits: Limits
    threads: int


def scheduling(contract: ServingContract, overrides: Batching | None = None, cpus: int | None = None) -> Scheduling:
    """What holds for a contract on so many CPUs (those available, unless given); `overrides` come first."""
    chosen = contract.batching
    for item in fields(Batching):
        if overrides is not None and (value := getattr(overrides, item.name)) is not None:
            chosen = replace(chosen, **{item.name: value})
    cpus = cpus or available_cpus()
    span = DimRange(1, 1)
    if contract.signature.batch is not None:
        span = contract.signature.dynamic.get(contract.signature.batch, DimRange(1, contract.max_batch))
    rows = max(span.min, min(chosen.batch_rows or contract.max_batch, contract.max_batch, span.max))
    workers = chosen.workers or _WORKERS
    return Scheduling(
        limits=Limits(
            max_rows=rows,
            min_rows=max(1, span.min),
            queue_rows=chosen.queue_rows or _queue_rows(contract, rows, workers),
            workers=workers,
            window_s=(chosen.batch_window_ms or 0.0) / 1000,
        ),
        threads=chosen.threads or cpus,
    )


def _queue_rows(contract: ServingContract, batch_rows: int, workers: int) -> int:
    """As many rows as their number and their bytes allow, and a batch for each worker at least."""
    row_bytes, dynamic = 0, contract.signature.dynamic
    for spec in contract.signature.inputs:
        size = _STRING_BYTES if spec.dtype is DType.STRING else spec.dtype.numpy.itemsize
        for dimension in spec.shape[1:] if contract.signature.batch is not None else spec.shape:
            size *= dynamic.get(dimension, DimRange(1, 1)).max if isinstance(dimension, str) else dimension
        row_bytes += size
    return max(batch_rows * workers, min(_QUEUE_BATCHES * batch_rows, _QUEUE_BYTES // max(1, row_bytes)))
