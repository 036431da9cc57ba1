"""Train a Keras regression on scikit-learn's diabetes data (442 real patients, ten measurements in their own units)."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training import Trained, in_order_seen, train_once, without_times  # noqa: E402

SEED, EPOCHS, BATCH, LEARNING_RATE = 7, 40, 32, 1e-2


def train(folder: Path) -> Trained:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    tf.config.threading.set_intra_op_parallelism_threads(1)  # sums are taken in one order, whatever the machine
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()

    data = load_diabetes(scaled=False)
    features, target = data.data.astype(np.float32), data.target.astype(np.float32)[:, None]
    split = train_test_split(features, target, test_size=0.3, random_state=SEED)
    train_features, eval_features, train_target, eval_target = split

    normalise = keras.layers.Normalization(name="normalise")
    normalise.adapt(train_features)
    measurements = keras.Input((features.shape[1],), name="features")
    hidden = keras.layers.Dense(16, activation="gelu", name="hidden")(normalise(measurements))
    hidden = keras.layers.Dropout(0.1, name="dropout")(hidden)
    progression = keras.layers.Dense(
        1, bias_initializer=keras.initializers.Constant(float(train_target.mean())), name="progression"
    )(hidden)
    model = keras.Model(measurements, progression, name="diabetes")
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "mse")
    model.fit(train_features, train_target, epochs=EPOCHS, batch_size=BATCH, verbose=0)

    answers = model.predict(eval_features, verbose=0)
    keras.Model(measurements, progression, name="diabetes").save(folder / "diabetes.keras")  # without the optimizer
    without_times(folder / "diabetes.keras", _without_traces)
    np.savez(folder / "eval.npz", features=eval_features, target=eval_target)
    return Trained(
        artifact="diabetes.keras",
        evaluation="eval.npz",
        data="load_diabetes",
        train_rows=len(train_target),
        eval_rows=len(eval_target),
        params={"seed": SEED, "epochs": EPOCHS, "batch": BATCH, "learning_rate": LEARNING_RATE},
        metrics={"rmse": float(np.sqrt(np.mean((answers - eval_target) ** 2)))},
    )


def _without_traces(name: str, content: bytes) -> tuple[str, bytes]:
    """Keras notes the date, and objects' addresses in memory; the same training should give the same bytes."""
    if name == "metadata.json":
        content = json.dumps({**json.loads(content), "date_saved": "1980-01-01@00:00:00"}).encode()
    if name == "config.json":
        content = re.sub(rb'("shared_object_id": )(\d+)()', in_order_seen(), content)
    return name, content


if __name__ == "__main__":
    train_once(HERE, libraries=("keras", "tensorflow-cpu"), train=train)
