"""Keras 3 models (`model.save("model.keras")`)."""

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
class KerasModel:
    """A Keras model, asked by input names where it has several."""

    native: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        arrays = [inputs[tensor.name] for tensor in self.signature.inputs]
        names = [tensor.name for tensor in self.signature.inputs]
        by_name = {tensor.name for tensor in self.native.inputs} == set(names)
        if len(arrays) == 1:
            answer = self.native(arrays[0], training=False)
        elif isinstance(self.native.input, dict) or by_name:
            answer = self.native(dict(zip(names, arrays, strict=True)), training=False)
        else:
            answer = self.native(arrays, training=False)
        outputs = [tensor.name for tensor in self.signature.outputs]
        if isinstance(answer, Mapping):
            return {name: np.asarray(answer[name]) for name in outputs}
        values = answer if isinstance(answer, (list, tuple)) else [answer]
        return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse Lambda layers and other code in the configuration."""


def load(path: Path, artifact: Artifact, work: Path) -> KerasModel:
    """Read the model with Keras's safe mode on."""
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise SourceError(f"{path.name} cannot be read as a Keras model: {error}") from error
    return KerasModel(model, artifact.signature)
