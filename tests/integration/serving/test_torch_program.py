"""Exported programs, walked call by call, give bit by bit what `torch.export.load` gives."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from serving.runners.torch_archive import Unsupported
from serving.runners.torch_program import OutOfRange, Program

BATCH = torch.export.Dim("batch", min=1, max=16)
LENGTH = torch.export.Dim("length", min=2, max=32)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
            nn.LayerNorm(10),
            nn.GELU(),
            nn.Softmax(-1),
        )

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> Any:
        y, (h, _) = self.lstm(x)
        return y[:, -1], h


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids: torch.Tensor) -> Any:
        position = torch.arange(ids.shape[1])
        x = self.embedding(ids) + torch.sin(position.float())[None, :, None]
        return {"mean": self.encoder(x).mean(1), "words": (ids != 0).sum(1)}


class Shapes(nn.Module):
    """Sizes that are computed, lists of tensors, sorting, infinities, optional and missing outputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        a, b = x.chunk(2, -1)
        joined = torch.cat([a, y], -1)
        stacked = torch.stack([a, b]).amax(0)
        order = torch.argsort(stacked, dim=-1)
        halves = x.reshape(x.shape[0] * 2, -1).sum(-1).view(x.shape[0], 2)
        values, places = torch.topk(joined, 3)
        zeros = torch.zeros(x.shape[0], 3, dtype=torch.int64)
        masked = joined.masked_fill(joined > 0, float("-inf")).clamp(max=1.5)
        wide = torch.nn.functional.interpolate(x[:, None, None, :], scale_factor=(1, 2))
        indexed = x[:, torch.tensor([2, 0])]
        return joined, stacked.gather(1, order), halves, zeros + places, values, masked, wide, indexed, x.double()


class Constants(nn.Module):
    """Tied weights, buffers that are not saved, constants, and a block without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.tensor(3))
        self.register_buffer("offset", torch.randn(4), persistent=False)
        self.empty = nn.Parameter(torch.zeros(0, 4))

    def forward(self, x: torch.Tensor) -> Any:
        with torch.no_grad():
            shifted = x + self.offset
        return torch.cat([self.b(self.a(shifted)) * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0]), self.empty])


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def words(*shape: int) -> torch.Tensor:
    return torch.randint(0, 50, shape)


torch.manual_seed(0)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], list[tuple[torch.Tensor, ...]]]] = {
    "convolutions": (Convolutions, ({0: BATCH},), [(floats(n, 1, 8, 8),) for n in (1, 2, 16)]),
    "recurrent": (Recurrent, ({0: BATCH},), [(floats(n, 5, 8),) for n in (1, 3)]),
    "transformer": (Transformer, ({0: BATCH, 1: LENGTH},), [(words(1, 2),), (words(5, 32),), (words(2, 7),)]),
    "shapes": (Shapes, ({0: BATCH}, {0: BATCH}), [(floats(n, 4), floats(n, 3)) for n in (1, 2, 9)]),
    "constants": (Constants, ({0: BATCH},), [(floats(n, 4),) for n in (1, 7)]),
    "branches": (Branches, ({0: BATCH},), [(torch.ones(3, 4),), (-torch.ones(3, 4),)]),
}


def saved(folder: Path, model: nn.Module, example: tuple[torch.Tensor, ...], dynamic: Any) -> Path:
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(model.eval(), example, dynamic_shapes=dynamic), path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_program_gives_what_torch_gives(case: str, tmp_path: Path) -> None:
    model, dynamic, inputs = CASES[case]
    torch.manual_seed(0)
    example = tuple(torch.cat([tensor, tensor])[:2] for tensor in inputs[-1])
    path = saved(tmp_path, model(), example, dynamic)
    program, reference = Program(path), torch.export.load(path).module()
    for given in inputs:
        with torch.inference_mode():
            answers, expected = program(*given), pytree.tree_leaves(reference(*given))
        assert len(answers) == len(expected)
        for answer, wanted in zip(answers, expected, strict=True):
            assert answer.dtype == wanted.dtype
            assert torch.equal(answer, wanted)


def test_sizes_that_were_not_exported_are_refused(tmp_path: Path) -> None:
    program = Program(saved(tmp_path, Shapes(), (floats(2, 4), floats(2, 3)), ({0: BATCH}, {0: BATCH})))
    with pytest.raises(OutOfRange, match="dimension 0 of input 0 is 17, the program was exported for 1 to 16"):
        program(floats(17, 4), floats(17, 3))
    with pytest.raises(OutOfRange, match="dimension 0 of input 1 is 3, the program was exported for 2"):
        program(floats(2, 4), floats(3, 3))
    with pytest.raises(OutOfRange, match="dimension 1 of input 0 is 5, the program was exported for 4 to 4"):
        program(floats(2, 5), floats(2, 3))


def test_a_batch_that_was_frozen_is_refused_instead_of_broadcast(tmp_path: Path) -> None:
    program = Program(saved(tmp_path, Constants(), (floats(1, 4),), None))
    with pytest.raises(OutOfRange):
        program(floats(2, 4))


def test_a_program_that_is_more_than_operator_calls_is_left_to_torch(tmp_path: Path) -> None:
    class Loop(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch._higher_order_ops.while_loop(lambda x: x.sum() < 100, lambda x: (x * 2 + 1,), (x,))

    path = saved(tmp_path, Loop(), (torch.ones(3),), None)
    with pytest.raises(Unsupported):
        Program(path)


def test_pickles_beside_the_program_are_never_opened(tmp_path: Path) -> None:
    """The example inputs are a pickle, which `torch.export.load` opens."""
    path = saved(tmp_path, Branches(), (torch.ones(2, 4),), None)
    hostile = tmp_path / "hostile.pt2"
    mark = tmp_path / "mark"
    payload = b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(hostile, "w") as out:
        for member in archive.infolist():
            content = archive.read(member)
            out.writestr(member.filename, payload if "sample_inputs" in member.filename else content)
    assert torch.equal(Program(hostile)(torch.ones(2, 4))[0], torch.full((2, 4), 2.0))
    assert not mark.exists()
