"""Small models of every framework that must export in all their formats, with dynamic batch and, where there are
sequences, dynamic length. Weights are random and seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.contract import DimRange, DType, Signature, TensorSpec

BATCH, LENGTH = DimRange(1, 16), DimRange(1, 12)
F32, I64 = DType.FLOAT32, DType.INT64


@dataclass
class Model:
    """A source model as ingest would load it, with its signature. `path` is its file or folder."""

    framework: str
    native: Any
    signature: Signature
    ask: Callable[[list[np.ndarray]], Any]
    path: Path = Path()

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = self.ask([inputs[tensor.name] for tensor in self.signature.inputs])
        names = [tensor.name for tensor in self.signature.outputs]
        if isinstance(answer, Mapping):
            return {name: np.asarray(answer[name]) for name in names}
        values = answer if isinstance(answer, list | tuple) else [answer]
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def signature(
    inputs: dict[str, tuple], outputs: dict[str, tuple], ranges: Mapping[str, tuple] | None = None, **dynamic: DimRange
) -> Signature:
    """Tensors as name → (dtype, *shape); ranges of inputs by name."""
    declared = ranges or {}

    def tensors(described: dict[str, tuple]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, dtype, tuple(shape), declared.get(name)) for name, (dtype, *shape) in described.items()
        )

    return Signature(tensors(inputs), tensors(outputs), {"batch": BATCH, **dynamic})


# --- PyTorch ------------------------------------------------------------------------------------------------------


def torch_model(module: Any, described: Signature) -> Model:
    import torch

    module.eval().requires_grad_(requires_grad=False)

    def ask(arrays: list[np.ndarray]) -> Any:
        with torch.no_grad():
            return module(*(torch.from_numpy(array) for array in arrays))

    return Model("pytorch", module, described, ask)


def cnn(_: Path) -> Model:
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.LayerNorm([6, 4, 4]),
        nn.Flatten(),
        nn.Linear(96, 5),
        nn.Softmax(dim=1),
    )
    module[1].running_mean.uniform_(-1, 1)
    return torch_model(module, signature({"image": (F32, "batch", 3, 8, 8)}, {"probabilities": (F32, "batch", 5)}))


def transformer(_: Path) -> Model:
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(20, 16), nn.Embedding(12, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(16, 3)

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            states = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
            states = self.encoder(states)
            return self.head(states.mean(1)), states

    torch.manual_seed(0)
    return torch_model(
        Encoder(),
        signature(
            {"tokens": (I64, "batch", "length")},
            {"logits": (F32, "batch", 3), "states": (F32, "batch", "length", 16)},
            {"tokens": (0, 19)},
            length=LENGTH,
        ),
    )


def recurrent(_: Path) -> Model:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(4, 8, num_layers=2, batch_first=True, bidirectional=True)
            self.gate = nn.GRU(16, 6, batch_first=True)
            self.head = nn.Linear(6, 2)

        def forward(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            states, _ = self.memory(series)
            states, last = self.gate(states)
            return self.head(states), last[-1]

    torch.manual_seed(0)
    return torch_model(
        Recurrent(),
        signature(
            {"series": (F32, "batch", "length", 4)},
            {"forecast": (F32, "batch", "length", 2), "state": (F32, "batch", 6)},
            length=LENGTH,
        ),
    )


def several(_: Path) -> Model:
    """Two inputs of different dtypes; two outputs in a mapping that has them in another order than the signature."""
    import torch
    from torch import nn

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.bag = nn.Linear(3, 4), nn.EmbeddingBag(10, 4, mode="mean")

        def forward(self, measures: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"doubled": measures * 2, "score": self.dense(measures) + self.bag(ids)}

    torch.manual_seed(0)
    return torch_model(
        Several(),
        signature(
            {"measures": (F32, "batch", 3), "ids": (I64, "batch", 5)},
            {"score": (F32, "batch", 4), "doubled": (F32, "batch", 3)},
            {"ids": (0, 9)},
        ),
    )


def choosing(_: Path) -> Model:
    """A decision on values as `torch.cond`; ids through `one_hot`, which asserts; `topk` with its named tuple."""
    import torch
    from torch import nn

    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 5))

        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = nn.functional.one_hot(ids, 6).float() @ self.table
            scores = torch.cond(scores.sum() > 0, lambda x: x * 2, lambda x: x - 1, (scores,))
            return torch.topk(scores, 3, dim=1)

    torch.manual_seed(0)
    return torch_model(
        Choosing(), signature({"ids": (I64, "batch")}, {"best": (F32, "batch", 3), "which": (I64, "batch", 3)})
    )


def program(_: Path) -> Model:
    """A torch.export archive rather than a module."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    dims = ({0: torch.export.Dim("n", min=1, max=64)},)
    exported = torch.export.export(module, (torch.zeros(3, 4),), dynamic_shapes=dims)
    model = torch_model(module, signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch", 2)}))
    model.native = exported
    return model


# --- Keras and TensorFlow -----------------------------------------------------------------------------------------


def keras_two(_: Path) -> Model:
    """Two inputs and two outputs; a sequence of any length; adapted normalisation, exact GELU, LayerNorm, LSTM."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    left, right = keras.Input((4,), name="left"), keras.Input((None, 3), name="right")
    normalise = layers.Normalization(name="normalise")
    normalise.adapt(np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32))
    joined = layers.Concatenate()(
        [layers.Dense(4, activation="gelu")(normalise(left)), layers.LSTM(5, name="memory")(right)]
    )
    joined = layers.LayerNormalization()(joined)
    score, value = layers.Dense(2, name="score")(joined), layers.Dense(1, name="value")(joined)
    model = keras.Model([left, right], [score, value])
    described = signature(
        {"left": (F32, "batch", 4), "right": (F32, "batch", "length", 3)},
        {"score": (F32, "batch", 2), "value": (F32, "batch", 1)},
        length=LENGTH,
    )
    return Model("keras", model, described, lambda arrays: model(arrays, training=False))


def keras_cnn(_: Path) -> Model:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="whatever"),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    described = signature({"image": (F32, "batch", 8, 8, 3)}, {"probabilities": (F32, "batch", 3)})
    return Model("keras", model, described, lambda arrays: model(arrays[0], training=False))


def savedmodel(folder: Path) -> Model:
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(tf.random.stateless_normal([4, 3], seed=[1, 2]))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None, 4], tf.float32, "series"),
                tf.TensorSpec([None], tf.int32, "shift"),
            ]
        )
        def serve(self, series: Any, shift: Any) -> dict[str, Any]:
            states = tf.nn.softmax(series @ self.weight)
            return {"states": states, "total": tf.reduce_sum(states, [1, 2]) + tf.cast(shift, tf.float32)}

    module = Module()
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    loaded = tf.saved_model.load(str(folder))
    described = signature(
        {"series": (F32, "batch", "length", 4), "shift": (DType.INT32, "batch")},
        {"total": (F32, "batch"), "states": (F32, "batch", "length", 3)},
        length=LENGTH,
    )
    return Model("tensorflow", loaded, described, lambda arrays: module.serve(*arrays), folder)


# --- scikit-learn and ONNX ----------------------------------------------------------------------------------------


def classifier(_: Path) -> Model:
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), RandomForestClassifier(5, max_depth=4, random_state=0))
    pipeline.fit(features.astype(np.float32), labels)
    described = signature(
        {"features": (F32, "batch", 4)}, {"probabilities": (F32, "batch", 3), "label": (I64, "batch")}
    )
    return Model(
        "sklearn",
        pipeline,
        described,
        lambda arrays: (pipeline.predict_proba(arrays[0]).astype(np.float32), pipeline.predict(arrays[0])),
    )


def columns(_: Path) -> Model:
    """A regressor over the columns of a data frame, one input each."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    frame, target = load_diabetes(return_X_y=True, as_frame=True)
    frame = frame[["age", "bmi"]].astype(np.float32)
    scale = ColumnTransformer([("first", StandardScaler(), ["age"]), ("second", MinMaxScaler(), ["bmi"])])
    pipeline = make_pipeline(scale, Ridge()).fit(frame, target)

    def ask(arrays: list[np.ndarray]) -> np.ndarray:
        return pipeline.predict(pd.DataFrame({"age": arrays[0], "bmi": arrays[1].reshape(-1)})).astype(np.float32)

    described = signature({"age": (F32, "batch"), "bmi": (F32, "batch", 1)}, {"progression": (F32, "batch")})
    return Model("sklearn", pipeline, described, ask)


def onnx_file(folder: Path) -> Model:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "given",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "given.onnx"
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    described = signature({"x": (F32, "batch", 4)}, {"y": (F32, "batch", 3)})
    return Model("onnx", path, described, lambda arrays: session.run(None, {"x": arrays[0]}), path)


ZOO: dict[str, Callable[[Path], Model]] = {
    function.__name__: function
    for function in (
        cnn,
        transformer,
        recurrent,
        several,
        choosing,
        program,
        keras_two,
        keras_cnn,
        savedmodel,
        classifier,
        columns,
        onnx_file,
    )
}
