"""The same model in float64: the reference against which a source's own rounding error is seen.

In: a loaded source. Out: the same source with every weight widened (exactly) and every operation in float64, or None
where its framework or the model does not allow it. One function per loader, in `_TWINS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tasks.ingest.sources import SourceModel


def float64_twin(model: SourceModel, loader: str) -> SourceModel | None:
    """A twin that takes float64 inputs, or None. Whether its answers are float64 is the caller's question."""
    make = _TWINS.get(loader)
    if make is None:
        return None
    try:
        return make(model)
    except Exception:  # noqa: BLE001 -- custom layers fail in their own ways; then the bound for sources without a twin holds
        return None


def _torch_module(model: Any) -> Any:
    twin = copy.deepcopy(model.native).double().eval()
    return replace(model, native=twin, call=twin)


def _torch_program(model: Any) -> Any:
    return replace(model, call=copy.deepcopy(model.call).double())


def _keras(model: Any) -> Any:
    twin = type(model.native).from_config(_widened(model.native.get_config()))
    twin.set_weights([weight.astype("float64") for weight in model.native.get_weights()])
    for layer in twin._flatten_layers():
        if hasattr(layer, "finalize_state"):  # Normalization and its kin keep what they computed from their weights
            layer.finalize_state()
    return replace(model, native=twin)


def _widened(config: Any) -> Any:
    """A Keras configuration with float64 wherever it says float32: layers, inputs and dtype policies."""
    if isinstance(config, dict):
        return {key: _widened(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_widened(value) for value in config)
    return "float64" if isinstance(config, str) and config == "float32" else config


_TWINS: dict[str, Callable[[Any], SourceModel]] = {
    "torch-state-dict": _torch_module,
    "torch-export": _torch_program,
    "keras": _keras,
}
