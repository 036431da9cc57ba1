"""One small model for every runtime: y = relu(x W1 + b) W2, and n, how many of x are above zero.

Clients send bytes: x is scaled down first. Weights are whole numbers and halves, so that every runtime gives exactly
the same answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import (
    CONTRACT_FILE,
    DimRange,
    DType,
    PackagedFile,
    PreprocessStep,
    ServingContract,
    Signature,
    TensorSpec,
    Tolerance,
)
from tasks.image import RUNTIMES as IMAGE_RUNTIMES
from tasks.image import contract_bytes

IN, HIDDEN, OUT = 6, 8, 3
_RANDOM = np.random.default_rng(20)
W1 = (_RANDOM.integers(-4, 5, (IN, HIDDEN)) / 2).astype(np.float32)
B1 = (_RANDOM.integers(-4, 5, HIDDEN) / 2).astype(np.float32)
W2 = (_RANDOM.integers(-4, 5, (HIDDEN, OUT)) / 2).astype(np.float32)

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", IN)),),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch", OUT)), TensorSpec("n", DType.INT64, ("batch",))),
    dynamic={"batch": DimRange(1, 64)},
)
PREPROCESS = (PreprocessStep("cast", "x", source_dtype=DType.UINT8), PreprocessStep("scale", "x", by=0.25, offset=-8.0))
FORMATS = {"onnx": "onnx", "tensorflow": "savedmodel", "torch": "torch-export"}
ROOTS = {"onnx": "model.onnx", "tensorflow": ".", "torch": "model.pt2"}


def answer(x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What every runtime must say to model inputs."""
    return {"y": np.maximum(x @ W1 + B1, 0) @ W2, "n": (x > 0).sum(1)}


def raw_samples(rows: int = 12) -> NDArray[Any]:
    return np.random.default_rng(rows).integers(0, 256, (rows, IN), dtype=np.uint8)


def answer_raw(raw: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What a server must say to what clients send."""
    return answer(raw.astype(np.float32) * np.float32(0.25) - np.float32(8))


def write_golden(path: Path) -> Path:
    raw = raw_samples()
    np.savez(path, **{"input/x": raw, **{f"output/{name}": array for name, array in answer_raw(raw).items()}})
    return path


def write_onnx(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["a"]),
            helper.make_node("Add", ["a", "b1"], ["b"]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("MatMul", ["c", "w2"], ["y"]),
            helper.make_node("Greater", ["x", "zero"], ["above"]),
            helper.make_node("Cast", ["above"], ["ones"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["ones", "last"], ["n"], keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", IN])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUT]),
            helper.make_tensor_value_info("n", TensorProto.INT64, ["batch"]),
        ],
        [
            numpy_helper.from_array(array, name)
            for name, array in {
                "w1": W1,
                "b1": B1,
                "w2": W2,
                "zero": np.float32(0),
                "last": np.array([1]),
            }.items()
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx"
    )


def write_eight_bits(folder: Path) -> None:
    """The ONNX file with its first weight in int8, and `x` as the bytes that clients send: no rounding anywhere.

    Two neighbouring products of a byte and such a weight need 17 bits: `vpmaddubsw`, which processors without VNNI have
    for this, adds them in 16 and saturates. Every column stands there twice, so that neighbours have the same sign.
    """
    import onnx
    from onnx import helper, numpy_helper

    write_onnx(folder)
    model = onnx.load(folder / "model.onnx")
    step = np.float32(0.01)  # the largest half of a weight, 1, is 100 of 127
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in {
            "step": np.float32(0.25),
            "middle": np.uint8(32),
            "twice": np.repeat(np.arange(IN), 2),
            "w1.int8": np.rint(np.repeat(W1 / 2, 2, axis=0) / step).astype(np.int8),
            "steps": np.float32(0.25) * step,
        }.items()
    )
    product = model.graph.node[0]
    integers = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["x.uint8"]),
        helper.make_node("Gather", ["x.uint8", "twice"], ["x.twice"], axis=1),
        helper.make_node("MatMulInteger", ["x.twice", "w1.int8", "middle"], ["a.int32"]),
        helper.make_node("Cast", ["a.int32"], ["a.steps"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["a.steps", "steps"], list(product.output)),
    ]
    others = list(model.graph.node)[1:]
    model.graph.initializer.remove(next(item for item in model.graph.initializer if item.name == "w1"))
    del model.graph.node[:]
    model.graph.node.extend([*integers, *others])
    onnx.save(model, folder / "model.onnx")


def write_savedmodel(folder: Path) -> None:
    import tensorflow as tf

    class Tiny(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.b1, self.w2 = tf.Variable(W1), tf.Variable(B1), tf.Variable(W2)

        @tf.function(input_signature=[tf.TensorSpec([None, IN], tf.float32, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            hidden = tf.nn.relu(x @ self.w1 + self.b1)
            return {"y": hidden @ self.w2, "n": tf.reduce_sum(tf.cast(x > 0, tf.int64), 1)}

    model = Tiny()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})


def write_torch_export(folder: Path) -> None:
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.b1, self.w2 = (torch.nn.Parameter(torch.tensor(array)) for array in (W1, B1, W2))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.relu(x @ self.w1 + self.b1) @ self.w2, (x > 0).sum(1)

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Tiny().eval(), (torch.zeros(2, IN),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")


#: Runtime → what writes the model into a folder.
RUNTIMES = {"onnx": write_onnx, "tensorflow": write_savedmodel, "torch": write_torch_export}


@dataclass(frozen=True)
class TinyModel:
    """The model as one runtime's files."""

    runtime: str
    folder: Path

    @property
    def format(self) -> str:
        return FORMATS[self.runtime]

    @property
    def root(self) -> str:
        return ROOTS[self.runtime]

    @property
    def path(self) -> Path:
        """What a runner opens."""
        return self.folder if self.root == "." else self.folder / self.root

    def contract(self, package: Path, **changes: Any) -> ServingContract:
        """The contract of a package folder, with its files as they are."""
        files = tuple(
            packaged(package, path.relative_to(package).as_posix())
            for path in sorted(package.rglob("*"))
            if path.is_file() and path.name != CONTRACT_FILE
        )
        whole = ServingContract(
            name="tiny",
            version="1",
            format=self.format,
            runtime=self.runtime,
            model="model" if self.root == "." else f"model/{self.root}",
            files=files,
            signature=SIGNATURE,
            preprocess=PREPROCESS,
            tolerances={"y": Tolerance(1e-6, 1e-6)},
            golden="golden.npz",
            max_batch=8,
            runtime_versions=IMAGE_RUNTIMES[self.runtime].versions,
        )
        return replace(whole, **changes)

    def package(self, folder: Path, **changes: Any) -> Path:
        """A package folder as an image has it."""
        import shutil

        shutil.copytree(self.folder, folder / "model")
        write_golden(folder / "golden.npz")
        (folder / CONTRACT_FILE).write_bytes(contract_bytes(self.contract(folder, **changes)))
        return folder


class TinyModels:
    """`of(runtime)`: the model as this runtime's files below `root`, written when first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, TinyModel] = {}

    def of(self, runtime: str) -> TinyModel:
        if runtime not in self._made:
            folder = self._root / runtime
            folder.mkdir()
            RUNTIMES[runtime](folder)
            self._made[runtime] = TinyModel(runtime, folder)
        return self._made[runtime]


def packaged(folder: Path, name: str) -> PackagedFile:
    content = (folder / name).read_bytes()
    return PackagedFile(name, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
