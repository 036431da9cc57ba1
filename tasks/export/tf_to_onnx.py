"""A TensorFlow function → ONNX, through tf2onnx: the second half of Keras → ONNX and SavedModel → ONNX."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.contract import Signature
from tasks.export.conversion import Conversion, ExportFailure, Place, reason_of
from tasks.export.onnx_file import FILE, finish
from tasks.export.onnx_limits import onnx_limits
from tasks.export.tf_function import tensor_specs

if TYPE_CHECKING:
    import onnx

#: The newest operator set that tf2onnx 1.17 writes.
_OPSET = 18
_DISTRIBUTIONS = ("tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime")


def convert(
    function: Callable[..., dict[str, Any]],
    signature: Signature,
    folder: Path,
    *,
    place_of: Callable[[str], Place],
    distributions: tuple[str, ...] = (),
) -> Conversion:
    """Write `model.onnx`.

    Args:
        function: tensors in the signature's order → outputs by name.
        place_of: a TensorFlow node's name → where in the user's model it is.
        distributions: further distributions to record.

    Raises:
        ExportFailure: an operator without a counterpart in ONNX, or what `tasks.export.onnx_file.finish` finds.
    """
    import tensorflow as tf
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()  # tf2onnx 1.17 still names numpy 1's types
    import tf2onnx

    specs = tensor_specs(signature)
    traced = tf.function(lambda *tensors: list(function(*tensors).values()), autograph=False, input_signature=specs)
    path = folder / FILE
    try:
        concrete = traced.get_concrete_function()
        inputs = [tensor.name for tensor in concrete.inputs[: len(specs)]]  # after them come constants that it captured
        outputs = [tensor.name for tensor in concrete.outputs]
        model, _ = tf2onnx.convert.from_graph_def(
            tf2onnx.tf_loader.from_function(concrete, inputs, outputs),
            name="model",
            input_names=inputs,
            output_names=outputs,
            opset=min(_OPSET, onnx_limits().opset),
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    except Exception as error:  # tf2onnx raises whatever its handlers and TensorFlow raise
        raise ExportFailure(
            "EXPORT_FAILED",
            f"tf2onnx could not convert the model: {reason_of(error)}",
            "the full message is kept as evidence; choose another format meanwhile",
        ) from error
    _refuse_unknown_operators(model, place_of)
    path.write_bytes(model.SerializeToString(deterministic=True))
    versions = finish(path, signature)
    return Conversion(
        root=FILE,
        exporter="tf2onnx",
        distributions=(*_DISTRIBUTIONS, *distributions),
        opset=versions.opset,
        ir_version=versions.ir_version,
    )


def _erfc(graph: Any, node: Any, name: str, _: list[Any]) -> None:
    """erfc(x) = 1 - erf(x): Keras's exact GELU, which tf2onnx 1.17 does not know."""
    import numpy as np

    dtype = graph.get_dtype(node.input[0])
    shape, outputs = graph.get_shape(node.output[0]), list(node.output)
    one = graph.make_const(f"{name}/one", np.array(1, dtype=np.float32))
    graph.remove_node(name)
    erf = graph.make_node("Erf", [node.input[0]], name=f"{name}/erf", shapes=[shape], dtypes=[dtype])
    start = one.output[0]
    if dtype != 1:  # onnx.TensorProto.FLOAT
        start = graph.make_node("Cast", [start], attr={"to": dtype}).output[0]
    graph.make_node("Sub", [start, erf.output[0]], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype])


def _refuse_unknown_operators(model: onnx.ModelProto, place_of: Callable[[str], Place]) -> None:
    """tf2onnx logs what it cannot convert and writes it into the file as it is."""
    import onnx

    for node in model.graph.node:
        if onnx.defs.has(node.op_type, node.domain):
            continue
        place = place_of(node.name)
        raise ExportFailure(
            "EXPORT_UNSUPPORTED_OPERATOR",
            f"{place} uses TensorFlow's {node.op_type}, which tf2onnx cannot convert to ONNX",
            f"write {place.module or 'it'} with operators that ONNX has",
            evidence={"operator": node.op_type, "node": node.name, **place.evidence},
        )


def place_in_graph(name: str) -> Place:
    """Where a node is, from its name alone: the scopes without the operator."""
    scopes = [scope for scope in name.split("/")[:-1] if not re.fullmatch(r"StatefulPartitionedCall(_\d+)?", scope)]
    return Place(module=".".join(scopes))
