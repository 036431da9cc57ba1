"""What can be seen of the cause at the first place: a setting, a weight, or what its kind of layer is known for.

In: the pair of values, the source's modules on the way to it, and the file's weights there. Out: a `Cause`. Where two
modules became one operator (a convolution and its normalisation), the weights tell which of them it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tasks.parity.divergence import onnx_graph
from tasks.parity.divergence.explain import difference, known
from tasks.parity.divergence.folding import blame
from tasks.parity.divergence.onnx_graph import Graph, Operator
from tasks.parity.divergence.pairing import Pair
from tasks.parity.divergence.quantised import Held, as_computed, mismatch
from tasks.parity.divergence.source_values import InnerValues, SourceValue
from tasks.parity.divergence.weights import altered

#: Operators whose weights hold several gates, in another order than the source's.
_REORDERED = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True, slots=True)
class Cause:
    """The module that it is, its class, and one sentence on what differs there."""

    module: str
    kind: str
    sentence: str


def cause(pair: Pair, pairs: Sequence[Pair], graph: Graph, path: Path, inner: InnerValues, rank: int) -> Cause:
    """Look at the settings first, then at the weights."""
    whose = {value.module: value for value in (*pair.stretch, pair.source)}
    layer = [operator for other in pairs if _same_layer(other, pair) for operator in other.operators]
    own = Cause(pair.source.module, pair.source.kind, "")
    for value in (pair.source, *pair.stretch):
        said = difference(value, layer if value.module == pair.source.module else pair.operators, graph.constants, rank)
        if said:
            return Cause(value.module, value.kind, said)
    if quantised := mismatch(pair.operators, graph.constants):
        return Cause(own.module, own.kind, quantised)
    looked_at = [operator for operator in pair.operators if operator.kind not in _REORDERED]
    names = {name for operator in looked_at for name in operator.inputs} & graph.weights
    held = as_computed(looked_at, onnx_graph.weights(path, names))
    parameters = {module: inner.parameters(module) for module in whose}
    folded = _folded(pair.operators, held, whose, parameters)
    if folded is not None:
        return folded
    found = altered(held, parameters)
    if found:
        worst = max(found, key=lambda item: item.difference / item.scale if item.scale else item.difference)
        return Cause(worst.module, whose[worst.module].kind, worst.sentence)
    between = [module for module in whose if module != pair.source.module and module]
    if between:
        joined = f"{', '.join(between)} became one operator with it in the file and may be meant as well"
        return Cause(own.module, own.kind, "; ".join(filter(None, [known(pair.source, pair.operators), joined])))
    return Cause(own.module, own.kind, known(pair.source, pair.operators))


def _same_layer(other: Pair, pair: Pair) -> bool:
    if other.source.module != pair.source.module:
        return False
    return other is pair or (bool(pair.source.module) and other.source.operator != pair.source.operator)


def _folded(
    operators: Sequence[Operator],
    held: Held,
    whose: Mapping[str, SourceValue],
    parameters: Mapping[str, Mapping[str, NDArray[Any]]],
) -> Cause | None:
    conv = next((value for value in whose.values() if "conv" in value.kind.lower()), None)
    norm = next((value for value in whose.values() if "batchnorm" in value.kind.lower()), None)
    operator = next((operator for operator in operators if operator.kind == "Conv"), None)
    if conv is None or norm is None or operator is None or operator.inputs[1] not in held.weights:
        return None
    epsilon = next((norm.settings[name] for name in ("eps", "epsilon") if name in norm.settings), None)
    if not isinstance(epsilon, float):
        return None
    weight, offset = operator.inputs[1], operator.inputs[2] if len(operator.inputs) > 2 else ""
    found = blame(
        held.weights[weight],
        held.weights.get(offset),
        parameters[conv.module],
        parameters[norm.module],
        epsilon,
        held.step(weight),
        held.step(offset),
    )
    if found is None:
        return None
    module = conv if found.convolution else norm
    return Cause(module.module, module.kind, found.sentence)
