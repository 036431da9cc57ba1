"""Starts MLServer on one model. In its own process, not in a pool of workers behind a queue: that is faster here.

Environment: BENCH_MODEL, BENCH_PORT, BENCH_THREADS.
"""

import json
import os
import sys
from pathlib import Path

from mlserver.cli import main

port = int(os.environ["BENCH_PORT"])
folder = Path.cwd() / "settings"
folder.mkdir(exist_ok=True)
settings = {
    "host": "127.0.0.1",
    "http_port": port,
    "grpc_port": port + 1,
    "metrics_port": port + 2,
    "parallel_workers": 0,
    "debug": False,
}
model = {
    "name": "mlp",
    "implementation": "runtime.OnnxRuntime",
    "parameters": {"uri": os.environ["BENCH_MODEL"]},
}
(folder / "settings.json").write_text(json.dumps(settings))
(folder / "model-settings.json").write_text(json.dumps(model))
sys.argv = ["mlserver", "start", str(folder)]
main()
