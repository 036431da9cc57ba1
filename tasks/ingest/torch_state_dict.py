"""PyTorch state dicts: tensors by name (`torch.save(model.state_dict(), path)`) and what builds their module."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.contracts import Artifact
from tasks.errors import SourceError, UnsafeSource
from tasks.ingest.code import call_entrypoint
from tasks.ingest.torch_predict import TorchModel
from tasks.spec import ModelSpec


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse anything but a mapping of names to tensors."""
    _read(path)


def load(path: Path, artifact: Artifact, work: Path) -> TorchModel:
    """Build the module through its entrypoint and fill it with the state dict."""
    import torch

    state = _read(path)
    if artifact.entrypoint is None:
        raise SourceError(f"{path.name}: a state dict needs source.entrypoint")
    module = call_entrypoint(work / "code", artifact.entrypoint)
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"{artifact.entrypoint} gave a {type(module).__name__}, expected a torch.nn.Module")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise SourceError(f"{path.name} does not fit {artifact.entrypoint}: {error}") from error
    return TorchModel(module.eval().requires_grad_(requires_grad=False), module, artifact.signature)


def _read(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeSource(
            f"{path.name} holds pickled Python objects, not only tensors: "
            "save it again with torch.save(model.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise SourceError(f"{path.name} cannot be read as a PyTorch state dict: {error}") from error
    if not isinstance(state, Mapping):
        raise SourceError(f"{path.name} holds a {type(state).__name__}, expected a state dict")
    return state
