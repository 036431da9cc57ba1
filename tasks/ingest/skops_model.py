"""scikit-learn estimators in skops files (`skops.io.dump(model, "model.skops")`).

Which answer an output is follows from its declared dtype and shape:

    classifier   integer or string  [batch]             predict: the label
                 floating point     [batch, n_classes]  predict_proba
    others       floating point     [batch] or [batch, n]   predict (regressors), transform (transformers)

One input of two dimensions is the feature matrix. Several inputs, each [batch] or [batch, 1], are the columns of a
data frame, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature, TensorSpec
from tasks.contracts import Artifact
from tasks.errors import SourceError, UnsafeSource
from tasks.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class SklearnModel:
    """An estimator, asked through the method that each declared output stands for."""

    native: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        features = self._features(inputs)
        return {tensor.name: self._answer(tensor, features) for tensor in self.signature.outputs}

    def _features(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        tensors = self.signature.inputs
        names = getattr(self.native, "feature_names_in_", None)
        if len(tensors) == 1 and len(tensors[0].shape) == 2:
            matrix = inputs[tensors[0].name]
            if names is None:
                return matrix
            import pandas as pd

            return pd.DataFrame(matrix, columns=list(names))
        import pandas as pd

        return pd.DataFrame({tensor.name: inputs[tensor.name].reshape(-1) for tensor in tensors})

    def _answer(self, tensor: TensorSpec, features: Any) -> NDArray[Any]:
        method = answering_method(self.native, tensor)
        answer = np.asarray(getattr(self.native, method)(features))
        if answer.ndim == 1 and len(tensor.shape) == 2 and tensor.shape[1] == 1:
            return answer.reshape(-1, 1)
        return answer


def answering_method(estimator: Any, tensor: TensorSpec) -> str:
    """Which of the estimator's methods gives this output.

    Raises:
        SourceError: the estimator has none that could.
    """
    from sklearn.base import is_classifier

    if is_classifier(estimator):
        method = "predict_proba" if tensor.dtype.is_float else "predict"
    else:
        method = "predict" if hasattr(estimator, "predict") else "transform"
    if not hasattr(estimator, method):
        raise SourceError(
            f"output {tensor.name!r}: {type(estimator).__name__} has no {method}, which this output stands for"
        )
    return method


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse files that name types outside scikit-learn, NumPy and SciPy."""
    import skops.io

    try:
        unknown = skops.io.get_untrusted_types(file=path)
    except (BadZipFile, KeyError, ValueError, OSError) as error:
        raise SourceError(f"{path.name} cannot be read as a skops file: {error}") from error
    if unknown:
        raise UnsafeSource(f"{path.name} holds types that could run code when opened: {', '.join(unknown)}")


def load(path: Path, artifact: Artifact, work: Path) -> SklearnModel:
    """Read the estimator; skops refuses types that it does not trust."""
    import skops.io

    return SklearnModel(skops.io.load(path, trusted=[]), artifact.signature)
