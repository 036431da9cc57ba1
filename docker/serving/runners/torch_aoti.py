"""A model that torch's compiler made into a library (AOTInductor), called directly.

The library is native code: it runs what is in it, so open only what Slipway compiled. It checks nothing that it is
given, and reads another dtype or order of elements as if it were the right one: so that is seen to here, before each
call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from serving.contract import Signature
from serving.runners import RunnerError


class Compiled:
    """A compiled model: tensors in the signature's order → its outputs as a list."""

    def __init__(self, folder: Path, signature: Signature, threads: int) -> None:
        libraries = sorted(folder.glob("data/aotinductor/*/*.so"))
        if len(libraries) != 1:
            raise RunnerError(f"{folder.name} is no compiled model: it has {len(libraries)} libraries instead of one")
        # torch's loader of packages does the same after it unpacked an archive, which a read-only container cannot.
        self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(libraries[0]), 1)
        self._signature = signature
        self._threads = threads
        self.arity = _leaves(json.loads(self._runner.get_call_spec()[0])[1])

    def __call__(self, *tensors: Any) -> list[Any]:
        self._check(tensors)
        torch.set_num_threads(self._threads)  # OpenMP keeps the number for each calling thread apart
        return self._runner.run([tensor.contiguous() for tensor in tensors])

    def _check(self, tensors: tuple[Any, ...]) -> None:
        sizes: dict[str, int] = {}
        for spec, tensor in zip(self._signature.inputs, tensors, strict=True):
            dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
            fits = dtype == spec.dtype and len(shape) == len(spec.shape)
            for declared, found in zip(spec.shape, shape, strict=False):
                if isinstance(declared, int):
                    fits = fits and found == declared
                    continue
                span = self._signature.dynamic[declared]
                fits = fits and sizes.setdefault(declared, found) == found and span.min <= found <= span.max
            if not fits:
                raise RunnerError(
                    f"input {spec.name!r} is {dtype} of shape {list(shape)}, the model was compiled for "
                    f"{spec.dtype.value} of shape {list(spec.shape)}"
                )


def _leaves(spec: Any) -> int:
    """How many tensors a tree of arguments takes (torch.utils._pytree's JSON: a leaf has no type)."""
    if spec["type"] is None:
        return 1
    return sum(_leaves(child) for child in spec["children_spec"])
