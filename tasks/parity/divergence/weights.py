"""The weights of the operators that diverge, against those of the source's modules. Functions of arrays.

A converter may transpose a weight: that is looked through. What becomes of a convolution and the batch normalisation
behind it is in `tasks.parity.divergence.folding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.parity.divergence.quantised import Held

#: Units of rounding, of the file's element type, that a weight may be off by when a converter computes with it.
_ROUNDED = 8
#: Fewer values than this fit anything.
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Altered:
    """A weight of the file that is not the module's: the largest difference, and the module's largest magnitude."""

    weight: str
    module: str
    parameter: str
    difference: float
    scale: float

    @property
    def sentence(self) -> str:
        return (
            f"the file's weight {self.weight} is not the module's {self.parameter}: it differs by up to "
            f"{self.difference:.2g}, where the module's largest is {self.scale:.2g}"
        )


def altered(held: Held, modules: Mapping[str, Mapping[str, NDArray[Any]]]) -> tuple[Altered, ...]:
    """The weights of the file that are no weight of the modules (module → name → weight).

    Each is held against the weights of its shape, as it is or transposed; one that has no such counterpart is passed
    over.
    """
    expected = [
        (module, name, array) for module, weights in modules.items() for name, array in weights.items() if array.size
    ]
    found = []
    for weight, array in held.weights.items():
        if array.size < _FEWEST or array.dtype.kind != "f":
            continue
        nearest = _nearest(array, held.step(weight), expected)
        if nearest is None:
            continue
        module, name, difference, scale = nearest
        if difference > _ROUNDED * float(np.finfo(array.dtype).eps) * scale:
            found.append(Altered(weight, module, name, difference, scale))
    return tuple(found)


def _nearest(
    array: NDArray[Any], step: NDArray[Any], expected: list[tuple[str, str, NDArray[Any]]]
) -> tuple[str, str, float, float] | None:
    found = []
    for module, name, other in expected:
        for version in (other, other.T):
            squeezed = version.reshape(array.shape) if _fits(version.shape, array.shape) else None
            if squeezed is not None:
                far = np.abs(array.astype(np.float64) - squeezed.astype(np.float64))
                difference = float(np.where(far <= step, 0.0, far).max())
                found.append((module, name, difference, float(np.abs(other).max())))
    return min(found, key=lambda item: item[2], default=None)


def _fits(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return [size for size in shape if size != 1] == [size for size in other if size != 1]
