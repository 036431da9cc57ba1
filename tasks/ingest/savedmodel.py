"""TensorFlow SavedModels: a folder whose `serving_default` signature carries the spec's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.contract import Signature
from tasks.contracts import Artifact
from tasks.errors import SourceError
from tasks.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A loaded trackable, asked through `serving_default`."""

    native: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import tensorflow as tf

        function = self.native.signatures["serving_default"]
        answer = function(**{tensor.name: tf.constant(inputs[tensor.name]) for tensor in self.signature.inputs})
        return {tensor.name: answer[tensor.name].numpy() for tensor in self.signature.outputs}


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse graphs with operations that reach outside the model."""


def load(path: Path, artifact: Artifact, work: Path) -> SavedModel:
    """Read the SavedModel."""
    import tensorflow as tf

    try:
        native = tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise SourceError(f"the SavedModel cannot be read: {error}") from error
    return SavedModel(native, artifact.signature)
