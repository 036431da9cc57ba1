"""A model of every datatype that gives back what it gets, bit by bit: what a protocol does to values shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import CONTRACT_FILE, DimRange, DType, NanPolicy, ServingContract, Signature, TensorSpec
from tasks.image import RUNTIMES, contract_bytes
from tests.integration.tiny import packaged

#: Input → what it may hold, where that is not every value of its dtype.
RANGES: dict[str, tuple[int | float | None, int | float | None]] = {"int16": (0, 999), "float16": (None, 60000)}
#: The input that takes NaN.
TAKES_NAN = "float64"

SIGNATURE = Signature(
    inputs=tuple(
        TensorSpec(
            dtype.value,
            dtype,
            ("batch", "length"),
            RANGES.get(dtype.value),
            NanPolicy.ACCEPT if dtype == TAKES_NAN else NanPolicy.REFUSE,
        )
        for dtype in DType
    ),
    outputs=tuple(TensorSpec(f"{dtype}_out", dtype, ("batch", "length")) for dtype in DType),
    dynamic={"batch": DimRange(1, 4), "length": DimRange(1, 8)},
)


def samples(rows: int = 2, length: int = 3) -> dict[str, NDArray[Any]]:
    """Values of every datatype, its ends among them, within the ranges."""
    return {spec.name: np.resize(_values(spec.dtype), (rows, length)) for spec in SIGNATURE.inputs}


def _values(dtype: DType) -> NDArray[Any]:
    if dtype is DType.STRING:
        return np.array(["", "é漢", "a\0b", '"\\'], object)
    if dtype is DType.BOOL:
        return np.array([True, False])
    limits = np.finfo(dtype.numpy) if dtype.is_float else np.iinfo(dtype.numpy)
    least, greatest = RANGES.get(dtype.value, (None, None))
    ends = [limits.min if least is None else least, limits.max if greatest is None else greatest]
    return np.array([*ends, 1, 0.1 if dtype.is_float else 0], dtype.numpy)


def write_package(folder: Path) -> Path:
    """A package folder as an image has it."""
    import onnx
    from onnx import helper

    types = {spec.name: helper.np_dtype_to_tensor_dtype(spec.dtype.numpy) for spec in SIGNATURE.inputs}
    axes = ["batch", "length"]
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in types],
        "echo",
        [helper.make_tensor_value_info(name, kind, axes) for name, kind in types.items()],
        [helper.make_tensor_value_info(f"{name}_out", kind, axes) for name, kind in types.items()],
    )
    (folder / "model").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "model" / "model.onnx")
    arrays = {name: array.astype(str) if array.dtype == object else array for name, array in samples().items()}
    golden = {f"input/{name}": array for name, array in arrays.items()}
    golden |= {f"output/{name}_out": array for name, array in arrays.items()}
    np.savez(folder / "golden.npz", **golden)
    contract = ServingContract(
        name="echo",
        version="7",
        format="onnx",
        runtime="onnx",
        model="model/model.onnx",
        files=(packaged(folder, "golden.npz"), packaged(folder, "model/model.onnx")),
        signature=SIGNATURE,
        preprocess=(),
        tolerances={},
        golden="golden.npz",
        max_batch=4,
        runtime_versions=RUNTIMES["onnx"].versions,
    )
    (folder / CONTRACT_FILE).write_bytes(contract_bytes(contract))
    return folder
