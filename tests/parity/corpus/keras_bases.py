"""Keras sources of the corpus: the same kinds of layers as `torch_bases`, channels last."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers


def photos() -> Any:
    """Images → probabilities: rescaling by constants, convolutions, BatchNorm, GELU, a residual block, upsampling."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.0524, 0.0502, 0.0506], name="normalise")(image)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="stem")(x))
    x = layers.Activation("gelu", name="activation")(x)
    x = layers.Add(name="around")([x, layers.Conv2D(8, 3, padding="same", activation="relu", name="block")(x)])
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear", name="up")(x)
    x = layers.Flatten(name="flat")(layers.Conv2D(4, 3, strides=2, padding="same", name="mix")(x))
    x = layers.Dropout(0.2, name="drop")(x)
    probabilities = layers.Softmax(name="softmax")(layers.Dense(10, name="head")(x))
    return _moved(keras.Model(image, probabilities))


def texts() -> Any:
    """Token ids and a mask → logits and states: embeddings, attention, LayerNorm, GELU. Mask 1 is text, 0 padding."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int64", name="tokens")
    mask = keras.Input((None,), dtype="int64", name="mask")
    x = layers.Embedding(20, 16, name="words")(tokens)
    seen = keras.ops.cast(mask, "bool")
    around = layers.Attention(use_scale=False, name="attention")(
        [layers.Dense(16, name="query")(x), layers.Dense(16, name="value")(x)], mask=[None, seen]
    )
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(layers.Add(name="around")([x, around]))
    wide = layers.Activation("gelu", name="activation")(layers.Dense(32, name="wide")(x))
    x = layers.Add(name="past")([x, layers.Dense(16, name="narrow")(wide)])
    states = layers.LayerNormalization(epsilon=1e-5, name="last")(x)
    logits = layers.Dense(4, name="head")(states[:, 0])
    return _moved(keras.Model([tokens, mask], [logits, states]))


def rows() -> Any:
    """Two inputs of one shape, four outputs: scores in columns and flat, a class, and whole numbers without a sign."""
    keras.utils.set_random_seed(0)
    before, after = keras.Input((3,), name="before"), keras.Input((3,), name="after")
    x = layers.Concatenate()([layers.Dense(4, name="first")(before), layers.Dense(4, name="second")(after)])
    x = layers.Dropout(0.2, name="drop")(layers.BatchNormalization(name="norm")(x))
    factors = layers.Dense(3, name="head")(layers.Dense(16, activation="elu", name="hidden")(x))
    score = keras.ops.sum(factors, axis=1, keepdims=True)
    total = keras.ops.sum(keras.ops.tanh(factors), axis=1)
    label = keras.ops.cast(keras.ops.argmax(factors, axis=1), "int64")
    level = keras.ops.cast(keras.ops.clip(after * 20, 0, 255), "uint8")
    return _moved(keras.Model([before, after], [factors, score, total, label, level]))


def _moved(model: Any) -> Any:
    """Statistics and scales of normalisation layers, and biases, away from their initial values."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            continue
        for weight in layer.weights:
            if weight.path.endswith(("gamma", "moving_variance")):
                weight.assign(generator.uniform(0.5, 2, weight.shape))
            elif weight.path.endswith(("beta", "bias", "moving_mean")):
                weight.assign(generator.uniform(-0.5, 0.5, weight.shape))
    return model
