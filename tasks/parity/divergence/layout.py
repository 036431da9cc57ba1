"""Where a file moved the axes of a value, when what follows takes them for the source's. Pure.

A converter may keep values in a layout of its own, and then every operator there is given for that layout. A layout is
wrong only where an operator behind it goes by position (a Reshape, a product): it computes something else, and would be
right if it were given the source's axes. That it would is tried (`tasks.parity.divergence.location`); here is found
which operator moved them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.parity.divergence.onnx_graph import Operator
from tasks.parity.divergence.pairing import Pair

#: Operators that compute each value from the ones in its own place, whatever the order of the axes: the element-wise
#: ones of the ONNX operator specifications that sources' activations and residual sums are made of.
_BLIND = frozenset(
    {
        *("Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
        *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Mul", "Neg", "Pow", "Reciprocal"),
        *("Relu", "Round", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh"),
    }
)
#: What brings the source's version of a value into the file's layout; None where no order of the axes does.
Axes = tuple[int, ...] | None


def is_moved(axes: Axes) -> bool:
    """Whether a value has the source's axes in another order."""
    return axes is not None and axes != tuple(range(len(axes)))


def moved_before(start: int, pairs: Sequence[Pair], axes: Sequence[Axes]) -> int | None:
    """The pair, before the one with the number `start`, whose operators moved the axes that it takes.

    `axes` bring the source's version of each pair's value into the file's layout. None where nothing was moved, or
    where a layer (a convolution) computes in the moved layout: then it is the file's own, and `start` should have
    moved it back.
    """
    waiting = [number for number in pairs[start].upstream if is_moved(axes[number])]
    while waiting:
        number = waiting.pop(0)
        earlier = [before for before in pairs[number].upstream if is_moved(axes[before])]
        if not earlier and _moves_last(pairs[number].operators):
            return number
        if all(operator.kind in _BLIND for operator in pairs[number].operators):
            waiting += earlier
    return None


def _moves_last(operators: Sequence[Operator]) -> bool:
    """Whether a Transpose is the last of them that has to do with the order of axes."""
    kinds = [operator.kind for operator in operators if operator.kind not in _BLIND]
    return bool(kinds) and kinds[-1] == "Transpose"


def sentence(axes: Axes, taker: Pair) -> str:
    """What was moved, and what takes it for the source's."""
    order = ", ".join(str(axis) for axis in axes or ())
    where = taker.source.module or taker.value
    return (
        f"the file moves the axes of the right values into the order {order}, and {taker.operator.kind} behind it "
        f"({where}) takes them for the source's"
    )
