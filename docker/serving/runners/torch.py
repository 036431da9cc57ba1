"""`torch.export` archives (`.pt2`) through torch, on the CPU.

An archive has no names: inputs and outputs are the signature's, in its order. It is a program, and reading one can run
code that was put into it (pickles, expressions, generated source): open only what Slipway exported or inspected.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.contract import DType, Signature
from serving.runners import RunnerError


class TorchRunner:
    """An exported program; see `serving.runners.Runner`."""

    def __init__(self, module: Any, signature: Signature) -> None:
        import torch

        self._torch = torch
        self._module = module
        self._inputs = [tensor.name for tensor in signature.inputs]
        self._outputs = [tensor.name for tensor in signature.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        torch = self._torch
        try:
            with torch.inference_mode():
                answers = self._module(*(torch.tensor(inputs[name]) for name in self._inputs))
        except Exception as error:
            raise RunnerError(f"torch failed: {error}") from error
        return dict(zip(self._outputs, (answer.numpy() for answer in _flat(answers, len(self._outputs))), strict=True))

    def close(self) -> None:
        self._module = None


def load(path: Path, signature: Signature, threads: int) -> TorchRunner:
    """Open a `.pt2` archive. The number of threads is torch's own, so the process's: the last `load` decides."""
    if any(tensor.dtype is DType.STRING for tensor in (*signature.inputs, *signature.outputs)):
        raise RunnerError("torch has no strings; serve this signature with another format")
    import torch

    torch.set_num_threads(threads)
    try:
        with _tensors_only():
            program = torch.export.load(path)
    except Exception as error:
        raise RunnerError(f"torch cannot load {path.name}: {error}") from error
    arity = len(program.graph_signature.user_inputs)
    if arity != len(signature.inputs):
        raise RunnerError(f"{path.name}: the program takes {arity} inputs, the signature has {len(signature.inputs)}")
    return TorchRunner(program.module(), signature)


def _flat(answers: Any, expected: int) -> list[Any]:
    """The outputs in order, from a tensor, a sequence or a mapping of tensors."""
    if isinstance(answers, Mapping):
        answers = list(answers.values())
    flat = list(answers) if isinstance(answers, list | tuple) else [answers]
    if len(flat) != expected:
        raise RunnerError(f"the program gives {len(flat)} outputs, the signature has {expected}")
    return flat


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """While an archive is read, `torch.load` opens tensors and no other pickles, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
