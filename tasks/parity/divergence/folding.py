"""A convolution into which the batch normalisation behind it was folded: which of the two is not the source's. Pure.

Folded weights are `W·f` and `β + (b - μ)·f` with `f = γ/√(σ² + ε)` for each output channel (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR, section 3.2).
Where the file's weights are the convolution's but for a factor for each channel, the convolution is right and the
normalisation is not; the factors then say which epsilon was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]

#: Folding rounds a few times more, and the exporter does it in float32.
_ROUNDED = 64 * float(np.finfo(np.float32).eps)
#: An epsilon that is read off the factors of several channels is one when they agree this far: the variance, which is
#: subtracted, takes most of the digits.
_AGREE = 0.05
#: The step of weights that are not rounded.
_NONE = np.zeros(())


@dataclass(frozen=True, slots=True)
class Blamed:
    """Whose weights are not the source's: the convolution's or, where it is False, the normalisation's."""

    convolution: bool
    sentence: str


def blame(
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    conv: Weights,
    norm: Weights,
    epsilon: float,
    step: NDArray[Any] = _NONE,
    bias_step: NDArray[Any] = _NONE,
) -> Blamed | None:
    """Which of the two modules the file's folded `weight` and `bias` differ from, by more than their steps.

    None where both are as they should be, or where they are not weights of these modules at all.
    """
    kernel = _first(conv, "weight", "kernel")
    mean, variance = _first(norm, "running_mean", "moving_mean"), _first(norm, "running_var", "moving_variance")
    if kernel is None or mean is None or variance is None:
        return None
    if "kernel" in {name.rpartition("/")[2] for name in conv}:  # Keras has its channels last
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
    if kernel.shape != weight.shape:
        return None
    gamma, beta = _first(norm, "weight", "gamma"), _first(norm, "bias", "beta")
    scale = np.ones_like(variance) if gamma is None else gamma
    factor = scale / np.sqrt(variance + epsilon)
    channel = (-1, *(1 for _ in kernel.shape[1:]))
    if not _near(weight, kernel * factor.reshape(channel), step):
        return _weight(weight, kernel, scale, variance, epsilon, np.broadcast_to(step, weight.shape))
    offset = _first(conv, "bias")
    expected = (0.0 if beta is None else beta) + ((0.0 if offset is None else offset) - mean) * factor
    if bias is not None and bias.shape == expected.shape and not _near(bias, expected, bias_step):
        worst = float(np.abs(bias - expected).max())
        return Blamed(
            False,
            f"the file's offset behind the convolution differs by up to {worst:.2g} from the one that the "
            "normalisation's mean and offset give",
        )
    return None


def _weight(
    weight: NDArray[Any],
    kernel: NDArray[Any],
    scale: NDArray[Any],
    variance: NDArray[Any],
    epsilon: float,
    step: NDArray[Any],
) -> Blamed:
    rows, own = weight.reshape(len(weight), -1).astype(np.float64), kernel.reshape(len(kernel), -1).astype(np.float64)
    ratio = (rows * own).sum(axis=1) / np.maximum((own * own).sum(axis=1), np.finfo(np.float64).tiny)
    if not _near(rows, own * ratio[:, None], step.reshape(rows.shape)):
        return Blamed(
            True,
            "the file's weights are not the convolution's, also when the batch normalisation behind it is folded in",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        times = ratio / (scale / np.sqrt(variance + epsilon))
    often = float(np.median(times[np.isfinite(times)])) if np.isfinite(times).any() else 0.0
    if step.any() and often and bool((np.abs(times - often) <= _AGREE * abs(often)).all()):
        return Blamed(
            True,
            f"the file's weights are {often:.3g} times the convolution's in every channel, with the batch "
            "normalisation folded in",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        there = np.square(scale / ratio) - variance
    there = there[np.isfinite(there)]
    if there.size and (used := float(np.median(there))) > 0 and bool((np.abs(there - used) <= _AGREE * used).all()):
        return Blamed(False, f"the file's epsilon is {used:.2g}, the module's {epsilon:.3g}")
    return Blamed(False, "the file was made with another mean, variance or scale of the normalisation")


def _near(value: NDArray[Any], expected: NDArray[Any], step: NDArray[Any]) -> bool:
    folded = _ROUNDED * np.abs(expected).max(initial=0.0)
    return bool((np.abs(value - expected) <= np.maximum(step, folded)).all())


def _first(weights: Weights, *names: str) -> NDArray[Any] | None:
    return next((array for key, array in weights.items() if key.rpartition("/")[2] in names), None)
