"""ONNX files through onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.contract import Signature
from serving.runners import RunnerError, missing_names

#: What a file of float16 arithmetic is called. onnxruntime 1.31 ends in a segmentation fault while it looks for
#: convolutions to lay out anew in some of them (a Transpose between LayerNormalization and MatMul is enough), so that
#: is left out for files of this name; in float32 it makes convolutions faster, and works.
FLOAT16_FILE = "model.float16.onnx"
_CRASHES_ON_FLOAT16 = "NchwcTransformer"


class OnnxRunner:
    """An inference session; see `serving.runners.Runner`."""

    def __init__(self, session: Any, names: list[str]) -> None:
        self._session = session
        self._names = names

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            answers = self._session.run(self._names, dict(inputs))
        except Exception as error:
            raise RunnerError(f"onnxruntime failed: {error}") from error
        return dict(zip(self._names, answers, strict=True))

    def close(self) -> None:
        self._session = None


def load(path: Path, signature: Signature, threads: int) -> OnnxRunner:
    """Open an `.onnx` file, with external data beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    # Threads that spin between requests eat the container's CPU quota.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[_CRASHES_ON_FLOAT16] if path.name == FLOAT16_FILE else None,
        )
    except Exception as error:
        said = str(error).replace(str(path), path.name)  # which folder it lay in is nobody's news
        raise RunnerError(f"onnxruntime cannot load {path.name}: {said}") from error
    outputs = tuple(tensor.name for tensor in signature.outputs)
    problem = missing_names(
        "input", tuple(tensor.name for tensor in signature.inputs), tuple(item.name for item in session.get_inputs())
    ) or missing_names("output", outputs, tuple(item.name for item in session.get_outputs()))
    if problem:
        raise RunnerError(f"{path.name}: {problem}")
    return OnnxRunner(session, list(outputs))
