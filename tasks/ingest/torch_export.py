"""torch.export archives (`torch.export.save(program, "model.pt2")`)."""

from __future__ import annotations

from pathlib import Path

from tasks.contracts import Artifact
from tasks.errors import SourceError
from tasks.ingest.torch_predict import TorchModel
from tasks.spec import ModelSpec


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse archives that hold more than tensors and a graph."""


def load(path: Path, artifact: Artifact, work: Path) -> TorchModel:
    """Read the program."""
    import torch

    try:
        program = torch.export.load(path)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path.name} cannot be read as a torch.export archive: {error}") from error
    return TorchModel(program, program.module(), artifact.signature)
