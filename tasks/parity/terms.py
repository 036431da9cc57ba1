"""How many additions stand between a source's input and its output, as far as its weights tell.

In: a loaded source. Out: n for the probabilistic rounding bound of `tasks.parity.tolerance`, which is used where no
float64 twin can be had. Each weight contributes its fan-in, as if all of them stood one after the other; a model that
tells nothing counts the values of its longest input row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from serving.contract import Signature


def longest_sum(native: Any, loader: str, signature: Signature) -> int:
    """The number of terms that are added from input to output; at least one row's values."""
    row = max(
        int(np.prod([size if isinstance(size, int) else signature.dynamic[size].max for size in tensor.shape[1:]]))
        for tensor in signature.inputs
    )
    if loader == "skops":
        return row + sum(_ensemble_sizes(native))
    shapes = {"onnx": _onnx_weights, "savedmodel": _saved_weights}.get(loader)
    return max(row, sum(_fan_in(shape) for shape in shapes(native))) if shapes else row


def _fan_in(shape: tuple[int, ...]) -> int:
    """Matrices may be stored either way round; convolutions have their output channels first or last."""
    if len(shape) < 2:
        return 0
    return max(shape) if len(shape) == 2 else int(np.prod(shape)) // max(min(shape[0], shape[-1]), 1)


def _onnx_weights(path: Any) -> Iterator[tuple[int, ...]]:
    import onnx

    for weight in onnx.load(path, load_external_data=False).graph.initializer:
        yield tuple(weight.dims)


def _saved_weights(native: Any) -> Iterator[tuple[int, ...]]:
    for variable in native.signatures["serving_default"].variables:
        yield tuple(variable.shape)


def _ensemble_sizes(estimator: Any) -> Iterator[int]:
    """Trees and other members whose answers are added up, in the estimator and in a pipeline's steps."""
    for step in [estimator, *(step for _, step in getattr(estimator, "steps", ()))]:
        members = getattr(step, "estimators_", None)
        if members is not None:
            yield int(np.size(np.asarray(members, dtype=object)))
        elif hasattr(step, "n_iter_") and hasattr(step, "_predictors"):  # histogram gradient boosting
            yield int(np.max(step.n_iter_))
