"""scikit-learn estimators in skops files (`skops.io.dump(model, "model.skops")`).

Which answer an output is follows from its declared dtype and shape:

    classifiers   integers, booleans or strings, [batch]       predict: the label
                  floating point, [batch, n_classes]           predict_proba
    regressors    floating point, [batch], [batch, 1] or
                  [batch, n_targets]                           predict
    others        clusters: integers, [batch]: predict; features: floating point, [batch, n]: transform

One input of two dimensions is the matrix of features. Several inputs, each [batch] or [batch, 1], are the columns of a
data frame, by name.

skops opens a file by making the types that it names. Only those that skops trusts itself are made, and those of
`skops_types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from tasks.contracts import Artifact
from tasks.errors import SourceError, UnsafeSource
from tasks.ingest.archives import is_zip, opened
from tasks.ingest.pickles import called_by
from tasks.ingest.skops_types import is_trusted, refuse_broken_trees
from tasks.spec import ModelSpec

_HOW = "skops.io.dump(model, 'model.skops')"


@dataclass(frozen=True, slots=True)
class SklearnModel:
    """An estimator, asked through the method that each declared output stands for."""

    native: Any
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        features = self._features(inputs)
        return {tensor.name: self._answer(tensor, features) for tensor in self.signature.outputs}

    def _features(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        import pandas as pd

        if is_matrix(self.signature):
            matrix = inputs[self.signature.inputs[0].name]
            names = getattr(self.native, "feature_names_in_", None)
            return matrix if names is None else pd.DataFrame(matrix, columns=list(names))
        return pd.DataFrame({tensor.name: inputs[tensor.name].reshape(-1) for tensor in self.signature.inputs})

    def _answer(self, tensor: TensorSpec, features: Any) -> NDArray[Any]:
        answer = np.asarray(getattr(self.native, answering_method(self.native, tensor))(features))
        if answer.dtype.kind == "U":
            answer = answer.astype(object)
        if answer.ndim == 1 and len(tensor.shape) == 2 and tensor.shape[1] == 1:
            return answer.reshape(-1, 1)  # scikit-learn flattens a single target
        return answer


def is_matrix(signature: Signature) -> bool:
    """Whether the features come as one matrix; else each input is a column."""
    return len(signature.inputs) == 1 and len(signature.inputs[0].shape) == 2


def answering_method(estimator: Any, tensor: TensorSpec) -> str:
    """Which of the estimator's methods gives this output: predict, predict_proba or transform.

    Raises:
        SourceError: the estimator has none that could.
    """
    from sklearn.base import is_classifier, is_regressor

    labels = not tensor.dtype.is_float
    if is_classifier(estimator):
        method = "predict" if labels else "predict_proba"
    elif is_regressor(estimator) or labels:
        method = "predict"
    else:
        method = "transform" if hasattr(estimator, "transform") else "predict"
    if not hasattr(estimator, method):
        kind = f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]"
        raise SourceError(
            f"output {tensor.name!r} ({kind}) stands for {method}, which {type(estimator).__name__} does not have; "
            "declare an output that it gives, or train one that has it"
        )
    return method


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse files that name types outside scikit-learn, NumPy and SciPy."""
    _trusted_types(path)


def load(path: Path, artifact: Artifact, work: Path) -> SklearnModel:
    """Read the estimator, and compare it with the signature.

    Raises:
        UnsafeSource: the file names types that could run code.
        SourceError: this scikit-learn cannot read it, or it does not fit the signature.
    """
    import skops.io

    trusted = _trusted_types(path)
    try:
        estimator = skops.io.load(path, trusted=list(trusted))
    except Exception as error:  # skops and scikit-learn raise nearly anything for a file that they cannot read
        raise SourceError(f"{path.name} cannot be read ({_first_line(error)}); write it again with {_HOW}") from error
    refuse_broken_trees(estimator)
    _check_signature(estimator, artifact.signature)
    return SklearnModel(estimator, artifact.signature)


def _trusted_types(path: Path) -> tuple[str, ...]:
    """The types in the file that skops does not know and that may be made; raises where there are others."""
    import skops.io

    if not is_zip(path) and (called := called_by(path)):
        raise UnsafeSource(
            f"{path.name} is a pickle that can run code when it is opened, so it is not: expected a skops file, found "
            f"{', '.join(called[:5])}. Where you trust it, open it and {_HOW}"
        )
    with opened(path, "a skops file") as archive:
        if "schema.json" not in archive.namelist():
            raise SourceError(f"{path.name} has no schema.json, so skops did not write it; write it with {_HOW}")
    try:
        unknown = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # as for load
        raise SourceError(f"{path.name} cannot be read ({_first_line(error)}); write it again with {_HOW}") from error
    if refused := [name for name in unknown if not is_trusted(name)]:
        raise UnsafeSource(
            f"{path.name} names types that could run code when it is opened, so it is not: {', '.join(refused)}. "
            f"Build the model from scikit-learn's own parts and write it again with {_HOW}"
        )
    return tuple(unknown)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_signature(estimator: Any, signature: Signature) -> None:
    problems = []
    for tensor in signature.outputs:
        try:
            answering_method(estimator, tensor)
        except SourceError as error:
            problems.append(str(error))
        if tensor.dtype is not DType.STRING and tensor.dtype.is_float and hasattr(estimator, "classes_"):
            classes = len(estimator.classes_)
            if len(tensor.shape) != 2 or tensor.shape[1] not in (classes, *_names(tensor)):
                shape = ", ".join(map(str, tensor.shape))
                problems.append(f"output {tensor.name!r} is declared [{shape}], the model gives [batch, {classes}]")
    problems += _input_problems(estimator, signature)
    if problems:
        raise SourceError("the model does not fit the spec: " + "; ".join(problems))


def _input_problems(estimator: Any, signature: Signature) -> list[str]:
    expected = getattr(estimator, "n_features_in_", None)
    names = list(getattr(estimator, "feature_names_in_", []))
    if is_matrix(signature):
        tensor = signature.inputs[0]
        if expected is not None and tensor.shape[1] != expected:
            shape = ", ".join(map(str, tensor.shape))
            return [f"input {tensor.name!r} is declared [{shape}], the model was trained on {expected} features"]
        return []
    wrong = [tensor.name for tensor in signature.inputs if tensor.shape[1:] not in ((), (1,))]
    problems = [f"input {name!r} must be [batch] or [batch, 1]: several inputs are columns" for name in wrong]
    declared = [tensor.name for tensor in signature.inputs]
    if names and declared != names:
        return [*problems, f"the inputs are {', '.join(declared)}; the model was trained on {', '.join(names)}"]
    if expected is not None and expected != len(declared):
        problems.append(f"there are {len(declared)} inputs, the model was trained on {expected} features")
    return problems


def _names(tensor: TensorSpec) -> list[str]:
    return [size for size in tensor.shape[1:] if isinstance(size, str)]
