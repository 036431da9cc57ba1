"""Answers under concurrency are those of single requests: the scheduler over each runtime's own runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.batching import Limits
from serving.inference import Answer, Inference
from serving.package import open_package
from tests.integration.tiny import RUNTIMES, TinyModel, answer_raw, raw_samples

_SIZES = (1, 3, 64, 7, 1, 20, 8, 2)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_batches_of_many_clients_are_answered_like_single_requests(
    tiny: Callable[[str], TinyModel], runtime: str, tmp_path: Path
) -> None:
    served = open_package(tiny(runtime).package(tmp_path / "package"), threads=2)
    # More workers than threads, batches smaller than many requests: everything that can get mixed up is there.
    limits = Limits(max_rows=8, queue_rows=100_000, workers=4)

    async def all_at_once() -> list[Answer]:
        inference = Inference(served, pool, limits)
        return list(await asyncio.gather(*(inference.answer({"x": raw_samples(size)}) for size in _SIZES * 25)))

    try:
        with ThreadPoolExecutor(limits.workers) as pool:
            answers = asyncio.run(all_at_once())
    finally:
        served.runner.close()
    assert max(answer.timings.batch_rows for answer in answers) == 8
    for size, answer in zip(_SIZES * 25, answers, strict=True):
        expected = answer_raw(raw_samples(size))
        assert answer.outputs.keys() == expected.keys()
        assert all(np.array_equal(answer.outputs[name], expected[name]) for name in expected), size
