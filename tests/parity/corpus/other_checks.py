"""What the exporters' own checks say of an ONNX file: each asks one input, and none asks for another batch size.

In: a source model and the path of a file. Out: whether the check lets the file through. Whatever a check raises stops
the file as well.

- torch.onnx: `torch.onnx.export(..., verify=True)` of torch 2.13 (torch/onnx/_internal/exporter/_core.py, step 6): the
  example inputs, outputs paired by position, the largest absolute difference below 5e-3 and the largest relative one
  below 0.1. The comparison is torch's own code, the two limits are restated.
- Optimum: `validate_model_outputs` of optimum-onnx 0.1 (optimum/exporters/onnx/convert.py): one dummy input, names of
  outputs, shapes, `numpy.allclose` with atol 1e-5 (`ATOL_FOR_VALIDATION`). It takes Transformers' models only, so the
  rule is restated.
- Polygraphy: `polygraphy run model.onnx --onnxrt --load-outputs …` of 0.53: one random input with 1 for every dynamic
  dimension, absolute or relative difference of at most 1e-5, shapes. Its own data loader and comparison, where the
  package can be imported; else restated.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.export.sizes import sample_inputs, tracing_sizes

Arrays = Mapping[str, NDArray[Any]]
Predict = Callable[[Arrays], dict[str, NDArray[Any]]]
#: The limits of the three checks, as cited above.
_TORCH_ABSOLUTE, _TORCH_RELATIVE, _OPTIMUM, _POLYGRAPHY = 5e-3, 1e-1, 1e-5, 1e-5


def torch_verify(predict: Predict, signature: Signature, path: Path) -> bool:
    """Whether torch.onnx's verification lets the file through."""
    import torch
    from torch.onnx._internal.exporter._verification import VerificationInfo

    given = sample_inputs(signature, tracing_sizes(signature))
    session = _session(path)
    feeds = dict(zip((port.name for port in session.get_inputs()), given.values(), strict=False))
    answers = session.run(None, feeds)
    for (name, expected), answer in zip(predict(given).items(), answers, strict=False):
        found = VerificationInfo.from_tensors(name, torch.from_numpy(expected), torch.from_numpy(answer))
        if found.max_abs_diff >= _TORCH_ABSOLUTE or found.max_rel_diff >= _TORCH_RELATIVE:
            return False
    return True


def optimum(predict: Predict, signature: Signature, path: Path) -> bool:
    """Whether Optimum's rule lets the file through."""
    given = sample_inputs(signature, {name: min(2, span.max) for name, span in signature.dynamic.items()})
    session, expected = _session(path), predict(given)
    names = [port.name for port in session.get_outputs()]
    if not set(names) <= set(expected):
        return False
    answers = dict(zip(names, session.run(None, dict(given)), strict=True))
    return all(
        answer.shape == expected[name].shape and np.allclose(expected[name], answer, atol=_OPTIMUM)
        for name, answer in answers.items()
    )


def polygraphy(predict: Predict, signature: Signature, path: Path) -> bool:
    """Whether Polygraphy's defaults let the file through."""
    session = _session(path)
    given = _polygraphy_inputs(signature)
    answers = dict(zip((port.name for port in session.get_outputs()), session.run(None, given), strict=True))
    expected = predict(given)
    if not polygraphy_is_there():
        return all(
            answers[name].shape == array.shape
            and bool(np.all(np.abs(answers[name] - array) <= np.maximum(_POLYGRAPHY, _POLYGRAPHY * np.abs(array))))
            for name, array in expected.items()
        )
    from polygraphy.comparator import CompareFunc, IterationResult
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = CompareFunc.simple()(
            IterationResult(answers, runner_name="onnxrt"), IterationResult(expected, runner_name="source")
        )
    return bool(found) and all(bool(result) for result in found.values())


def polygraphy_is_there() -> bool:
    """Whether the package itself is asked."""
    return importlib.util.find_spec("polygraphy") is not None


def _polygraphy_inputs(signature: Signature) -> dict[str, NDArray[Any]]:
    shapes = {
        tensor.name: tuple(1 if isinstance(size, str) else size for size in tensor.shape) for tensor in signature.inputs
    }
    if not polygraphy_is_there():
        generator = np.random.default_rng(1)
        return {
            tensor.name: (
                generator.random(shapes[tensor.name])
                if tensor.dtype.is_float
                else generator.integers(0, 2, shapes[tensor.name])
            ).astype(tensor.dtype.numpy)
            for tensor in signature.inputs
        }
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import DataLoader
    from polygraphy.logger import G_LOGGER

    described = TensorMetadata()
    for tensor in signature.inputs:
        described.add(tensor.name, tensor.dtype.numpy, shapes[tensor.name])
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        return dict(next(iter(DataLoader(input_metadata=described))))


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


CHECKS: dict[str, Callable[[Predict, Signature, Path], bool]] = {
    "torch.onnx verify": torch_verify,
    "Optimum": optimum,
    "Polygraphy": polygraphy,
}
