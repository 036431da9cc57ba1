"""`torch.export` archives (`.pt2`, files) and compiled models (folders) through torch, on the CPU.

An archive has no names: inputs and outputs are the signature's, in its order. It is read as data where that is
possible (`serving.runners.torch_program`). `torch.export.load` does the rest, and that can run code which was put into
the archive: open only what Slipway exported or inspected. A compiled model is code (`serving.runners.torch_aoti`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.contract import DType, Signature
from serving.runners import RunnerError


class TorchRunner:
    """An exported program; see `serving.runners.Runner`."""

    def __init__(self, program: Callable[..., Any], signature: Signature) -> None:
        import torch

        self._torch = torch
        self._program: Callable[..., Any] | None = program
        self._inputs = [tensor.name for tensor in signature.inputs]
        self._outputs = [tensor.name for tensor in signature.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        torch = self._torch
        if self._program is None:
            raise RunnerError("the model was let go")
        try:
            with torch.inference_mode():
                # a copy: the program may write to what it is given
                answers = self._program(*(torch.tensor(inputs[name]) for name in self._inputs))
                flat = _flat(answers, len(self._outputs))
        except RunnerError:
            raise
        except Exception as error:
            raise RunnerError(f"torch failed: {error}") from error
        return dict(zip(self._outputs, (answer.numpy(force=True) for answer in flat), strict=True))

    def close(self) -> None:
        self._program = None


def load(path: Path, signature: Signature, threads: int) -> TorchRunner:
    """Open a `.pt2` archive, or a compiled model's folder.

    The number of threads is torch's own, so the process's: the last `load` decides.
    """
    if any(tensor.dtype is DType.STRING for tensor in (*signature.inputs, *signature.outputs)):
        raise RunnerError("torch has no strings; serve this signature with another format")
    import torch

    torch.set_num_threads(threads)
    try:
        program, arity = _compiled(path, signature, threads) if path.is_dir() else _read(path)
    except RunnerError:
        raise
    except Exception as error:
        raise RunnerError(f"torch cannot load {path.name}: {type(error).__name__}: {error}") from error
    if arity != len(signature.inputs):
        raise RunnerError(f"{path.name}: the program takes {arity} inputs, the signature has {len(signature.inputs)}")
    return TorchRunner(program, signature)


def _compiled(path: Path, signature: Signature, threads: int) -> tuple[Callable[..., Any], int]:
    from serving.runners.torch_aoti import Compiled

    program = Compiled(path, signature, threads)
    return program, program.arity


def _read(path: Path) -> tuple[Callable[..., Any], int]:
    """The program, and how many inputs it takes."""
    import torch

    from serving.runners.torch_archive import Unsupported
    from serving.runners.torch_program import Program

    try:
        program = Program(path)
    except Unsupported:
        with _tensors_only():
            loaded = torch.export.load(path)
        return loaded.module(), len(loaded.graph_signature.user_inputs)
    return program, program.arity


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
