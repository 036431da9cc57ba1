"""The two models that every candidate serves, as ONNX files, and Slipway's packages of them.

In: a folder. Out: `Model`, whose `answers` are bare onnxruntime's: what every server is held against. Weights are
random; what is measured does not depend on them. The small MLP is so cheap (some 10 µs) that everything else of a
request is the server's; ResNet-50 is so dear that a server should not be seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import (
    CONTRACT_FILE,
    DimRange,
    DType,
    PackagedFile,
    ServingContract,
    Signature,
    TensorSpec,
    Tolerance,
)
from tasks.image import RUNTIMES, contract_bytes
from tasks.parity.arrays import npz_bytes

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

IN, HIDDEN, OUT = 64, 256, 10
#: Rows that one request may have: four clients with 5,000 each must fit.
MOST_ROWS = 8192
#: The largest batch that Slipway's server is to form of several requests.
MAX_BATCH = 64
#: He et al. 2015, "Deep Residual Learning for Image Recognition", table 1, 50 layers: blocks and width of each stage.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
IMAGE = (3, 224, 224)
CLASSES = 1000
#: What two runs of the same file by the same onnxruntime may differ by when their batches differ.
_ATOL, _RTOL = 1e-4, 1e-3


@dataclass(frozen=True, slots=True)
class Model:
    """An ONNX file with the input `x` and the output `y`, rows first."""

    name: str
    path: Path
    row: tuple[int, ...]
    answer: tuple[int, ...]
    most_rows: int
    max_batch: int

    @property
    def signature(self) -> Signature:
        return Signature(
            inputs=(TensorSpec("x", DType.FLOAT32, ("batch", *self.row)),),
            outputs=(TensorSpec("y", DType.FLOAT32, ("batch", *self.answer)),),
            dynamic={"batch": DimRange(1, self.most_rows)},
        )

    def rows(self, count: int, seed: int = 1) -> NDArray[np.float32]:
        """Inputs of three decimals: JSON and bytes then carry exactly the same values, at a usual length."""
        random = np.random.default_rng(seed)
        values: NDArray[np.float32] = np.round(random.normal(size=(count, *self.row)), 3).astype(np.float32)
        return values

    def answers(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bare onnxruntime's."""
        answers: NDArray[np.float32] = session(self.path, 1).run(["y"], {"x": rows})[0]
        return answers


def session(path: Path, threads: int) -> Any:
    """Bare onnxruntime on the CPU: nothing but the number of threads is set."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether an answer is the expected one, of the same shape."""
    return found.shape == expected.shape and bool(np.allclose(found, expected, atol=_ATOL, rtol=_RTOL))


def mlp(folder: Path, seed: int = 0) -> Model:
    """64-256-10 with a ReLU."""
    random = np.random.default_rng(seed)
    path = folder / f"mlp-{seed}.onnx"
    if not path.is_file():
        graph = _Graph(random)
        hidden = graph.linear("x", IN, HIDDEN)
        graph.write(path, graph.linear(graph.relu(hidden), HIDDEN, OUT), (IN,), (OUT,))
    return Model("mlp", path, (IN,), (OUT,), MOST_ROWS, MAX_BATCH)


def resnet50(folder: Path) -> Model:
    """ResNet-50 as it is served: every batch normalisation folded into its convolution."""
    path = folder / "resnet50.onnx"
    if not path.is_file():
        graph = _Graph(np.random.default_rng(0))
        x = graph.relu(graph.convolution("x", 3, 64, size=7, stride=2))
        x = graph.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = 64
        for stage, (blocks, width) in enumerate(STAGES):
            for block in range(blocks):
                x = graph.bottleneck(x, channels, width, stride=2 if stage and not block else 1)
                channels = 4 * width
        x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
        graph.write(path, graph.linear(x, channels, CLASSES), IMAGE, (CLASSES,))
    return Model("resnet50", path, IMAGE, (CLASSES,), 8, 8)


def package(model: Model, folder: Path) -> Path:
    """A package folder as Slipway's images have it."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "model.onnx").write_bytes(model.path.read_bytes())
    write_golden(model, folder / "golden.npz")
    names = ("golden.npz", "model/model.onnx")
    contract = ServingContract(
        name=model.name,
        version="1",
        format="onnx",
        runtime="onnx",
        model="model/model.onnx",
        files=tuple(_packaged(folder, name) for name in names),
        signature=model.signature,
        preprocess=(),
        tolerances={"y": tolerance()},
        golden="golden.npz",
        max_batch=model.max_batch,
        runtime_versions=RUNTIMES["onnx"].versions,
    )
    (folder / CONTRACT_FILE).write_bytes(contract_bytes(contract))
    return folder


def write_golden(model: Model, path: Path) -> Path:
    """Golden samples: as many rows as the server may put into one batch."""
    rows = model.rows(model.max_batch)
    path.write_bytes(npz_bytes({"input/x": rows, "output/y": model.answers(rows)}))
    return path


def tolerance() -> Tolerance:
    return Tolerance(_ATOL, _RTOL)


def _packaged(folder: Path, name: str) -> PackagedFile:
    content = (folder / name).read_bytes()
    return PackagedFile(name, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


class _Graph:
    """An ONNX graph being written: every method adds operators and gives the name of what they compute."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        output = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def relu(self, x: str) -> str:
        return self.add("Relu", [x])

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.add("Gemm", [x, self._weight(inputs, (inputs, outputs)), self._weight(inputs, (outputs,))])

    def convolution(self, x: str, inputs: int, outputs: int, size: int, stride: int = 1) -> str:
        fan_in = inputs * size * size
        weights = [self._weight(fan_in, (outputs, inputs, size, size)), self._weight(fan_in, (outputs,))]
        return self.add("Conv", [x, *weights], kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4)

    def bottleneck(self, x: str, inputs: int, width: int, stride: int) -> str:
        """Three convolutions and the way around them, which is a fourth where sizes change."""
        inner = self.relu(self.convolution(x, inputs, width, size=1))
        inner = self.relu(self.convolution(inner, width, width, size=3, stride=stride))
        inner = self.convolution(inner, width, 4 * width, size=1)
        if stride > 1 or inputs != 4 * width:
            x = self.convolution(x, inputs, 4 * width, size=1, stride=stride)
        return self.relu(self.add("Add", [x, inner]))

    def write(self, path: Path, output: str, row: tuple[int, ...], answer: tuple[int, ...]) -> None:
        import onnx
        from onnx import TensorProto, helper

        self._nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *answer])],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model)
        aside = path.with_suffix(".part")
        aside.write_bytes(model.SerializeToString())
        aside.rename(path)

    def _weight(self, fan_in: int, shape: tuple[int, ...]) -> str:
        from onnx import numpy_helper

        name = f"w{len(self._weights)}"
        values = self._random.normal(0, fan_in**-0.5, shape).astype(np.float32)
        self._weights.append(numpy_helper.from_array(values, name))
        return name
