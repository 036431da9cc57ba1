"""What both models are asked: pools of rows, and the batches in which the export is asked for them.

In: the signature and the evaluation data's raw columns. Out: `Pool`s of raw inputs and a plan of `Batch`es. Functions
of values: nothing is run here.

Pools: the evaluation rows themselves; random rows within the range that the evaluation data shows, headed by rows at
its ends; and such random rows at the least and the greatest size of every other dynamic dimension. Where the spec
declares a range of values, whole numbers are drawn from all of it, and floats are not drawn outside it.

Batches of each pool: all its rows in batches as they will be served; single rows; sizes 1, 2, 3, 7, the largest that
serving batches to, and both ends of the declared range; and one batch twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, Signature, TensorSpec
from tasks.errors import BadInput

#: Sizes that tell a frozen dimension from a free one: one, even, odd, and one that divides nothing.
_SIZES = (1, 2, 3, 7)
#: Random rows in a pool: enough to see every one of a few dozen features away from its middle, few enough to be cheap.
_RANDOM_ROWS = 64
#: Values that one input of a random pool may hold; longer rows get fewer of them (256 MiB of float32).
_POOL_VALUES = 1 << 26
_SINGLES = 8


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that both models are asked about. `lengths` are the sizes of the dynamic dimensions other than the batch.

    `raw` are rows as clients send them; where `is_prepared`, rows as the model takes them, which no request gives.
    """

    name: str
    lengths: Mapping[str, int]
    raw: Mapping[str, NDArray[Any]]
    rows: int
    is_prepared: bool = False

    def only(self, rows: NDArray[np.int64]) -> Pool:
        """The pool with these rows alone."""
        if len(rows) == self.rows:
            return self
        return replace(self, raw={name: array[rows] for name, array in self.raw.items()}, rows=len(rows))


class Part(StrEnum):
    """What a batch is asked for."""

    WHOLE = "the pool's rows in batches as served"
    SIZE = "another batch size"
    AGAIN = "the first batch again"


@dataclass(frozen=True, slots=True)
class Batch:
    """`size` rows of a pool from `start` on, beginning again at its first row where it ends.

    `kept` is how many of them count, where the last batch of a pool was filled up to the least size that is allowed.
    """

    pool: int
    start: int
    size: int
    kept: int
    part: Part

    def rows(self, pool_rows: int) -> NDArray[np.int64]:
        """Which rows of the pool they are."""
        return np.arange(self.start, self.start + self.size, dtype=np.int64) % pool_rows


@dataclass(frozen=True, slots=True)
class Batching:
    """The batch sizes to try, ascending, and the size in which all rows are asked for."""

    sizes: tuple[int, ...]
    chunk: int


def batching(signature: Signature, max_batch: int) -> Batching:
    """Which batch sizes the signature promises, and which of them serving will use.

    Raises:
        BadInput: inputs and outputs do not share their leading dimension, so rows cannot be told apart.
    """
    if (name := signature.batch) is not None:
        span = signature.dynamic[name]
        served = min(max(max_batch, span.min), span.max)
        sizes = {*_SIZES, served, span.min, span.max}
        return Batching(tuple(sorted(size for size in sizes if span.min <= size <= span.max)), served)
    leading = {tensor.shape[0] if tensor.shape else None for tensor in (*signature.inputs, *signature.outputs)}
    fixed = leading.pop() if len(leading) == 1 else None
    if not isinstance(fixed, int):
        raise BadInput(
            "parity compares row by row, and these inputs and outputs do not share their first dimension: "
            "give all of them the batch dimension first"
        )
    return Batching((fixed,), fixed)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What random rows are drawn for, and the columns within whose range they are.

    Rows as clients send them; where `is_prepared`, rows as the model takes them.
    """

    signature: Signature
    columns: Mapping[str, NDArray[Any]]
    is_prepared: bool


def drawing(
    raw: Signature, columns: Mapping[str, NDArray[Any]], model: Signature, prepared: Mapping[str, NDArray[Any]]
) -> Drawing:
    """As clients send them, save where these are images or texts: random ones say nothing, and their lengths are not
    the model's. There the model itself is asked, within what it takes for the evaluation rows (`prepared`).
    """
    shapes = {tensor.name: tensor.shape for tensor in model.inputs}
    if all(shapes.get(tensor.name) == tensor.shape for tensor in raw.inputs):
        return Drawing(raw, columns, is_prepared=False)
    return Drawing(model, prepared, is_prepared=True)


def pools(
    raw: Signature, evaluation: Mapping[str, NDArray[Any]], seed: str, drawn: Drawing | None = None
) -> tuple[Pool, ...]:
    """The evaluation rows first, then random rows; the same for the same `seed` and data."""
    columns = {tensor.name: evaluation[tensor.name] for tensor in raw.inputs}
    drawn = drawn or Drawing(raw, columns, is_prepared=False)
    observed = _lengths(drawn.signature, drawn.columns)
    found = [Pool("evaluation", observed, columns, len(next(iter(columns.values()))))]
    generator = np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))
    for lengths in _length_cases(drawn.signature, observed):
        rows = _affordable_rows(drawn.signature, lengths)
        arrays = {
            tensor.name: _random(tensor, drawn.columns[tensor.name], lengths, rows, generator)
            for tensor in drawn.signature.inputs
        }
        said = " ".join(f"{name}={size}" for name, size in lengths.items())
        found.append(Pool(f"random {said}".strip(), lengths, arrays, rows, drawn.is_prepared))
    return tuple(found)


def plan(sizes: Batching, rows: tuple[int, ...]) -> tuple[Batch, ...]:
    """Every batch that the export is asked for, where pool `i` has `rows[i]` rows; whole pools come first."""
    return tuple(batch for pool, count in enumerate(rows) for batch in _plan_pool(pool, count, sizes))


def _plan_pool(pool: int, rows: int, sizes: Batching) -> list[Batch]:
    smallest = sizes.sizes[0]
    whole = []
    for start in range(0, rows, sizes.chunk):
        kept = min(sizes.chunk, rows - start)
        whole.append(Batch(pool, start, max(kept, smallest), kept, Part.WHOLE))
    singles = [Batch(pool, start, smallest, smallest, Part.SIZE) for start in range(min(_SINGLES, rows))]
    # Each size starts at another row, so that no row always stands at the same place of its batch.
    others = [Batch(pool, offset + 1, size, size, Part.SIZE) for offset, size in enumerate(sizes.sizes[1:])]
    return [*whole, *singles, *others, Batch(pool, 0, whole[0].size, whole[0].kept, Part.AGAIN)]


def _makes_numbers(raw: Signature, model: Signature) -> bool:
    """Whether preprocessing makes tensors of another shape: of images, and of texts."""
    shapes = {tensor.name: tensor.shape for tensor in model.inputs}
    return any(shapes.get(tensor.name) != tensor.shape for tensor in raw.inputs)


def _lengths(raw: Signature, columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """The sizes that the evaluation data has along every named dimension but the batch."""
    return {
        name: columns[tensor.name].shape[axis]
        for tensor in raw.inputs
        for axis, name in enumerate(tensor.shape)
        if isinstance(name, str) and name != raw.batch
    }


def _length_cases(raw: Signature, observed: Mapping[str, int]) -> list[dict[str, int]]:
    """As observed; all at their least; all at their greatest. Without other dynamic dimensions, one empty case."""
    cases = [dict(observed)]
    for end in ("min", "max"):
        case = {name: int(getattr(raw.dynamic[name], end)) for name in observed}
        if case not in cases:
            cases.append(case)
    return cases


def _shape(tensor: TensorSpec, lengths: Mapping[str, int], rows: int) -> tuple[int, ...]:
    return (rows, *(lengths[size] if isinstance(size, str) else size for size in tensor.shape[1:]))


def _affordable_rows(raw: Signature, lengths: Mapping[str, int]) -> int:
    values = max(int(np.prod(_shape(tensor, lengths, 1))) for tensor in raw.inputs)
    return int(np.clip(_POOL_VALUES // max(values, 1), 1, _RANDOM_ROWS))


def _random(
    tensor: TensorSpec, column: NDArray[Any], lengths: Mapping[str, int], rows: int, generator: np.random.Generator
) -> NDArray[Any]:
    """Rows within the range that `column` shows: per position where positions are fixed, over all of them elsewhere.

    The first rows are all at the least, all at the greatest, and all in the middle of their range.
    """
    shape = _shape(tensor, lengths, rows)
    if tensor.dtype is DType.STRING:
        return generator.choice(np.unique(column.astype(np.str_).ravel()), size=shape).astype(object)
    dynamic = (0, *(axis for axis, size in enumerate(tensor.shape) if axis and isinstance(size, str)))
    low, high = _declared(tensor, *_range(column, dynamic))
    at = generator.random(shape)
    at[: min(3, rows)] = np.array([0.0, 1.0, 0.5]).reshape(-1, *[1] * (len(shape) - 1))[: min(3, rows)]
    if tensor.dtype.is_float:
        return np.asarray(low + (high - low) * at, dtype=tensor.dtype.numpy)
    # Whole numbers keep their exact range: float64 would round the ends of int64.
    steps = np.frompyfunc(int, 1, 1)(at * (high - low + 1).astype(np.float64))
    return np.asarray(np.minimum(low + steps, high).astype(tensor.dtype.numpy))


def _declared(tensor: TensorSpec, low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The range with what the spec says: every id that it allows may be asked for, nothing that the server refuses."""
    if tensor.range is None:
        return low, high
    least, greatest = tensor.range
    if not tensor.dtype.is_float:
        return (
            low if least is None else np.full_like(low, least),
            high if greatest is None else np.full_like(high, greatest),
        )
    ends = (-np.inf if least is None else least, np.inf if greatest is None else greatest)
    return np.clip(low, *ends), np.clip(high, *ends)


def _range(column: NDArray[Any], axes: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Least and greatest finite value along `axes`, which are kept with size one; zero where there is none."""
    if column.dtype.kind != "f":
        whole = (column.astype(np.int64) if column.dtype.kind == "b" else column).astype(object)
        return np.min(whole, axis=axes, keepdims=True), np.max(whole, axis=axes, keepdims=True)
    values = column.astype(np.float64)
    finite = np.isfinite(values)
    low = np.min(values, axis=axes, keepdims=True, where=finite, initial=np.inf)
    high = np.max(values, axis=axes, keepdims=True, where=finite, initial=-np.inf)
    empty = low > high
    return np.where(empty, 0.0, low), np.where(empty, 0.0, high)
