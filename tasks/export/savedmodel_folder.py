"""An exporter's SavedModel → the one that is served: checked against the signature, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.contract import Signature, TensorSpec
from tasks.export.conversion import ExportFailure

_SIGNATURE = "serving_default"


def finish(folder: Path, signature: Signature) -> None:
    """Check the SavedModel in `folder` and leave out what differs from one export to the next.

    Raises:
        ExportFailure: see `check`.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    check(folder, signature)
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # a random number; TensorFlow does without
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    path.write_bytes(model.SerializeToString(deterministic=True))
    for empty in ("assets", "variables"):
        if (folder / empty).is_dir() and not any((folder / empty).iterdir()):
            (folder / empty).rmdir()


def check(folder: Path, signature: Signature) -> None:
    """Its `serving_default` has the signature's names, dtypes and open dimensions.

    Raises:
        ExportFailure: a dimension is frozen, or inputs and outputs are not the signature's.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    signatures: Mapping[str, Any] = next(
        (graph.signature_def for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags), {}
    )
    if _SIGNATURE not in signatures:
        raise _mismatch(
            f"the SavedModel has no signature {_SIGNATURE}; it has {', '.join(sorted(signatures)) or 'none'}"
        )
    served = signatures[_SIGNATURE]
    for what, given, tensors in (
        ("input", served.inputs, signature.inputs),
        ("output", served.outputs, signature.outputs),
    ):
        names = [tensor.name for tensor in tensors]
        if absent := [name for name in names if name not in given]:
            raise _mismatch(f"{_SIGNATURE} has no {what} {absent[0]!r}; it has {', '.join(sorted(given))}")
        if what == "input" and (surplus := sorted(set(given) - set(names))):
            raise _mismatch(f"{_SIGNATURE} also takes {', '.join(surplus)}, which the spec does not declare")
        for tensor in tensors:
            _check_tensor(what, tensor, given[tensor.name])


def _check_tensor(what: str, tensor: TensorSpec, info: Any) -> None:
    import tensorflow as tf

    dtype = tf.as_dtype(info.dtype).name
    if dtype != tensor.dtype.value:
        raise _mismatch(f"{what} {tensor.name!r} is {dtype} in the file, the spec declares {tensor.dtype.value}")
    if info.tensor_shape.unknown_rank:
        return
    sizes = [dim.size for dim in info.tensor_shape.dim]
    if len(sizes) != len(tensor.shape):
        raise _mismatch(f"{what} {tensor.name!r} has shape {sizes} in the file, the spec declares {list(tensor.shape)}")
    for declared, size in zip(tensor.shape, sizes, strict=True):
        if size in (-1, declared):
            continue
        if isinstance(declared, str):
            raise ExportFailure(
                "EXPORT_DIMENSION_FROZEN",
                f"the dimension {declared} of {what} {tensor.name!r} is frozen at {size} in the exported SavedModel",
                f"keep {declared} open where the model makes {tensor.name!r}, or write {size} instead in model.yaml",
                evidence={"dimension": declared, "frozen_at": size, "tensor": tensor.name},
            )
        raise _mismatch(f"{what} {tensor.name!r} has shape {sizes} in the file, the spec declares {list(tensor.shape)}")


def _mismatch(difference: str) -> ExportFailure:
    return ExportFailure(
        "EXPORT_SIGNATURE_MISMATCH",
        f"the model does not have the signature that the spec declares: {difference}",
        "correct inputs and outputs in model.yaml, or the model",
        evidence={"difference": difference},
    )
