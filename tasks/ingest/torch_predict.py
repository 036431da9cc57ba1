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
    """A module, or an exported program, and the callable that answers."""

    native: Any
    call: Callable[..., Any]
    signature: Signature

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        tensors = [torch.from_numpy(np.array(inputs[tensor.name], copy=True)) for tensor in self.signature.inputs]
        with torch.no_grad():
            answer = self.call(*tensors)
        return {name: value.numpy() for name, value in _by_name(answer, self.signature).items()}


def _by_name(answer: Any, signature: Signature) -> dict[str, Any]:
    """One tensor, a sequence in the outputs' order, or a mapping by the outputs' names → tensors by name."""
    import torch

    names = [tensor.name for tensor in signature.outputs]
    if isinstance(answer, Mapping):
        if set(answer) != set(names):
            raise SourceError(f"the model gives outputs {sorted(answer)}, the spec declares {names}")
        return {name: answer[name] for name in names}
    values = [answer] if isinstance(answer, torch.Tensor) else list(answer)
    if len(values) != len(names):
        raise SourceError(f"the model gives {len(values)} outputs, the spec declares {len(names)}: {', '.join(names)}")
    return dict(zip(names, values, strict=True))
