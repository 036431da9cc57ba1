"""LSTM and GRU layers kept whole while a PyTorch model is captured and lowered.

PyTorch's tracer unrolls `aten::lstm.input` and `aten::gru.input` step by step, which freezes the length of the
sequence at the length it was traced with. Each is one operator in every runtime that Slipway exports to (ONNX's LSTM
and GRU, PyTorch's own kernels) and one scan in XLA, so only its output shapes are needed here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def recurrent_layers_whole() -> Iterator[None]:
    """While open, tracing takes LSTM and GRU layers as single operators; not for many threads at once."""
    import torch

    key, table = torch._C.DispatchKey, torch._decomp.decomposition_table
    shapes: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.lstm.input: _lstm_shapes,
        torch.ops.aten.gru.input: _gru_shapes,
    }
    before = {op: (dict(op.py_kernels), table.get(op)) for op in shapes}
    for op, function in shapes.items():
        # The tracer asks in three places: before and after autograd, and for the shapes of a graph it traces again.
        op.py_kernels[key.CompositeImplicitAutograd] = function
        op.py_kernels[key.Autograd] = function
        op._dispatch_cache.clear()
        table[op] = function
    try:
        yield
    finally:
        for op, (kernels, decomposition) in before.items():
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()
            table.pop(op, None)
            if decomposition is not None:
                table[op] = decomposition


def recurrent_operators() -> tuple[Any, ...]:
    """The operators that are kept whole, to be left out of decomposition tables."""
    import torch

    return (torch.ops.aten.lstm.input, torch.ops.aten.gru.input)


def _lstm_shapes(
    inputs: torch.Tensor, state: Sequence[torch.Tensor], *arguments: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Schema: input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first."""
    import torch

    hidden, cell = state
    return _outputs(inputs, hidden, bidirectional=arguments[5]), torch.empty_like(hidden), torch.empty_like(cell)


def _gru_shapes(inputs: torch.Tensor, state: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return _outputs(inputs, state, bidirectional=arguments[5]), torch.empty_like(state)


def _outputs(inputs: torch.Tensor, hidden: torch.Tensor, *, bidirectional: bool) -> torch.Tensor:
    return inputs.new_empty((*inputs.shape[:2], hidden.shape[-1] * (2 if bidirectional else 1)))
