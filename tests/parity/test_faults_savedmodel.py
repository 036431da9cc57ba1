"""Faults in SavedModels, a real native crash and a real hang among them: a failed verdict, never a dead pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")

from serving.contract import DimRange, DType, Signature, TensorSpec  # noqa: E402
from tasks.ingest.savedmodel import SavedModel  # noqa: E402
from tasks.parity import exported  # noqa: E402
from tasks.parity.confrontation import Judgement  # noqa: E402
from tasks.parity.inputs import Batch, Part  # noqa: E402
from tests.parity.conftest import codes, confronted  # noqa: E402

SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", 4)),),
    (TensorSpec("y", DType.FLOAT32, ("batch", 3)),),
    {"batch": DimRange(1, 16)},
)
WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def right(x: Any) -> dict[str, Any]:
    return {"y": tf.nn.softmax(x @ WEIGHT)}


def saved(function: Callable[[Any], dict[str, Any]], folder: Path, rows: int | None = None) -> Path:
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[tf.TensorSpec([rows, 4], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    folder = saved(right, tmp_path_factory.mktemp("source") / "model")
    return SavedModel(tf.saved_model.load(str(folder)), SIGNATURE)


@pytest.fixture
def asked(source: SavedModel, tmp_path: Path) -> Callable[..., Judgement]:
    def ask(function: Callable[[Any], dict[str, Any]], rows: int | None = None) -> Judgement:
        path = saved(function, tmp_path / "export", rows)
        evaluation = {"x": np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)}
        return confronted(source, "savedmodel", SIGNATURE, evaluation, "tensorflow", path, tmp_path / "work")

    return ask


def test_the_same_function_passes(asked: Callable[..., Judgement]) -> None:
    assert codes(asked(right)) == []


def test_a_batch_dimension_frozen_at_one(asked: Callable[..., Judgement]) -> None:
    found = asked(
        right, rows=1
    )  # TensorFlow's own session runs it with any number of rows, TensorFlow Serving does not
    assert codes(found) == ["PARITY_BATCH_FROZEN"]


def test_a_softmax_that_was_lost(asked: Callable[..., Judgement]) -> None:
    assert codes(asked(lambda x: {"y": x @ WEIGHT})) == ["PARITY_TENSOR_DIFFERS"]


def test_a_native_crash_is_a_failed_verdict_that_names_the_signal(asked: Callable[..., Judgement]) -> None:
    def crash(x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="the kernel gave up")]):
            return {"y": tf.nn.softmax(tf.identity(x) @ WEIGHT)}

    found = asked(crash)
    assert codes(found) == ["PARITY_RUNTIME_CRASH"]
    assert "SIGABRT" in found.findings[0].message


def test_an_export_that_never_answers_is_stopped(tmp_path: Path) -> None:
    def endless(x: Any) -> dict[str, Any]:
        (last,) = tf.while_loop(lambda i: i < 2.0, lambda i: [i * tf.reduce_min(tf.ones_like(x))], [tf.constant(0.0)])
        return {"y": tf.nn.softmax(x @ WEIGHT) + last}

    path = saved(endless, tmp_path / "export")
    inputs = {"x": np.ones((2, 4), dtype=np.float32)}
    found = exported.ask(
        "tensorflow", path, SIGNATURE, [inputs], [Batch(0, 0, 2, 2, Part.WHOLE)], tmp_path / "work", 8.0
    )
    assert found.ended is not None
    assert found.ended.hung
    assert found.ended.batch == 0
