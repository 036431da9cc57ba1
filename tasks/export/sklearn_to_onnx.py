"""scikit-learn → ONNX, through skl2onnx. Byte-reproducible.

Which of the converter's outputs is which of the signature's follows from the method that the source is asked with
(`tasks.ingest.skops_model`): a classifier's label and its probabilities, or a regressor's or transformer's one answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.contract import DType, Signature, TensorSpec
from tasks.export.conversion import Conversion, ExportFailure, Place, Source, reason_of
from tasks.export.onnx_file import FILE, finish
from tasks.export.onnx_limits import onnx_limits

if TYPE_CHECKING:
    import onnx


def export(source: Source, signature: Signature, folder: Path) -> Conversion:
    """See `tasks.export.conversion.Exporter`."""
    import skl2onnx
    from sklearn.base import is_classifier

    estimator = source.model.native
    opset = min(skl2onnx.__max_supported_opset__, onnx_limits().opset)
    initial = [(tensor.name, _type(tensor)) for tensor in signature.inputs]
    classifier = is_classifier(estimator)
    try:
        model = skl2onnx.convert_sklearn(
            estimator,
            name=type(estimator).__name__,
            initial_types=initial,
            options={id(estimator): {"zipmap": False}} if classifier else None,
            target_opset={"": opset, "ai.onnx.ml": min(3, onnx_limits().opsets["ai.onnx.ml"])},
        )
    except Exception as error:  # skl2onnx raises its own families and whatever its converters raise
        raise _not_converted(error, estimator) from error
    model.graph.name = type(estimator).__name__  # skl2onnx draws a random one
    _take_inputs(model.graph, signature)
    _take_outputs(model.graph, signature, classifier=classifier)
    path = folder / FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    versions = finish(path, signature)
    return Conversion(
        root=FILE,
        exporter="skl2onnx",
        distributions=("scikit-learn", "skl2onnx", "onnx", "onnxruntime"),
        opset=versions.opset,
        ir_version=versions.ir_version,
    )


def _type(tensor: TensorSpec) -> Any:
    """The converter's type of an input: a matrix as it is, a column of a data frame as a matrix of one column."""
    from skl2onnx.common import data_types

    kinds = {
        DType.FLOAT32: data_types.FloatTensorType,
        DType.FLOAT64: data_types.DoubleTensorType,
        DType.INT64: data_types.Int64TensorType,
        DType.INT32: data_types.Int32TensorType,
        DType.BOOL: data_types.BooleanTensorType,
        DType.STRING: data_types.StringTensorType,
    }
    if tensor.dtype not in kinds:
        raise ExportFailure(
            "EXPORT_UNSUPPORTED_DTYPE",
            f"input {tensor.name!r} is {tensor.dtype.value}, which skl2onnx does not take",
            f"declare it as one of {', '.join(kinds)}",
        )
    columns = [size if isinstance(size, int) else None for size in tensor.shape[1:]] or [1]
    return kinds[tensor.dtype]([None, *columns])


def _take_inputs(graph: onnx.GraphProto, signature: Signature) -> None:
    """Columns that the signature has without a second dimension get one inside the graph."""
    import onnx

    for tensor in signature.inputs:
        if len(tensor.shape) != 1:
            continue
        value = next(value for value in graph.input if value.name == tensor.name)
        column = f"{tensor.name}__column"
        for node in graph.node:
            node.input[:] = [column if name == tensor.name else name for name in node.input]
        graph.initializer.append(onnx.helper.make_tensor(f"{column}_shape", onnx.TensorProto.INT64, [2], [-1, 1]))
        graph.node.insert(0, onnx.helper.make_node("Reshape", [tensor.name, f"{column}_shape"], [column], name=column))
        del value.type.tensor_type.shape.dim[1:]


def _take_outputs(graph: onnx.GraphProto, signature: Signature, *, classifier: bool) -> None:
    """The converter's outputs in the signature's order, dtype and rank; what it does not declare is left out."""
    import onnx

    by_meaning = list(graph.output)
    chosen = []
    for tensor in signature.outputs:
        value = by_meaning[1 if classifier and tensor.dtype.is_float else 0]
        name, kind = value.name, value.type.tensor_type.elem_type
        wanted = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype.numpy)
        if tensor.dtype.is_float and kind != wanted:
            kind = wanted
            graph.node.append(onnx.helper.make_node("Cast", [name], [f"{tensor.name}__cast"], to=wanted))
            name = f"{tensor.name}__cast"
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if (len(sizes), len(tensor.shape)) in ((2, 1), (1, 2)) and sizes[1:] in ([], [1]):
            shape = [-1] if len(tensor.shape) == 1 else [-1, 1]
            constant = onnx.helper.make_tensor(f"{tensor.name}__shape", onnx.TensorProto.INT64, [len(shape)], shape)
            graph.initializer.append(constant)
            graph.node.append(onnx.helper.make_node("Reshape", [name, constant.name], [f"{tensor.name}__shaped"]))
            name, sizes = f"{tensor.name}__shaped", [0, *shape[1:]]
        chosen.append(onnx.helper.make_tensor_value_info(name, kind, [abs(size) or None for size in sizes]))
    del graph.output[:]
    graph.output.extend(chosen)


def _not_converted(error: Exception, estimator: Any) -> ExportFailure:
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    known = isinstance(error, MissingConverter | MissingShapeCalculator)
    place = _step_in(str(error), estimator)
    reason = "has no converter in skl2onnx" if known else f"could not be converted by skl2onnx: {reason_of(error)}"
    return ExportFailure(
        "EXPORT_UNSUPPORTED_OPERATOR" if known else "EXPORT_FAILED",
        f"{place} {reason}",
        f"use an estimator that skl2onnx converts in place of {place.kind or 'it'} "
        "(onnx.ai/sklearn-onnx/supported.html)",
        evidence={"operator": place.kind, **place.evidence} if place.kind else {},
    )


def _step_in(text: str, estimator: Any) -> Place:
    """The step of a pipeline whose class the message names; the innermost, where several are named."""
    found = Place(kind=type(estimator).__name__)
    waiting = [("", estimator)]
    while waiting:
        path, part = waiting.pop(0)
        kind = type(part).__name__
        if path and kind in text:
            found = Place(module=path, kind=kind)
        steps = [*getattr(part, "steps", ()), *getattr(part, "transformer_list", ())]
        steps += [(name, step) for name, step, _ in getattr(part, "transformers_", ())]
        waiting += [(f"{path}.{name}".lstrip("."), step) for name, step in steps]
    return found
