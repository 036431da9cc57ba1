"""The served signature of a SavedModel against the spec's, read from its file alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorflow.core.framework import tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.export.conversion import ExportFailure
from tasks.export.savedmodel_folder import check

DESCRIBED = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", 4)),),
    (TensorSpec("y", DType.INT64, ("batch",)),),
    {"batch": DimRange(1, 8)},
)


def folder(
    path: Path,
    inputs: dict[str, list[int] | None],
    outputs: dict[str, list[int] | None],
    key: str = "serving_default",
    dtype: int = types_pb2.DT_INT64,
) -> Path:
    """A SavedModel with nothing but its signature; a shape of None is unknown."""

    def info(name: str, shape: list[int] | None, dtype: int) -> meta_graph_pb2.TensorInfo:
        dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape or []]
        return meta_graph_pb2.TensorInfo(
            name=f"{name}:0",
            dtype=dtype,
            tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims, unknown_rank=shape is None),
        )

    graph = meta_graph_pb2.MetaGraphDef()
    graph.meta_info_def.tags.append("serve")
    for name, shape in inputs.items():
        graph.signature_def[key].inputs[name].CopyFrom(info(name, shape, types_pb2.DT_FLOAT))
    for name, shape in outputs.items():
        graph.signature_def[key].outputs[name].CopyFrom(info(name, shape, dtype))
    (path / "saved_model.pb").write_bytes(saved_model_pb2.SavedModel(meta_graphs=[graph]).SerializeToString())
    return path


def test_a_signature_that_fits_passes(tmp_path: Path) -> None:
    check(folder(tmp_path, {"x": [-1, 4]}, {"y": [-1]}), DESCRIBED)


def test_shapes_that_the_file_leaves_open_pass(tmp_path: Path) -> None:
    check(folder(tmp_path, {"x": [-1, -1]}, {"y": None}), DESCRIBED)


@pytest.mark.parametrize(("inputs", "outputs"), [({"x": [1, 4]}, {"y": [-1]}), ({"x": [-1, 4]}, {"y": [1]})])
def test_a_frozen_batch_is_named(inputs: dict, outputs: dict, tmp_path: Path) -> None:
    with pytest.raises(ExportFailure, match=r"EXPORT_DIMENSION_FROZEN.*dimension batch.*frozen at 1"):
        check(folder(tmp_path, inputs, outputs), DESCRIBED)


@pytest.mark.parametrize(
    ("inputs", "outputs", "difference"),
    [
        ({"z": [-1, 4]}, {"y": [-1]}, "no input 'x'; it has z"),
        ({"x": [-1, 4], "z": [-1]}, {"y": [-1]}, "also takes z"),
        ({"x": [-1, 4]}, {"z": [-1]}, "no output 'y'"),
        ({"x": [-1, 5]}, {"y": [-1]}, "shape"),
        ({"x": [-1, 4]}, {"y": [-1, 1]}, "shape"),
    ],
)
def test_another_signature_is_a_mismatch(inputs: dict, outputs: dict, difference: str, tmp_path: Path) -> None:
    with pytest.raises(ExportFailure, match=f"EXPORT_SIGNATURE_MISMATCH.*{difference}"):
        check(folder(tmp_path, inputs, outputs), DESCRIBED)


def test_another_dtype_is_a_mismatch(tmp_path: Path) -> None:
    with pytest.raises(ExportFailure, match="int32 in the file"):
        check(folder(tmp_path, {"x": [-1, 4]}, {"y": [-1]}, dtype=types_pb2.DT_INT32), DESCRIBED)


def test_a_savedmodel_without_the_served_signature_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ExportFailure, match="no signature serving_default; it has predict"):
        check(folder(tmp_path, {"x": [-1, 4]}, {"y": [-1]}, key="predict"), DESCRIBED)
