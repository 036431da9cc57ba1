"""What every exporter promises, for every model of the zoo: names, open dimensions, the source's answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import serving.runners
from tasks.export.formats import formats_of
from tasks.export.sizes import sample_inputs, shape_of
from tests.integration.export.conftest import Exports

FRAMEWORKS = {
    "cnn": "pytorch",
    "transformer": "pytorch",
    "recurrent": "pytorch",
    "several": "pytorch",
    "choosing": "pytorch",
    "program": "pytorch",
    "keras_two": "keras",
    "keras_cnn": "keras",
    "savedmodel": "tensorflow",
    "classifier": "sklearn",
    "columns": "sklearn",
    "onnx_file": "onnx",
}
#: Models that a format cannot express: loops and recurrent layers in float16 (test_reduced.py: how they are refused).
REFUSED = {("several", "onnx-fp16"), ("recurrent", "onnx-fp16"), ("keras_two", "onnx-fp16")}
PAIRS = [
    (name, target)
    for name, framework in FRAMEWORKS.items()
    for target in formats_of(framework)
    if (name, target) not in REFUSED
]
#: How far from the source answers may lie here, as a share of the largest: enough to know the model again. How far a
#: format may lie from its source is measured by parity (tests/parity/test_reduced.py).
NEAR = {"onnx-int8": 0.15, "onnx-fp16": 0.005}
every_pair = pytest.mark.parametrize(("name", "format"), PAIRS)


@every_pair
def test_answers_as_the_source_does_at_every_size(exported: Exports, name: str, format: str) -> None:
    folder, conversion = exported(name, format)
    model = exported.model(name)
    runner = serving.runners.load(exported.runtime(format), folder / conversion.root, model.signature)
    for sizes in ({"batch": batch, "length": length} for batch, length in ((1, 1), (2, 5), (7, 12), (16, 5))):
        inputs = sample_inputs(model.signature, sizes)
        expected, found = model.predict(inputs), runner.run(inputs)
        assert list(found) == [tensor.name for tensor in model.signature.outputs]
        for tensor in model.signature.outputs:
            assert found[tensor.name].shape == expected[tensor.name].shape == shape_of(tensor, sizes)
            assert found[tensor.name].dtype == tensor.dtype.numpy
            near = NEAR.get(format, 0.0) * float(np.abs(expected[tensor.name]).max(initial=0.0))
            np.testing.assert_allclose(found[tensor.name], expected[tensor.name], atol=2e-6 + near, rtol=1e-5)
    runner.close()


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *((name, target) for name in ("cnn", "transformer", "recurrent") for target in ("onnx", "torch-export")),
        ("cnn", "onnx-int8"),
        ("cnn", "onnx-fp16"),
        ("classifier", "onnx"),
        ("columns", "onnx"),
    ],
)
def test_gives_the_same_bytes_again(exported: Exports, name: str, format: str) -> None:
    """TensorFlow numbers its functions over a process's life: test_stage.py exports through it in fresh ones."""
    (first, _), (second, _) = exported(name, format), exported.again(name, format)
    assert digests(first) == digests(second)


@every_pair
def test_names_no_path_of_this_machine(exported: Exports, name: str, format: str) -> None:
    folder, _ = exported(name, format)
    local = [str(Path(__file__).parents[3]).encode(), str(folder.parent).encode(), b"site-packages"]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [place for place in local if place in content]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_onnx_files_name_every_open_dimension_as_the_spec_does(exported: Exports, name: str) -> None:
    import onnx

    folder, conversion = exported(name, "onnx")
    model = onnx.load(folder / conversion.root)
    signature = exported.model(name).signature
    for values, tensors in ((model.graph.input, signature.inputs), (model.graph.output, signature.outputs)):
        shapes = {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in values
        }
        assert list(shapes) == [tensor.name for tensor in tensors]
        assert shapes == {tensor.name: tensor.shape for tensor in tensors}
    assert conversion.ir_version == model.ir_version
    assert conversion.opset == next(entry.version for entry in model.opset_import if not entry.domain)


def test_onnx_nodes_keep_the_module_that_they_came_from(exported: Exports) -> None:
    import onnx

    folder, conversion = exported("transformer", "onnx")
    scopes = {
        entry.value
        for node in onnx.load(folder / conversion.root).graph.node
        for entry in node.metadata_props
        if entry.key == "pkg.torch.onnx.name_scopes"
    }
    assert any("encoder.layers.1.norm1" in scope for scope in scopes)


def test_recurrent_layers_are_single_operators(exported: Exports) -> None:
    import onnx

    folder, conversion = exported("recurrent", "onnx")
    operators = [node.op_type for node in onnx.load(folder / conversion.root).graph.node]
    assert (operators.count("LSTM"), operators.count("GRU"), operators.count("Loop")) == (2, 1, 0)


def test_onnx_that_fits_stays_as_it_came(exported: Exports) -> None:
    folder, conversion = exported("onnx_file", "onnx")
    assert (folder / conversion.root).read_bytes() == exported.model("onnx_file").path.read_bytes()


def test_weights_above_the_limit_lie_beside_the_graph(exported: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.export.torch_to_onnx.EXTERNAL_OVER_BYTES", 1000)
    folder, conversion = exported.again("cnn", "onnx")
    model = exported.model("cnn")
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    inputs = sample_inputs(model.signature, {"batch": 2})
    runner = serving.runners.load("onnx", folder / conversion.root, model.signature)
    found, expected = runner.run(inputs)["probabilities"], model.predict(inputs)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


def test_importing_torchax_leaves_torch_as_it_was() -> None:
    import torch

    from tasks.export.torchax_import import import_torchax

    fast = torch.backends.mha.get_fastpath_enabled()
    import_torchax()
    with pytest.raises(AttributeError):
        _ = torch.ops.aten.add.no_such_overload
    assert torch._C._get_privateuse1_backend_name() == "privateuseone"
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_keeping_recurrent_layers_whole_leaves_torch_as_it_was() -> None:
    import torch

    from tasks.export.torch_recurrent import recurrent_layers_whole, recurrent_operators

    def state() -> list[object]:
        return [(dict(op.py_kernels), torch._decomp.decomposition_table.get(op)) for op in recurrent_operators()]

    before = state()
    with recurrent_layers_whole():
        assert state() != before
    assert state() == before


def test_a_savedmodel_that_fits_stays_as_it_came(exported: Exports) -> None:
    folder, _ = exported("savedmodel", "savedmodel")
    assert digests(folder) == digests(exported.model("savedmodel").path)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
