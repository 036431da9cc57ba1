"""Every fault of the corpus, by format."""

from __future__ import annotations

from tests.parity.corpus import onnx_structure, onnx_values, savedmodel_faults, torch_faults
from tests.parity.corpus.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *onnx_structure.FAULTS,
    *onnx_values.FAULTS,
    *savedmodel_faults.FAULTS,
    *torch_faults.FAULTS,
)
