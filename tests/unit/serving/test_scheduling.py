"""What holds: the environment before the contract, the contract before the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.batching import Limits
from serving.contract import Batching, DimRange, DType, ServingContract, Signature, TensorSpec
from serving.scheduling import scheduling

WIDE = DimRange(1, 64)


def contract(max_batch: int = 32, span: DimRange | None = WIDE, **batching: Any) -> ServingContract:
    leading = 1 if span is None else "batch"
    signature = Signature(
        (TensorSpec("x", DType.FLOAT32, (leading, 2)),),
        (TensorSpec("y", DType.FLOAT32, (leading,)),),
        {} if span is None else {"batch": span},
    )
    made = ServingContract("m", "1", "onnx", "onnx", "model", (), signature, (), {}, "golden.npz", max_batch, {})
    return replace(made, batching=Batching(**batching))


def test_what_nobody_says_follows_the_cpus() -> None:
    chosen = scheduling(contract(), cpus=4)
    assert chosen.threads == 4
    assert chosen.limits == Limits(max_rows=32, queue_rows=32 * 1024, workers=2, min_rows=1, window_s=0.0)


def test_the_contract_comes_before_the_machine_and_the_environment_before_the_contract() -> None:
    said = contract(batch_rows=16, batch_window_ms=2.0, queue_rows=100, workers=3, threads=1)
    assert scheduling(said, cpus=4).limits == Limits(16, 100, 3, 1, 0.002)
    assert scheduling(said, cpus=4).threads == 1
    chosen = scheduling(said, Batching(batch_rows=4, batch_window_ms=0.0, threads=2), cpus=4)
    assert (chosen.limits.max_rows, chosen.limits.window_s, chosen.threads) == (4, 0.0, 2)
    assert (chosen.limits.queue_rows, chosen.limits.workers) == (100, 3)


@pytest.mark.parametrize(
    ("made", "rows"),
    [
        (contract(32, DimRange(1, 8)), 8),
        (contract(32, batch_rows=1000), 32),
        (contract(4, DimRange(6, 64)), 6),
        (contract(32, None), 1),
        (contract(32, DimRange(4, 64), batch_rows=1), 4),
    ],
)
def test_batches_stay_within_what_was_proven_and_what_the_model_takes(made: ServingContract, rows: int) -> None:
    assert scheduling(made, cpus=1).limits.max_rows == rows


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (("batch", 3, 224, 224), (256 << 20) // (4 * 3 * 224 * 224)),
        (("batch", 3, 4096, 4096), 2 * 32),  # a batch for each worker, whatever it weighs
        (("batch", 4), 32 * 1024),
    ],
)
def test_the_queue_is_bounded_in_bytes_too(shape: tuple[int | str, ...], rows: int) -> None:
    made = contract()
    signature = replace(made.signature, inputs=(TensorSpec("x", DType.FLOAT32, shape),))
    assert scheduling(replace(made, signature=signature), cpus=2).limits.queue_rows == rows
