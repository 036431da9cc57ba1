"""One operator of a real export is made wrong: its module is named, its operator, and what differs there."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from serving.contract import DType, TensorSpec
from tasks.contracts import Divergence
from tasks.export.calibration import batches
from tasks.export.conversion import Source
from tasks.export.worker import exporter_of
from tasks.parity.divergence import locate
from tasks.parity.divergence.location import located
from tasks.parity.divergence.onnx_graph import graph_of
from tasks.parity.divergence.onnx_values import AskedValues
from tasks.parity.divergence.source_values import InnerValues, open_values
from tests.integration.export.zoo import ZOO, Model, signature, torch_model
from tests.parity.conftest import Gate, codes, rows
from tests.parity.corpus.clean import evaluation, loaded

Fault = Callable[[onnx.ModelProto], None]


def residual(_: Path) -> Model:
    """Normalisation before each convolution, so that it stays an operator of its own; a resize; a softmax."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.conv(torch.relu(self.norm(x)))

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.blocks = nn.ModuleList(Block() for _ in range(3))
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.attention = nn.Softmax(dim=1)
            self.head = nn.Linear(6 * 12 * 12, 4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.stem(image)
            for block in self.blocks:
                x = block(x)
            return self.head(self.attention(self.up(x)).flatten(1))

    torch.manual_seed(0)
    module = Residual()
    for block in module.blocks:
        block.norm.running_mean.uniform_(-1, 1)
        block.norm.running_var.uniform_(0.5, 2)
    return torch_model(
        module, signature({"image": (DType.FLOAT32, "batch", 3, 6, 6)}, {"logits": (DType.FLOAT32, "batch", 4)})
    )


def asked(model: Model, count: int) -> dict[str, NDArray[Any]]:
    """Rows for a model; ids stay small."""
    return {name: array % 6 for name, array in evaluation(model.signature, rows=count).items()}


@dataclass
class Exported:
    """A source that is open already, and its clean ONNX file."""

    model: Model
    path: Path
    inner: InnerValues

    def against(self, folder: Path, fault: Fault | None = None, precision: str = "full") -> Divergence:
        proto = onnx.load(self.path)
        if fault is not None:
            fault(proto)
        onnx.save(proto, folder / "faulty.onnx")
        inputs = asked(self.model, 8)
        return located(
            self.inner,
            graph_of(proto),
            self.model.signature,
            folder / "faulty.onnx",
            inputs,
            folder / "divergence",
            precision,
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Exported]]:
    made: dict[tuple[str, str], Exported] = {}

    def get(name: str, format: str = "onnx") -> Exported:
        if (name, format) not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{format}")
            found = residual(folder) if name == "residual" else ZOO[name](folder)
            calibration = partial(batches, asked(found, 32), found.signature)
            source = Source(found, found.path, found.framework, calibration=calibration)
            conversion = exporter_of(format, found.framework)(source, found.signature, folder)
            source, loader = loaded(found)
            inner = open_values(source, loader, found.signature)
            assert inner is not None
            made[name, format] = Exported(found, folder / conversion.root, inner)
        return made[name, format]

    yield get
    made.clear()


# --- faults -------------------------------------------------------------------------------------------------------


def _node(proto: onnx.ModelProto, kind: str, number: int) -> onnx.NodeProto:
    return [node for node in proto.graph.node if node.op_type == kind][number]


def setting(kind: str, number: int, **attributes: Any) -> Fault:
    """Other attributes for the operator with this number among those of its kind."""

    def fault(proto: onnx.ModelProto) -> None:
        node = _node(proto, kind, number)
        kept = [entry for entry in node.attribute if entry.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])

    return fault


def weight(kind: str, number: int, position: int = 1, by: float = 0.02) -> Fault:
    """One value of a weight of an operator is moved; other operators that share the weight keep theirs."""

    def nudged(array: NDArray[Any]) -> NDArray[Any]:
        array = array.copy()
        array.reshape(-1)[array.size // 2] += by
        return array

    return replaced(kind, number, position, nudged)


def scaled(kind: str, number: int, position: int, by: float) -> Fault:
    """A weight of an operator is larger throughout."""
    return replaced(kind, number, position, lambda array: array * by)


def replaced(kind: str, number: int, position: int, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Fault:
    """An operator gets a weight of its own, made from the one that it may share with others."""

    def fault(proto: onnx.ModelProto) -> None:
        node = _node(proto, kind, number)
        held = next(item for item in proto.graph.initializer if item.name == node.input[position])
        array, name = change(numpy_helper.to_array(held)).astype(np.float32), f"{node.output[0]}/changed-{position}"
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input[position] = name

    return fault


def of_the_batch(number: int) -> Fault:
    """Batch normalisation in training mode: with the statistics of the batch."""

    def fault(proto: onnx.ModelProto) -> None:
        setting("BatchNormalization", number, training_mode=1)(proto)
        _node(proto, "BatchNormalization", number).output.extend(["batch_mean", "batch_var"])

    return fault


def stale(*weights: tuple[str, int, int]) -> Fault:
    """A whole block keeps the weights of an earlier epoch: (kind, number, position) of each."""

    def older(array: NDArray[Any]) -> NDArray[Any]:
        return array + 0.05 * np.random.default_rng(1).normal(size=array.shape)

    def fault(proto: onnx.ModelProto) -> None:
        for kind, number, position in weights:
            replaced(kind, number, position, older)(proto)

    return fault


def turned(kind: str, number: int) -> Fault:
    """An operator takes its image with rows and columns exchanged."""

    def fault(proto: onnx.ModelProto) -> None:
        node = _node(proto, kind, number)
        place = list(proto.graph.node).index(node)
        turn = helper.make_node("Transpose", [node.input[0]], ["turned"], perm=[0, 1, 3, 2])
        node.input[0] = "turned"
        proto.graph.node.insert(place, turn)

    return fault


def channels_last(kind: str, number: int) -> Fault:
    """An operator's answer is handed on with its channels last."""

    def fault(proto: onnx.ModelProto) -> None:
        node = _node(proto, kind, number)
        place, name = list(proto.graph.node).index(node), node.output[0]
        node.output[0] = f"{name}.channels_first"
        proto.graph.node.insert(place + 1, helper.make_node("Transpose", [node.output[0]], [name], perm=[0, 2, 3, 1]))

    return fault


CASES: list[tuple[str, Fault, str, str, str]] = [
    ("cnn", weight("Conv", 0), "0", "Conv", "not the convolution's"),
    ("cnn", setting("Gelu", 0, approximate="tanh"), "2", "Gelu", "tanh"),
    ("cnn", weight("Gemm", 0), "6", "Gemm", "weight"),
    ("transformer", scaled("Gather", 0, 0, 1.01), "words", "Gather", "weight"),
    ("transformer", setting("LayerNormalization", 2, epsilon=1e-4), "encoder.layers.1.norm1", "LayerNormalization",
     "the file's epsilon is 0.0001, the module's 1e-05"),
    ("transformer", setting("Gelu", 1, approximate="tanh"), "encoder.layers.1", "Gelu", "tanh"),
    ("transformer", weight("Gemm", 1), "encoder.layers.1.self_attn", "Gemm", ""),
    ("recurrent", weight("LSTM", 1), "memory", "Reshape", "gates"),
    ("recurrent", weight("GRU", 0, 2), "gate", "GRU", "gates"),
    ("residual", weight("BatchNormalization", 1, 3), "blocks.1.norm", "BatchNormalization", "running_mean"),
    ("residual", setting("BatchNormalization", 2, epsilon=1e-3), "blocks.2.norm", "BatchNormalization", "epsilon"),
    ("residual", of_the_batch(1), "blocks.1.norm", "BatchNormalization", "training mode is 1"),
    ("residual", setting("Resize", 0, coordinate_transformation_mode="align_corners"), "up", "Resize",
     "align_corners is False"),
    ("residual", setting("Softmax", 0, axis=2), "attention", "Softmax", "axis is 2, the module's 1"),
    ("residual", turned("Conv", 0), "stem", "Conv", ""),
    ("residual", stale(("BatchNormalization", 1, 1), ("Conv", 2, 1), ("Conv", 2, 2)), "blocks.1.norm",
     "BatchNormalization", "weight"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fault", "module", "operator", "why"), CASES, ids=[f"{case[0]}-{case[2]}-{case[3]}" for case in CASES]
)
def test_the_module_and_the_operator_are_named(
    exported: Callable[[str], Exported],
    tmp_path: Path,
    name: str,
    fault: Fault,
    module: str,
    operator: str,
    why: str,
) -> None:
    found = exported(name).against(tmp_path, fault)
    assert found.first is not None, found.note
    assert (found.first.module, found.first.operator) == (module, operator)
    assert why in found.explanation
    assert found.first.margin > 1
    assert found.first.node in [item.node for item in found.worst]


KERAS = [
    ("keras_two", scaled("Add", 0, 1, 5.0), "layer_normalization", "the file's epsilon is 0.005, the module's 0.001"),
    ("keras_two", weight("MatMul", -1), "score", "kernel"),
    ("keras_cnn", weight("Conv", 0), "conv2d", "not the convolution's"),
    ("keras_cnn", scaled("Conv", 0, 1, 1.01), "batch_normalization", "normalisation"),
]


@pytest.mark.parametrize(("name", "fault", "layer", "why"), KERAS, ids=[f"{case[0]}-{case[2]}" for case in KERAS])
def test_the_layer_of_a_keras_model_is_named(
    exported: Callable[[str], Exported], tmp_path: Path, name: str, fault: Fault, layer: str, why: str
) -> None:
    found = exported(name).against(tmp_path, fault)
    assert found.first is not None, found.note
    assert found.first.module.startswith(layer)  # Keras counts its layers per process
    assert why in found.explanation


def test_where_the_axes_were_moved_is_named_and_not_what_takes_them_for_the_source_s(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    found = exported("residual").against(tmp_path, channels_last("Resize", 0))
    assert found.first is not None, found.note
    assert (found.first.module, found.first.operator) == ("up", "Transpose")
    assert "order 0, 2, 3, 1, and Softmax behind it (attention)" in found.explanation
    assert found.first.margin > 1


def test_an_operator_that_is_wrong_in_any_layout_is_named_itself(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    """The axes are moved and moved back, as converters do, and a weight behind that is wrong."""

    def fault(proto: onnx.ModelProto) -> None:
        channels_last("Conv", 0)(proto)
        moved = _node(proto, "Transpose", 0).output[0]
        back = helper.make_node("Transpose", [moved], ["back"], perm=[0, 3, 1, 2])
        for node in proto.graph.node:
            node.input[:] = ["back" if name == moved else name for name in node.input]
        place = list(proto.graph.node).index(_node(proto, "Transpose", 0))
        proto.graph.node.insert(place + 1, back)
        setting("BatchNormalization", 0, epsilon=1e-2)(proto)

    found = exported("residual").against(tmp_path, fault)
    assert found.first is not None, found.note
    assert (found.first.module, found.first.operator) == ("blocks.0.norm", "BatchNormalization")


@pytest.mark.parametrize("name", ["cnn", "transformer", "recurrent", "several", "choosing", "program", "residual",
                                  "keras_two", "keras_cnn"])  # fmt: skip
def test_a_clean_file_differs_nowhere(exported: Callable[[str], Exported], tmp_path: Path, name: str) -> None:
    found = exported(name).against(tmp_path)
    assert (found.first, found.worst, found.note) == (None, (), "")
    assert all(item.margin <= 1 for item in found.drift)
    assert found.compared > 0


# --- other sources, and what cannot be said -----------------------------------------------------------------------


def chain(blocks: int, faulty: int | None = None) -> bytes:
    """An ONNX file of two operators for each block, named after it."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for block in range(blocks):
        array = generator.normal(size=(8, 8)).astype(np.float32) / 2
        if block == faulty:
            array[3, 3] += 0.1
        weights.append(numpy_helper.from_array(array, f"w{block}"))
        value = "x" if block == 0 else f"h{block - 1}"
        after = "y" if block == blocks - 1 else f"h{block}"
        nodes.append(helper.make_node("MatMul", [value, f"w{block}"], [f"m{block}"], name=f"block{block}.product"))
        nodes.append(helper.make_node("Tanh", [f"m{block}"], [after], name=f"block{block}.tanh"))
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 8]) for name in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_one_of_a_thousand_operators_is_found_in_a_file_that_was_an_onnx_file_before(gate: Gate) -> None:
    x, y = (TensorSpec(name, DType.FLOAT32, ("batch", 8)) for name in "xy")
    columns = {"x": rows(20, 8), "label": np.zeros((20, 8), dtype=np.float32)}
    report = gate(chain(500), chain(500, faulty=490), columns, inputs=(x,), outputs=(y,))
    assert codes(report) == ["PARITY_TENSOR_DIFFERS"]
    found = report.divergence
    assert found is not None
    assert found.first is not None
    assert (found.first.module, found.first.node, found.total) == ("block490.product", "m490", 1000)
    assert found.compared == 1000
    assert len(found.drift) <= 250
    message = report.findings[0].message
    assert "first at block490.product (MatMul)" in message
    assert report.findings[0].evidence["first_value"] == "m490"


def test_a_report_that_passes_has_no_divergence(gate: Gate) -> None:
    x, y = (TensorSpec(name, DType.FLOAT32, ("batch", 8)) for name in "xy")
    columns = {"x": rows(20, 8), "label": np.zeros((20, 8), dtype=np.float32)}
    report = gate(chain(3), chain(3), columns, inputs=(x,), outputs=(y,))
    assert (codes(report), report.divergence) == ([], None)


def test_a_place_that_cannot_be_looked_for_leaves_the_verdict_as_it_is(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.parity.divergence.onnx_values._AT_MOST_S", 0.0)
    x, y = (TensorSpec(name, DType.FLOAT32, ("batch", 8)) for name in "xy")
    columns = {"x": rows(20, 8), "label": np.zeros((20, 8), dtype=np.float32)}
    report = gate(chain(3), chain(3, faulty=1), columns, inputs=(x,), outputs=(y,))
    assert codes(report) == ["PARITY_TENSOR_DIFFERS"]
    assert report.divergence is not None
    assert report.divergence.first is None
    assert "did not answer within 0 s" in report.divergence.note


def test_a_difference_that_is_gone_when_it_is_looked_at_is_said(
    exported: Callable[[str], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel into which onnxruntime joins operators goes wrong: with inner outputs it does not join them."""
    honest = AskedValues.plain

    def wrong(asked: AskedValues) -> dict[str, NDArray[Any]]:
        return {name: array + np.float32(0.1) for name, array in honest(asked).items()}

    monkeypatch.setattr(AskedValues, "plain", wrong)
    found = exported("program").against(tmp_path)
    assert found.first is None
    assert "the difference of y is gone when inner values are looked at" in found.note


def test_a_source_without_inner_values_claims_nothing(tmp_path: Path) -> None:
    found = ZOO["classifier"](tmp_path)
    exporter_of("onnx", "sklearn")(Source(found, found.path), found.signature, tmp_path)
    inputs = evaluation(found.signature, rows=4)
    assert locate(found, "skops", found.signature, tmp_path / "model.onnx", inputs, tmp_path / "work") is None


def test_files_with_other_names_are_paired_as_far_as_their_modules_go(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    """As an older exporter of PyTorch names values, and keeps no other trace of the source."""

    def renamed(proto: onnx.ModelProto) -> None:
        setting("LayerNormalization", 2, epsilon=1e-3)(proto)
        names = {item.name for item in proto.graph.output}
        new: dict[str, str] = {}
        for node in proto.graph.node:
            noted = {entry.key: entry.value for entry in node.metadata_props}
            scopes = ast.literal_eval(noted["pkg.torch.onnx.name_scopes"])
            module = scopes[-2].split(".") if len(scopes) > 1 else []
            del node.metadata_props[:]
            for value in node.output:
                if value not in names:
                    new[value] = "/" + "/".join([*module, f"{node.op_type}_{len(new)}_output_0"])
            node.output[:] = [new.get(value, value) for value in node.output]
            node.input[:] = [new.get(value, value) for value in node.input]

    found = exported("transformer").against(tmp_path, renamed)
    assert found.first is not None, found.note
    assert found.first.module == "encoder.layers.1.norm1"
    assert "epsilon is 0.001" in found.explanation
    assert 0 < found.compared < found.total


def test_in_reduced_precision_the_layer_that_stands_out_is_named(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    def halves(proto: onnx.ModelProto) -> None:
        """Every weight rounded to float16, and one of them cut to a few steps."""
        for item in proto.graph.initializer:
            if item.data_type == onnx.TensorProto.FLOAT:
                array = numpy_helper.to_array(item).astype(np.float16).astype(np.float32)
                item.CopyFrom(numpy_helper.from_array(array, item.name))
        replaced("Gemm", -1, 1, lambda array: np.round(array * 4) / 4)(proto)

    found = exported("transformer").against(tmp_path, halves, precision="float16")
    assert found.first is not None
    assert found.first.module == "head"
    assert len(found.worst) > 1


PRECISIONS = {"onnx-int8": "int8", "onnx-fp16": "float16"}


def times(factor: float, name: str) -> Fault:
    """A weight, or the scale of one, is so many times what it was."""

    def fault(proto: onnx.ModelProto) -> None:
        held = next(item for item in proto.graph.initializer if item.name == name)
        array = numpy_helper.to_array(held)
        held.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), name))

    return fault


def taken_back_by_another_step(proto: onnx.ModelProto) -> None:
    """The DequantizeLinear in front of the last product has a scale of its own."""
    head = _node(proto, "Gemm", -1)
    back = next(node for node in proto.graph.node if node.output[0] == head.input[0])
    replaced_input = next(item for item in proto.graph.initializer if item.name == back.input[1])
    proto.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(replaced_input) * 2, "own"))
    back.input[1] = "own"


@pytest.mark.parametrize("format", PRECISIONS)
def test_of_a_faithful_export_in_reduced_precision_no_layer_is_named_and_the_note_says_why(
    exported: Callable[..., Exported], tmp_path: Path, format: str
) -> None:
    found = exported("cnn", format).against(tmp_path, precision=PRECISIONS[format])
    assert found.first is None
    assert f"no layer is named: in {PRECISIONS[format]}" in found.note
    assert found.worst != ()


@pytest.mark.parametrize(
    ("format", "fault", "module", "why"),
    [
        ("onnx-int8", times(2, "0.weight_scale"), "0", "2 times the convolution's in every channel"),
        ("onnx-int8", times(2, "6.weight_scale"), "6", "is not the module's weight"),
        ("onnx-int8", taken_back_by_another_step, "6", "and takes it back by one of"),
        ("onnx-fp16", times(1.1, "0.weight"), "0", "1.1 times the convolution's in every channel"),
        ("onnx-fp16", times(1.1, "6.weight"), "6", "is not the module's weight"),
    ],
)
def test_the_layer_of_a_wrong_scale_in_reduced_precision_is_named(
    exported: Callable[..., Exported], tmp_path: Path, format: str, fault: Fault, module: str, why: str
) -> None:
    found = exported("cnn", format).against(tmp_path, fault, PRECISIONS[format])
    assert found.first is not None, found.note
    assert found.first.module == module
    assert why in found.explanation
