"""Operators of PyTorch that torchax 0.0.13 lacks, or takes constant sizes for only, as functions of JAX arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def lowerings() -> dict[Any, Callable[..., Any]]:
    """Operator → a function with the operator's own arguments, tensors being JAX arrays. They come before torchax's."""
    import torch

    aten = torch.ops.aten
    return {
        aten.arange.default: lambda end, **options: _arange(0, end, 1, **options),
        aten.arange.start: lambda start, end, **options: _arange(start, end, 1, **options),
        aten.arange.start_step: _arange,
        **dict.fromkeys(
            (
                aten._assert_async.default,
                aten._assert_async.msg,
                aten._assert_scalar.default,
                aten._assert_tensor_metadata.default,
                aten.sym_constrain_range.default,
                aten.sym_constrain_range_for_size.default,
            ),
            _nothing,
        ),
        aten._embedding_bag_forward_only.default: _embedding_bag,
        aten._embedding_bag.default: _embedding_bag,
        aten.topk.default: _topk,
        aten.lstm.input: _lstm,
        aten.gru.input: _gru,
    }


def _arange(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, **_: Any) -> Any:
    """`torch.arange` up to a dynamic dimension, as position embeddings have it; torchax takes constants only."""
    import jax.numpy as jnp

    bounds = (start, end, step)
    dtype = jnp.dtype(str(dtype).removeprefix("torch.")) if dtype is not None else None
    if all(isinstance(bound, int | float) for bound in bounds):
        default = jnp.int64 if all(isinstance(bound, int) for bound in bounds) else jnp.float32
        return jnp.arange(*bounds, dtype=dtype or default)
    count = (end - start + step - 1) // step
    return (jnp.arange(count) * step + start).astype(dtype or jnp.int64)


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Any, Any]:
    """`torch.topk` by sorting: JAX's own top_k is an operation that TensorFlow 2.21 cannot read.

    NaN counts as the largest, as in PyTorch; of equal values the first comes first.
    """
    import jax
    import jax.numpy as jnp

    index = jax.lax.broadcasted_iota(jnp.int64, x.shape, dim % x.ndim)
    operands = [jnp.flip(part, dim) if largest else part for part in (x, index)]
    parts = jax.lax.sort(operands, dimension=dim % x.ndim, num_keys=1, is_stable=True)
    parts = [jnp.flip(part, dim) if largest else part for part in parts]
    values, indices = (jax.lax.slice_in_dim(part, 0, k, axis=dim % x.ndim) for part in parts)
    return values, indices


def _nothing(*_: Any, **__: Any) -> None:
    """Assertions about values: XLA has none, and what they guard (`one_hot`'s ids, say) was legal in training."""


def _embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Any, Any, Any, Any]:
    """`torch.nn.EmbeddingBag`: sum (0), mean (1) or maximum (2) over bags; the bag of nothing is zero."""
    import jax.numpy as jnp

    starts = offsets[:-1] if include_last_offset else offsets
    bag = jnp.cumsum(jnp.zeros(indices.shape, jnp.int64).at[starts].add(1, mode="drop")) - 1
    counted = indices != padding_idx
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    size = jnp.zeros(starts.shape, jnp.int64).at[bag].add(counted)
    shape = (starts.shape[0], weight.shape[1])
    if mode == 2:
        lowest = jnp.full(shape, -jnp.inf, weight.dtype)
        answer = lowest.at[bag].max(jnp.where(counted[:, None], rows, -jnp.inf))
        answer = jnp.where(size[:, None] > 0, answer, 0)
    else:
        answer = jnp.zeros(shape, weight.dtype).at[bag].add(jnp.where(counted[:, None], rows, 0))
        answer = answer / jnp.maximum(size, 1)[:, None].astype(weight.dtype) if mode == 1 else answer
    return answer, bag, size, size


# --- recurrent layers ---------------------------------------------------------------------------------------------


def _lstm(
    inputs: Any,
    state: Sequence[Any],
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, Any, Any]:
    """`torch.nn.LSTM`'s equations, gates in the order i, f, g, o; with `proj_size` where there is a weight for it."""
    import jax
    import jax.numpy as jnp

    hidden, cell = state
    projected = hidden.shape[2] != cell.shape[2]

    def step(weights: dict[str, Any], carry: tuple[Any, Any], gates_in: Any) -> tuple[tuple[Any, Any], Any]:
        h, c = carry
        i, f, g, o = jnp.split(gates_in + h @ weights["hh"].T + weights["b_hh"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        h = h @ weights["hr"].T if projected else h
        return (h, c), h

    outputs, finals = _layers(
        step, inputs, (hidden, cell), params, has_biases, projected, num_layers, bidirectional, batch_first
    )
    return outputs, jnp.stack([h for h, _ in finals]), jnp.stack([c for _, c in finals])


def _gru(
    inputs: Any,
    state: Any,
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, Any]:
    """`torch.nn.GRU`'s equations, gates in the order r, z, n."""
    import jax
    import jax.numpy as jnp

    def step(weights: dict[str, Any], carry: tuple[Any], gates_in: Any) -> tuple[tuple[Any], Any]:
        (h,) = carry
        r_in, z_in, n_in = jnp.split(gates_in, 3, axis=-1)
        r_h, z_h, n_h = jnp.split(h @ weights["hh"].T + weights["b_hh"], 3, axis=-1)
        r, z = jax.nn.sigmoid(r_in + r_h), jax.nn.sigmoid(z_in + z_h)
        n = jnp.tanh(n_in + r * n_h)
        h = (1 - z) * n + z * h
        return (h,), h

    outputs, finals = _layers(step, inputs, (state,), params, has_biases, False, num_layers, bidirectional, batch_first)
    return outputs, jnp.stack([h for (h,) in finals])


def _layers(
    step: Callable[..., Any],
    inputs: Any,
    states: tuple[Any, ...],
    params: Sequence[Any],
    has_biases: bool,
    projected: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, list[tuple[Any, ...]]]:
    """Layers over directions: the outputs of the last, and the final states in PyTorch's order."""
    import jax
    import jax.numpy as jnp

    names = ["ih", "hh", *(["b_ih", "b_hh"] if has_biases else []), *(["hr"] if projected else [])]
    sequence, finals, index = (jnp.swapaxes(inputs, 0, 1) if batch_first else inputs), [], 0
    for _ in range(num_layers):
        directions = []
        for reverse in (False, True)[: 1 + bidirectional]:
            weights = dict(zip(names, params[index * len(names) :], strict=False))
            weights = {"b_ih": jnp.zeros((), inputs.dtype), "b_hh": jnp.zeros((), inputs.dtype)} | weights
            gates_in = sequence @ weights["ih"].T + weights["b_ih"]
            start = tuple(state[index] for state in states)
            final, outputs = jax.lax.scan(lambda c, x, w=weights: step(w, c, x), start, gates_in, reverse=reverse)
            directions.append(outputs)
            finals.append(final)
            index += 1
        sequence = jnp.concatenate(directions, axis=-1)
    return (jnp.swapaxes(sequence, 0, 1) if batch_first else sequence), finals
