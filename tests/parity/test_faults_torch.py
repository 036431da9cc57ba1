"""Faults that PyTorch exports really have, in torch.export archives: left in training mode, swapped, stale, frozen."""

from __future__ import annotations

from collections.abc import Callable
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
TWO = Signature(
    SIGNATURE.inputs,
    (TensorSpec("left", DType.FLOAT32, ("batch", 3)), TensorSpec("right", DType.FLOAT32, ("batch", 3))),
    SIGNATURE.dynamic,
)


class Net(nn.Module):
    """Normalisation and dropout, which only training mode shows; `order` decides which output comes first."""

    def __init__(self, epsilon: float = 1e-5, order: int = 1, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8, eps=epsilon)
        self.drop, self.last = nn.Dropout(0.1), nn.Linear(8, 3)
        self.order, self.outputs = order, outputs
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x: Any) -> Any:
        y = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return y if self.outputs == 1 else (y, torch.tanh(y))[:: self.order]


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Judgement]:
    def ask(source: nn.Module, export: nn.Module, signature: Signature = SIGNATURE, frozen: bool = False) -> Judgement:
        source.eval().requires_grad_(requires_grad=False)
        export.requires_grad_(requires_grad=False)
        dims = None if frozen else ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.export.export(export, (torch.zeros(5, 4),), dynamic_shapes=dims)
        torch.export.save(program, tmp_path / "model.pt2")
        evaluation = {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}
        model = TorchModel(source, source, signature)
        return confronted(
            model, "torch-state-dict", signature, evaluation, "torch", tmp_path / "model.pt2", tmp_path / "work"
        )

    return ask


def test_the_same_module_in_eval_mode_passes(asked: Callable[..., Judgement]) -> None:
    found = asked(Net(), Net().eval())
    assert codes(found) == []
    assert found.references[0].noise["y"].twin


def test_active_dropout(asked: Callable[..., Judgement]) -> None:
    export = Net().eval()
    export.drop.train()
    assert codes(asked(Net(), export)) == ["PARITY_NOT_DETERMINISTIC"]


def test_batch_normalisation_in_training_mode(asked: Callable[..., Judgement]) -> None:
    export = Net().eval()
    export.norm.train()
    export.norm.momentum = 0.0
    assert set(codes(asked(Net(), export))) & {"PARITY_BATCH_DEPENDENT", "PARITY_BATCH_FROZEN", "PARITY_RUNTIME_ERROR"}


def test_another_epsilon(asked: Callable[..., Judgement]) -> None:
    assert codes(asked(Net(), Net(epsilon=1e-3).eval())) == ["PARITY_TENSOR_DIFFERS"]


def test_stale_weights(asked: Callable[..., Judgement]) -> None:
    export = Net().eval()
    with torch.no_grad():
        export.last.weight[1, 3] *= 1.0001
    assert codes(asked(Net(), export)) == ["PARITY_TENSOR_DIFFERS"]


def test_swapped_outputs_of_a_format_without_names(asked: Callable[..., Judgement]) -> None:
    found = asked(Net(outputs=2), Net(outputs=2, order=-1).eval(), TWO)
    assert codes(found) == ["PARITY_OUTPUT_SWAPPED"]


def test_an_output_too_many(asked: Callable[..., Judgement]) -> None:
    found = asked(Net(), Net(outputs=2).eval())
    assert codes(found)[0] == "PARITY_OUTPUT_EXTRA"


def test_a_batch_dimension_frozen_at_the_traced_size(asked: Callable[..., Judgement]) -> None:
    found = asked(Net(), Net().eval(), frozen=True)
    assert set(codes(found)) <= {"PARITY_BATCH_FROZEN", "PARITY_RUNTIME_ERROR"}
    assert codes(found)


def test_a_source_in_training_mode_is_named_as_the_source(tmp_path: Path) -> None:
    source = Net().eval()
    program = torch.export.export(
        source, (torch.zeros(5, 4),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    source.drop.train()
    found = confronted(
        TorchModel(source, source, SIGNATURE),
        "torch-state-dict",
        SIGNATURE,
        {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)},
        "torch",
        tmp_path / "model.pt2",
        tmp_path / "work",
    )
    assert codes(found) == ["PARITY_SOURCE_NOT_DETERMINISTIC"]
