"""Sizes for the named dimensions, and inputs of those sizes: what models are traced and tried with.

Export does not look at the evaluation data, so these inputs only have to be legal: numbers around zero for floats,
zeros and ones for integers (legal ids for any embedding), empty strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving.contract import DimRange, DType, Signature, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEED = 7


def tracing_sizes(signature: Signature) -> dict[str, int]:
    """A size for each named dimension that gives nothing away by accident.

    At least 2 where the range allows, because torch.export specialises 0 and 1; different from each other and from
    every fixed size, so that a tracer cannot take one dimension for another.
    """
    taken = {size for tensor in (*signature.inputs, *signature.outputs) for size in tensor.shape}
    sizes: dict[str, int] = {}
    for name, span in signature.dynamic.items():
        low = min(max(span.min, 2), span.max)
        candidates = range(max(low, 3), min(span.max, low + 64) + 1)
        sizes[name] = next((size for size in candidates if size not in taken), low)
        taken.add(sizes[name])
    return sizes


def other_size(span: DimRange, traced: int) -> int:
    """Another size of the range, small; the smallest unless that was traced."""
    return span.min if span.min != traced else span.min + 1


def sample_inputs(signature: Signature, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Inputs of these sizes by name, the same every time."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    return {tensor.name: _sample(tensor, shape_of(tensor, sizes), random) for tensor in signature.inputs}


def shape_of(tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The tensor's shape with its named dimensions filled in."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)


def _sample(tensor: TensorSpec, shape: tuple[int, ...], random: Any) -> NDArray[Any]:
    import numpy as np

    if tensor.dtype is DType.STRING:
        return np.full(shape, "", dtype=object)
    values: NDArray[Any] = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2
    if tensor.dtype.is_float:
        values = random.standard_normal(shape)
    values = values.astype(tensor.dtype.numpy)
    return values if tensor.range is None else np.clip(values, *tensor.range)
