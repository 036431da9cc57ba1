"""Models that cannot be exported: the failure names the module or operator, the dimension, and who must act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Owner
from tasks.export.conversion import ExportFailure, Source
from tasks.export.trial import run_once
from tasks.export.worker import exporter_of
from tests.integration.export.zoo import BATCH, F32, I64, LENGTH, Model, signature, torch_model

ONE = signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch", 4)})
SERIES = signature({"x": (F32, "batch", "length", 4)}, {"y": (F32, "batch", "length", 4)}, length=LENGTH)
SQUARE = signature({"x": (F32, "batch", 4, 4)}, {"y": (F32, "batch", 4)})


def failure(model: Model, target: str, folder: Path) -> ExportFailure:
    """What exporting, and then trying the file, says."""
    folder.mkdir(exist_ok=True)
    source = Source(model, model.path)
    with pytest.raises(ExportFailure) as raised:
        run_once(
            source,
            model.signature,
            {"onnx": "onnx", "savedmodel": "tensorflow", "torch-export": "torch"}[target],
            folder,
            exporter_of(target, model.framework)(source, model.signature, folder),
        )
    return raised.value


# --- PyTorch ------------------------------------------------------------------------------------------------------


def nested(inner: Any) -> Any:
    """A model in which `inner` is the module `body.1`."""
    from torch import nn

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), inner)

        def forward(self, x: Any) -> Any:
            return self.body(x)

    return Outer()


@pytest.mark.parametrize("target", ["onnx", "savedmodel", "torch-export"])
def test_a_decision_on_values_names_the_module_and_its_line(target: str, tmp_path: Path) -> None:
    from torch import nn

    class Gate(nn.Module):
        def forward(self, x: Any) -> Any:
            if x.sum() > 0:
                return x * 2
            return x

    found = failure(torch_model(nested(Gate()), ONE), target, tmp_path)
    assert found.code == "EXPORT_DATA_DEPENDENT_CONTROL_FLOW"
    assert found.owner is Owner.MODEL
    assert found.evidence["module"] == "body.1"
    assert "if x.sum() > 0" in found.message
    assert "torch.cond" in found.advice
    assert not found.other_formats


def test_a_length_taken_as_a_number_names_the_dimension_and_the_module(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.zeros(3, 4))

        def forward(self, x: Any) -> Any:
            length = int(x.shape[1])
            return x + self.places if length == 3 else x

    found = failure(torch_model(nested(Positions()), SERIES), "onnx", tmp_path)
    assert found.code == "EXPORT_DIMENSION_FROZEN"
    assert (found.evidence["dimension"], found.evidence["module"]) == ("length", "body.1")
    assert "length = int(x.shape[1])" in found.message


def test_a_constant_of_the_batch_size_names_the_dimension_and_the_module(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Shift(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + torch.ones(3, 1)

    found = failure(torch_model(nested(Shift()), ONE), "torch-export", tmp_path)
    assert found.code == "EXPORT_DIMENSION_FROZEN"
    assert (found.evidence["dimension"], found.evidence["frozen_at"], found.evidence["module"]) == (
        "batch",
        3,
        "body.1",
    )


def test_a_model_for_even_batches_says_what_it_needs(tmp_path: Path) -> None:
    from torch import nn

    class Pairs(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1 if x.shape[0] % 2 else x

    found = failure(torch_model(nested(Pairs()), ONE), "onnx", tmp_path)
    assert found.code == "EXPORT_DIMENSION_RESTRICTED"
    assert (found.evidence["dimension"], found.evidence["module"]) == ("batch", "body.1")
    assert "batch % 2" in found.message


def test_leaving_pytorch_for_numpy_names_the_module(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Outside(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.from_numpy(x.numpy() * 2)

    found = failure(torch_model(nested(Outside()), ONE), "torch-export", tmp_path)
    assert found.code == "EXPORT_UNSUPPORTED_OPERATOR"
    assert found.evidence["module"] == "body.1"


def spectrum() -> Model:
    import torch
    from torch import nn

    class Spectrum(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.eigvalsh(x @ x.transpose(1, 2))

    return torch_model(nested(Spectrum()), SQUARE)


@pytest.mark.parametrize("target", ["onnx", "savedmodel"])
def test_an_operator_that_the_format_lacks_is_named_with_its_module(target: str, tmp_path: Path) -> None:
    found = failure(spectrum(), target, tmp_path)
    assert found.code == "EXPORT_UNSUPPORTED_OPERATOR"
    assert (found.evidence["operator"], found.evidence["module"]) == ("aten._linalg_eigh", "body.1")
    assert found.other_formats


@pytest.fixture
def custom_operator() -> Any:
    import torch

    with torch.library._scoped_library("slipway_tests", "FRAGMENT") as library:
        library.define("twist(Tensor x) -> Tensor")
        library.impl("twist", lambda x: x.flip(-1).clone(), "CompositeExplicitAutograd")
        library.impl("twist", torch.empty_like, "Meta")
        yield torch.ops.slipway_tests.twist


@pytest.mark.parametrize("target", ["onnx", "savedmodel", "torch-export"])
def test_a_custom_operator_is_named_with_its_module(target: str, tmp_path: Path, custom_operator: Any) -> None:
    from torch import nn

    class Twist(nn.Module):
        def forward(self, x: Any) -> Any:
            return custom_operator(x)

    found = failure(torch_model(nested(Twist()), ONE), target, tmp_path)
    assert found.code == "EXPORT_UNSUPPORTED_OPERATOR"
    assert found.evidence["module"] == "body.1"
    assert "slipway_tests" in str(found.evidence["operator"])


def test_an_error_of_the_models_own_code_names_the_module(tmp_path: Path) -> None:
    from torch import nn

    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            raise KeyError("temperature")

    found = failure(torch_model(nested(Broken()), ONE), "onnx", tmp_path)
    assert (found.code, found.evidence["module"]) == ("EXPORT_FAILED", "body.1")
    assert "temperature" in found.message


@pytest.mark.parametrize(
    ("declared", "difference"),
    [
        (signature({"x": (F32, "batch", 4)}, {"y": (I64, "batch", 4)}), "'y' is float32"),
        (signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch", 5)}), "has 4 in dimension 1"),
        (signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch")}), "has 2 dimensions"),
        (signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch", 4), "z": (F32, "batch")}), "gives 1 outputs"),
    ],
)
def test_outputs_that_the_spec_does_not_declare_are_a_mismatch(declared: Any, difference: str, tmp_path: Path) -> None:
    from torch import nn

    found = failure(torch_model(nn.Linear(4, 4), declared), "torch-export", tmp_path)
    assert found.code == "EXPORT_SIGNATURE_MISMATCH"
    assert difference in found.message


def test_an_archive_that_was_exported_for_a_narrower_range_is_refused(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(4, 4)
    dims = ({0: torch.export.Dim("n", min=1, max=8)},)
    model = torch_model(module, ONE)
    model.native = torch.export.export(module, (torch.zeros(3, 4),), dynamic_shapes=dims)
    found = failure(model, "onnx", tmp_path)
    assert (found.code, found.evidence["dimension"]) == ("EXPORT_DIMENSION_RESTRICTED", "batch")


def test_an_archive_with_a_frozen_batch_is_refused(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(4, 4)
    model = torch_model(module, ONE)
    model.native = torch.export.export(module, (torch.zeros(3, 4),))
    found = failure(model, "torch-export", tmp_path)
    assert (found.code, found.evidence["frozen_at"]) == ("EXPORT_DIMENSION_FROZEN", 3)


# --- Keras and TensorFlow -----------------------------------------------------------------------------------------


def keras_model(layer: Any, described: Any) -> Model:
    import keras

    shape = [size if isinstance(size, int) else None for size in described.inputs[0].shape[1:]]
    entry = keras.Input(shape, name="x")
    model = keras.Model(entry, layer(entry))
    return Model("keras", model, described, lambda arrays: model(arrays[0], training=False))


def test_a_keras_layer_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    class Spectrum(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.linalg.svd(x, compute_uv=False)

    found = failure(keras_model(Spectrum(name="spectrum"), SQUARE), "onnx", tmp_path)
    assert found.code == "EXPORT_UNSUPPORTED_OPERATOR"
    assert (found.evidence["operator"], found.evidence["module"]) == ("Svd", "spectrum")
    assert found.evidence["module_class"] == "Spectrum"


@pytest.mark.parametrize("target", ["onnx", "savedmodel"])
def test_a_keras_layer_that_freezes_the_batch_is_no_export(target: str, tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    class Frozen(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.reshape(tf.reshape(x, [3, 2, 2]), [-1, 4])

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    found = failure(keras_model(Frozen(name="frozen"), ONE), target, tmp_path)
    assert (found.code, found.evidence["dimension"]) == ("EXPORT_DIMENSION_FROZEN", "batch")


def test_a_savedmodel_with_a_frozen_batch_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(lambda x: {"y": x * 2}, input_signature=[tf.TensorSpec([1, 4], tf.float32, "x")])
    path = tmp_path / "given"
    tf.saved_model.save(module, str(path), signatures=module.serve)
    model = Model("tensorflow", tf.saved_model.load(str(path)), ONE, lambda arrays: None, path)
    found = failure(model, "savedmodel", tmp_path / "out")
    assert (found.code, found.evidence["frozen_at"]) == ("EXPORT_DIMENSION_FROZEN", 1)


# --- scikit-learn and ONNX ----------------------------------------------------------------------------------------


def test_a_step_that_skl2onnx_lacks_is_named(tmp_path: Path) -> None:
    import numpy as np
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import SplineTransformer

    pipeline = Pipeline([("curves", SplineTransformer()), ("fit", LinearRegression())])
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    pipeline.fit(features, features.sum(1))
    described = signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch")})
    found = failure(Model("sklearn", pipeline, described, lambda arrays: pipeline.predict(arrays[0])), "onnx", tmp_path)
    assert found.code == "EXPORT_UNSUPPORTED_OPERATOR"
    assert (found.evidence["module"], found.evidence["operator"]) == ("curves", "SplineTransformer")


def onnx_model(path: Path, shape: list[Any], opset: int = 17) -> Model:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "given", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    file = path / "given.onnx"
    file.write_bytes(model.SerializeToString())
    return Model("onnx", file, ONE, lambda arrays: None, file)


def test_an_onnx_file_with_a_frozen_batch_is_refused(tmp_path: Path) -> None:
    found = failure(onnx_model(tmp_path, [1, 4]), "onnx", tmp_path / "out")
    assert (found.code, found.evidence["frozen_at"]) == ("EXPORT_DIMENSION_FROZEN", 1)


def test_an_onnx_file_that_is_too_new_for_the_runtime_is_refused(tmp_path: Path) -> None:
    from tasks.export.onnx_limits import onnx_limits

    newer = onnx_limits().opset + 1
    found = failure(onnx_model(tmp_path, ["batch", 4], opset=newer), "onnx", tmp_path / "out")
    assert (found.code, found.evidence["found"]) == ("EXPORT_OPSET_TOO_NEW", newer)


def test_an_onnx_file_with_other_names_for_its_dimensions_gets_the_specs(tmp_path: Path) -> None:
    import onnx

    model = onnx_model(tmp_path, ["N", 4])
    (tmp_path / "out").mkdir()
    conversion = exporter_of("onnx", "onnx")(Source(model, model.path), ONE, tmp_path / "out")
    graph = onnx.load(tmp_path / "out" / conversion.root).graph
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)] == ["batch"] * 2


def test_an_onnx_file_that_the_serving_runtime_cannot_run_is_no_export(tmp_path: Path) -> None:
    import onnx

    model = onnx_model(tmp_path, ["batch", 4])
    graph = onnx.load(model.path)
    graph.graph.node[0].domain, graph.graph.node[0].op_type = "com.microsoft", "NoSuchOperator"
    graph.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(graph, model.path)
    found = failure(model, "onnx", tmp_path / "out")
    assert (found.code, found.owner) == ("EXPORT_DOES_NOT_RUN", Owner.PLATFORM)
    assert "NoSuchOperator" in found.message


def test_an_onnx_file_with_a_plugin_s_operators_is_no_export(tmp_path: Path) -> None:
    import onnx

    model = onnx_model(tmp_path, ["batch", 4])
    graph = onnx.load(model.path)
    graph.graph.node[0].domain = "some.plugin"
    graph.opset_import.append(onnx.helper.make_opsetid("some.plugin", 1))
    onnx.save(graph, model.path)
    found = failure(model, "onnx", tmp_path / "out")
    assert (found.code, found.owner) == ("EXPORT_UNKNOWN_DOMAIN", Owner.MODEL)
    assert "some.plugin." in found.message


def test_the_range_of_the_zoo_is_what_the_sizes_above_assume() -> None:
    assert (BATCH.min, BATCH.max, LENGTH.max) == (1, 16, 12)
