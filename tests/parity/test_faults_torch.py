"""A PyTorch source against its own export. The faults that such exports have are in the corpus (`test_corpus.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.ingest.torch_predict import TorchModel
from tasks.parity.confrontation import Judgement
from tests.parity.conftest import codes, confronted

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", 4)),),
    (TensorSpec("y", DType.FLOAT32, ("batch", 3)),),
    {"batch": DimRange(1, 16)},
)


class Net(nn.Module):
    """Normalisation and dropout, which only training mode shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.drop, self.last = nn.Dropout(0.1), nn.Linear(8, 3)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Any) -> Any:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


def judged(source: nn.Module, folder: Path) -> Judgement:
    """What the gate says of a faithful export of `Net`, where `source` is what it is held against."""
    export = Net().eval().requires_grad_(requires_grad=False)
    dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(torch.export.export(export, (torch.zeros(5, 4),), dynamic_shapes=dims), folder / "model.pt2")
    return confronted(
        TorchModel(source, source, SIGNATURE),
        "torch-state-dict",
        SIGNATURE,
        {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)},
        "torch",
        folder / "model.pt2",
        folder / "work",
    )


def test_the_same_module_in_eval_mode_passes_against_its_float64_twin(tmp_path: Path) -> None:
    found = judged(Net().eval(), tmp_path)
    assert codes(found) == []
    assert found.references[0].noise["y"].twin


def test_a_source_in_training_mode_is_named_as_the_source(tmp_path: Path) -> None:
    source = Net().eval()
    source.drop.train()
    assert codes(judged(source, tmp_path)) == ["PARITY_SOURCE_NOT_DETERMINISTIC"]
