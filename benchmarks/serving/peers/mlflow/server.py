"""Starts MLflow's own scoring server on the model in the onnx flavour, which is written at the first start.

Environment: BENCH_MODEL, BENCH_PORT, BENCH_THREADS.
"""

import os
import sys
from hashlib import sha256
from pathlib import Path

source = Path(os.environ["BENCH_MODEL"])
saved = Path.cwd() / f"model-{sha256(source.read_bytes()).hexdigest()[:12]}"
if not saved.is_dir():
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 64), "x")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10), "y")]),
    )
    threads = {"intra_op_num_threads": int(os.environ["BENCH_THREADS"])}
    mlflow.onnx.save_model(onnx.load(source), str(saved), signature=signature, onnx_session_options=threads)

from mlflow.cli import cli  # noqa: E402  its import takes seconds more than the check above

sys.argv = ["mlflow", "models", "serve", "--model-uri", str(saved), "--host", "127.0.0.1"]
sys.argv += ["--port", os.environ["BENCH_PORT"], "--env-manager", "local", "--workers", "1"]
cli()
