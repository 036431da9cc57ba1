"""PyTorch state dicts: tensors by name (`torch.save(model.state_dict(), path)`) and what builds their module.

`torch.load` unpickles. It is only ever called with `weights_only=True`, whose unpickler knows tensors, containers and
nothing that could be called; a file that needs more is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.contracts import Artifact
from tasks.errors import SourceError, UnsafeSource
from tasks.ingest.archives import is_zip, opened
from tasks.ingest.code import call_entrypoint
from tasks.ingest.pickles import called_by
from tasks.ingest.torch_predict import TorchModel
from tasks.spec import ModelSpec

_HOW = "save the tensors alone with torch.save(model.state_dict(), path)"
_SHOWN = 5


def inspect(path: Path, spec: ModelSpec) -> None:
    """Refuse anything but a mapping of names to tensors."""
    read_state(path)


def load(path: Path, artifact: Artifact, work: Path) -> TorchModel:
    """Build the module through its entrypoint and fill it with the state dict.

    Raises:
        SourceError: the entrypoint gives no module, or another one than the state dict belongs to.
    """
    import torch

    state = read_state(path)
    if artifact.entrypoint is None:
        raise SourceError(f"{path.name}: a state dict needs source.entrypoint, which builds its module")
    module = call_entrypoint(work / "code", artifact.entrypoint)
    if not isinstance(module, torch.nn.Module):
        raise SourceError(f"{artifact.entrypoint} gave a {type(module).__name__}; expected a torch.nn.Module")
    _refuse_mismatch(f"{path.name} does not belong to what {artifact.entrypoint} builds", state, module.state_dict())
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise SourceError(f"{path.name} cannot be loaded into {artifact.entrypoint}: {error}") from error
    module = module.eval().requires_grad_(requires_grad=False)
    return TorchModel(module, module, artifact.signature)


def read_state(path: Path) -> dict[str, Any]:
    """The tensors by name.

    Raises:
        UnsafeSource: there is more than tensors in it.
        SourceError: it is cut short, damaged, or no state dict.
    """
    import torch

    if is_zip(path):
        _refuse_other_archives(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if called := called_by(path):
            found = f"found {', '.join(called[:_SHOWN])}"
            raise UnsafeSource(
                f"{path.name} is a pickle that can run code when it is opened, so it is not: expected only tensors, "
                f"{found}. Where you trust it, open it and {_HOW}"
            ) from error
        raise SourceError(f"{path.name} is damaged, or not a state dict: {_HOW}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path.name} cannot be read as a state dict ({reason}); copy or save it again") from error
    return _only_tensors(path, state)


def _refuse_other_archives(path: Path) -> None:
    with opened(path, "a PyTorch file") as archive:
        members = {name.partition("/")[2] for name in archive.namelist()}
    if "archive_format" in members:
        raise SourceError(f"{path.name} is a torch.export archive: call it .pt2 and remove source.entrypoint")
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        raise UnsafeSource(f"{path.name} is a TorchScript archive, which holds code: {_HOW}")
    if "data.pkl" not in members:
        raise SourceError(f"{path.name} is a zip archive, but not one that torch.save wrote: {_HOW}")


def _only_tensors(path: Path, state: Any) -> dict[str, Any]:
    import torch

    if not isinstance(state, Mapping):
        raise SourceError(f"{path.name} holds a {type(state).__name__}, expected a state dict: {_HOW}")
    others = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        checkpoint = any(isinstance(value, Mapping) for value in state.values())
        names = _some([str(key) for key in state]) if checkpoint else _some(others)
        what = f"a checkpoint ({names})" if checkpoint else f"more than tensors ({names})"
        raise SourceError(f"{path.name} holds {what}, expected names and tensors: {_HOW}")
    if not state:
        raise SourceError(f"{path.name} holds no tensors: {_HOW}")
    return {str(key): value for key, value in state.items()}


def _refuse_mismatch(what: str, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    import torch

    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    problems = [f"missing {_some(missing)}"] if missing else []
    problems += [f"unexpected {_some(unexpected)}"] if unexpected else []
    for key in expected:
        if key not in state:
            continue
        theirs, ours = state[key], expected[key]
        if theirs.shape != ours.shape:
            problems.append(f"{key} has the shape {list(theirs.shape)}, expected {list(ours.shape)}")
        elif torch.promote_types(theirs.dtype, ours.dtype) != ours.dtype:
            problems.append(f"{key} is {theirs.dtype}, which {ours.dtype} cannot hold")
    if not problems:
        return
    advice = "give the entrypoint that built the trained module"
    for prefix, wrapper in (("module.", "DataParallel"), ("_orig_mod.", "torch.compile")):
        if all(key.startswith(prefix) for key in state):
            advice = (
                f"every name begins with {prefix!r}, which {wrapper} adds: save the state dict of the module inside"
            )
    raise SourceError(f"{what}: {'; '.join(problems[: _SHOWN + 2])}. {advice[0].upper()}{advice[1:]}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
