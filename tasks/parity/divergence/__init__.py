"""Where an export leaves its source: the first operator of an ONNX file that computes something else, and its module.

    from tasks.parity.divergence import locate

    onnx_graph      the file's operators, their names and where they came from            pure
    source_values   the source's inner values, with their own noise: PyTorch, Keras, ONNX
    onnx_values     the file's inner values, asked for in a process of their own
    pairing         which value of the file is which value of the source                  pure
    places          both values of a pair, held against each other
    layout          which operator moved the axes of a value that is right but for them   pure
    quantised       the weights that a file in reduced precision computes with           pure
    judge           which operator is the first, which are the worst                      pure
    explain         the kinds of layers that are known to drift, in one sentence

Nothing in here decides a verdict: the gate has found that the answers differ before it asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from serving.contract import Signature
    from tasks.contracts import Divergence
    from tasks.ingest.sources import SourceModel


def locate(
    source: SourceModel,
    loader: str,
    signature: Signature,
    path: Path,
    inputs: Mapping[str, NDArray[Any]],
    work: Path,
    precision: str = "full",
) -> Divergence | None:
    """Find the first operator of the ONNX file at `path` that differs from the source model, and rank the worst.

    Args:
        source: the trained model, loaded by `loader` (an entry of `tasks.ingest.SOURCES`).
        signature: the artifact's; the file has its inputs and outputs.
        inputs: model inputs (after preprocessing) by name: a few rows on which the answers differ.
        work: a folder for what is exchanged between processes; `work / "divergence"` must not exist.
        precision: of the file's arithmetic (`Export.precision`). In reduced precision every layer differs from the
            start; then `worst` says which add most, and `first` is a layer only where one stands out.

    Returns:
        None where the source has no inner values to compare with (scikit-learn, SavedModel). Otherwise a divergence
        whose `first` may be None: nothing differs beyond rounding, or, as `note` says, too little could be compared.

    Never raises for what the models do: a failure becomes the note.
    """
    from tasks.parity.divergence.location import locate as found

    return found(source, loader, signature, path, inputs, work, precision)
