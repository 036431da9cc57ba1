"""The rows of the evaluation data that a format is calibrated on.

In: the raw columns, the preprocessing of a model. Out: model inputs, in batches that the signature allows:
the same rows every time, spread evenly over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving.contract import Signature

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.preprocess import Preprocessing
    from tasks.export.conversion import Rows

#: The range of n rows leaves out a new row's value once in n/2 (exchangeable draws: it is the new least or greatest
#: with probability 2/(n+1)), so twice as many rows gain little where these are already beyond one in a hundred.
MOST_ROWS = 256
#: Rows asked for at once: keeps the memory of a calibration run near that of serving.
_AT_ONCE = 32


def calibration_rows(evaluation: Mapping[str, NDArray[Any]], preprocessing: Preprocessing) -> Rows:
    """Batches of at most `MOST_ROWS` rows in all; a last batch that is too small is filled up from the first rows."""
    raw = {tensor.name: _as_sent(evaluation[tensor.name]) for tensor in preprocessing.raw.inputs}
    chosen = spread(len(next(iter(raw.values()))), MOST_ROWS)
    inputs = preprocessing({name: column[chosen] for name, column in raw.items()})
    return batches(inputs, preprocessing.signature)


def spread(rows: int, most: int) -> NDArray[Any]:
    """At most `most` of `rows` row numbers, ascending, evenly spread from the first to the last."""
    import numpy as np

    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))


def batches(inputs: Mapping[str, NDArray[Any]], signature: Signature) -> Rows:
    """The rows in batches of a size that the signature allows."""
    import numpy as np

    rows, leading = len(next(iter(inputs.values()))), signature.inputs[0].shape[0]
    least, most = leading, leading
    if isinstance(leading, str):
        least, most = signature.dynamic[leading].min, signature.dynamic[leading].max
    size = max(int(least), min(int(most), _AT_ONCE))
    taken = [
        np.arange(start, max(min(start + size, rows), start + int(least))) % rows for start in range(0, rows, size)
    ]
    return tuple({name: column[here] for name, column in inputs.items()} for here in taken)


def _as_sent(column: NDArray[Any]) -> NDArray[Any]:
    """Texts as object arrays, as every runtime takes them."""
    return column.astype(object) if column.dtype.kind == "U" else column
