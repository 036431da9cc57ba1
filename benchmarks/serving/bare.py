"""onnxruntime with nothing around it, in a process of its own: what every server is measured against.

    python bare.py MODEL THREADS SECONDS ROWS       prints {"per_second": …, "p50_us": …} of single runs, as JSON

Imports nothing of Slipway, so that it runs in any environment that has onnxruntime.
"""

import json
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime


def main(model: str, threads: int, seconds: float, rows: int) -> None:
    """Ask the same question again and again for `seconds`, after a tenth of it for warming up."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    inputs = {entry.name: np.random.default_rng(0).normal(size=(rows, *entry.shape[1:])).astype(np.float32)}
    outputs = [session.get_outputs()[0].name]
    _run(session, outputs, inputs, seconds / 10)
    times = _run(session, outputs, inputs, seconds)
    print(json.dumps({"per_second": len(times) / sum(times), "p50_us": statistics.median(times) * 1e6}))


def _run(
    session: onnxruntime.InferenceSession, outputs: list[str], inputs: Mapping[str, Any], seconds: float
) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        session.run(outputs, inputs)
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
