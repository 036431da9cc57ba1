"""Golden samples of every data type, written for everybody and read in JavaScript: none is read as another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.contract import CONTRACT_FILE, DimRange, DType, ServingContract, Signature, TensorSpec
from tasks.bundle import Origin, write
from tasks.image import contract_bytes
from tests.integration.tiny import packaged
from tests.node import score


def values(dtype: DType) -> NDArray[Any]:
    """Two rows with what is easily lost: the largest, the smallest, what is not finite, what is not ASCII."""
    if dtype is DType.STRING:
        return np.array([["a", "é", ""], ["x", "雨", "a b"]])
    if dtype is DType.BOOL:
        return np.array([[True, False, True], [False, False, True]])
    if dtype.is_float:
        info = np.finfo(dtype.numpy)
        return np.array([[0, info.tiny, info.max], [np.nan, -np.inf, info.smallest_subnormal]], dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    return np.array([[0, 1, 2], [limits.min, limits.max, limits.max - 1]], dtype.numpy)


def other(array: NDArray[Any]) -> NDArray[Any]:
    """The same with the least possible change of its last value."""
    changed = array.copy()
    last = array[-1, -1]
    if array.dtype.kind == "b":
        changed[-1, -1] = not last
    elif array.dtype.kind == "f":
        changed[-1, -1] = np.nextafter(last, array.dtype.type(1))
    else:
        changed[-1, -1] = last - array.dtype.type(1)
    return changed


class Everything:
    """A model that gives back one input of each type, as a package's files."""

    def copy_to(self, folder: Path) -> None:
        import onnx
        from onnx import helper

        (folder / "model").mkdir()
        codes = {dtype: helper.np_dtype_to_tensor_dtype(dtype.numpy) for dtype in DType}
        graph = helper.make_graph(
            [helper.make_node("Identity", [f"in/{dtype}"], [f"out/{dtype}"]) for dtype in DType],
            "everything",
            [helper.make_tensor_value_info(f"in/{dtype}", code, ["batch", 3]) for dtype, code in codes.items()],
            [helper.make_tensor_value_info(f"out/{dtype}", code, ["batch", 3]) for dtype, code in codes.items()],
        )
        opset = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model" / "model.onnx")
        samples = {f"{kind}/{dtype}": values(dtype) for dtype in DType for kind in ("input/in", "output/out")}
        np.savez(folder / "golden.npz", **samples)
        signature = Signature(
            inputs=tuple(TensorSpec(f"in/{dtype}", dtype, ("batch", 3)) for dtype in DType),
            outputs=tuple(TensorSpec(f"out/{dtype}", dtype, ("batch", 3)) for dtype in DType),
            dynamic={"batch": DimRange(1, 8)},
        )
        files = (packaged(folder, "golden.npz"), packaged(folder, "model/model.onnx"))
        contract = ServingContract(
            *("everything", "1", "onnx", "onnx", "model/model.onnx", files, signature, (), {}, "golden.npz", 8, {})
        )
        (folder / CONTRACT_FILE).write_bytes(contract_bytes(contract))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(Origin(Everything(), None), tmp_path_factory.mktemp("types") / "out").path


def test_every_type_is_read_as_what_it_is(bundle: Path) -> None:
    done = score(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{6 * len(DType)} values, as the source model's" in done.stdout


def test_the_least_change_of_any_type_is_seen(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "changed")
    index = json.loads((bundle / "golden" / "index.json").read_text())
    for tensor in index["outputs"]:
        path = tmp_path / "changed" / tensor["file"]
        if tensor["dtype"] == DType.STRING:
            path.write_text(json.dumps([*json.loads(path.read_text())[:-1], "a  b"]))
        else:
            np.save(path, other(np.load(path)))
    done = score(tmp_path / "changed")
    assert done.returncode == 1
    beyond = {line.split(":")[0] for line in done.stdout.splitlines() if line.endswith("beyond what is allowed")}
    assert beyond == {f"out/{dtype}" for dtype in DType}
