"""How a PyTorch model is asked: positional in the signature's order, in eval mode, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.errors import SourceError


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A module or an exported program (`native`), and the callable that answers for it."""

    native: Any
    call: Callable[..., Any]
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The answer may be one tensor, a sequence in the outputs' order, or a mapping by the outputs' names."""
        import torch

        tensors = [torch.from_numpy(np.array(inputs[tensor.name], copy=True)) for tensor in self.signature.inputs]
        with torch.no_grad():
            answer = self.call(*tensors)
        return {name: _as_numpy(name, value) for name, value in _by_name(answer, self.signature).items()}


def _by_name(answer: Any, signature: Signature) -> dict[str, Any]:
    import torch

    names = [tensor.name for tensor in signature.outputs]
    if isinstance(answer, Mapping):
        if set(answer) != set(names):
            raise SourceError(f"the model gives the outputs {', '.join(answer)}; the spec declares {', '.join(names)}")
        return {name: answer[name] for name in names}
    values = [answer] if isinstance(answer, torch.Tensor) else answer
    if not isinstance(values, list | tuple):
        raise SourceError(f"the model gives a {type(answer).__name__}; expected a tensor, a tuple or a dict of tensors")
    if len(values) != len(names):
        raise SourceError(f"the model gives {len(values)} outputs; the spec declares {len(names)}: {', '.join(names)}")
    return dict(zip(names, values, strict=True))


def _as_numpy(name: str, value: Any) -> NDArray[Any]:
    import torch

    if not isinstance(value, torch.Tensor):
        raise SourceError(f"output {name!r} is a {type(value).__name__}; expected a tensor")
    try:
        return np.asarray(value.detach().cpu().numpy())
    except TypeError as error:
        raise SourceError(
            f"output {name!r} is {value.dtype}, which no serving runtime gives; return it as float32"
        ) from error
