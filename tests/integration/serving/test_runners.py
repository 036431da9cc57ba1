"""Runners: the same answers from every runtime, whatever the batch and however many ask at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.contract import DimRange, DType, Signature, TensorSpec
from serving.runners import Runner, RunnerError, load
from tests.integration.tiny import IN, RUNTIMES, SIGNATURE, TinyModel, answer

Tiny = Callable[[str], TinyModel]
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def samples(rows: int) -> NDArray[Any]:
    return np.random.default_rng(rows).integers(-9, 10, (rows, IN)).astype(np.float32)


def opened(tiny: Tiny, runtime: str, signature: Signature = SIGNATURE) -> Runner:
    return load(runtime, tiny(runtime).path, signature)


def same(answers: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> bool:
    return answers.keys() == expected.keys() and all(
        answers[name].dtype == array.dtype and np.array_equal(answers[name], array) for name, array in expected.items()
    )


@runtimes
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_every_runtime_answers_every_batch_size(tiny: Tiny, runtime: str, rows: int) -> None:
    assert same(opened(tiny, runtime).run({"x": samples(rows)}), answer(samples(rows)))


@runtimes
def test_answers_do_not_depend_on_who_asks_at_the_same_time(tiny: Tiny, runtime: str) -> None:
    runner = load(runtime, tiny(runtime).path, SIGNATURE, threads=2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda rows: runner.run({"x": samples(rows)}), [1, 5, 64, 3] * 50))
    assert all(same(given, answer(samples(rows))) for given, rows in zip(answers, [1, 5, 64, 3] * 50, strict=True))


@pytest.mark.parametrize("runtime", ["onnx", "tensorflow"])  # an archive of torch has no names to choose by
def test_outputs_come_in_the_signatures_order_and_no_others(tiny: Tiny, runtime: str) -> None:
    signature = replace(SIGNATURE, outputs=SIGNATURE.outputs[::-1])
    assert list(opened(tiny, runtime, signature).run({"x": samples(2)})) == ["n", "y"]
    only = replace(SIGNATURE, outputs=SIGNATURE.outputs[1:])
    assert list(opened(tiny, runtime, only).run({"x": samples(2)})) == ["n"]


@pytest.mark.parametrize("runtime", ["onnx", "tensorflow"])
def test_a_model_without_the_signatures_names_is_refused(tiny: Tiny, runtime: str) -> None:
    inputs = replace(SIGNATURE, inputs=(TensorSpec("z", DType.FLOAT32, ("batch", IN)),))
    outputs = replace(SIGNATURE, outputs=(*SIGNATURE.outputs, TensorSpec("z", DType.FLOAT32, ("batch",))))
    with pytest.raises(RunnerError, match="the model has no input z; it has x"):
        opened(tiny, runtime, inputs)
    with pytest.raises(RunnerError, match="the model has no output z; it has n, y"):
        opened(tiny, runtime, outputs)


def test_a_program_with_another_number_of_inputs_or_outputs_is_refused(tiny: Tiny) -> None:
    with pytest.raises(RunnerError, match="the program takes 1 inputs, the signature has 2"):
        opened(tiny, "torch", replace(SIGNATURE, inputs=SIGNATURE.inputs * 2))
    runner = opened(tiny, "torch", replace(SIGNATURE, outputs=SIGNATURE.outputs[1:]))
    with pytest.raises(RunnerError, match="the program gives 2 outputs, the signature has 1"):
        runner.run({"x": samples(2)})


@runtimes
def test_inputs_that_the_model_cannot_take_are_an_error_and_the_next_ones_are_answered(
    tiny: Tiny, runtime: str
) -> None:
    runner = opened(tiny, runtime)
    with pytest.raises(RunnerError):
        runner.run({"x": np.zeros((2, IN + 1), np.float32)})
    with pytest.raises(RunnerError):
        runner.run({"x": np.zeros((2, IN))})
    assert same(runner.run({"x": samples(3)}), answer(samples(3)))


@runtimes
def test_a_damaged_model_is_an_error(tiny: Tiny, runtime: str, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny(runtime).folder, tmp_path / "model")
    path = next(path for path in copy.rglob("*") if path.suffix in (".onnx", ".pb", ".pt2") and path.name != "x")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    target = copy if runtime == "tensorflow" else path
    with pytest.raises(RunnerError):
        load(runtime, target, SIGNATURE)


@runtimes
def test_a_missing_model_is_an_error(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(RunnerError):
        load(runtime, tmp_path / "nothing", SIGNATURE)


def test_an_unknown_runtime_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="no runtime 'caffe'; there are onnx, tensorflow, torch"):
        load("caffe", tmp_path, SIGNATURE)


@runtimes
def test_a_closed_runner_lets_the_model_go(tiny: Tiny, runtime: str) -> None:
    runner = opened(tiny, runtime)
    runner.close()
    runner.close()
    assert same(opened(tiny, runtime).run({"x": samples(2)}), answer(samples(2)))


@pytest.mark.parametrize("first", ["runner", "tensorflow"])
def test_tensorflow_may_be_imported_before_or_after_its_libraries_are_opened(tiny: Tiny, first: str) -> None:
    run = (
        "import sys, numpy as np; from pathlib import Path; from serving.runners import load;"
        "from tests.integration.tiny import SIGNATURE;"
        "print(load('tensorflow', Path(sys.argv[1]), SIGNATURE).run({'x': np.ones((2, 6), np.float32)})['n'])"
    )
    also = "import tensorflow as tf, ssl, secrets, torch, onnxruntime; print(tf.constant([7]).numpy())"
    code = f"{run}\n{also}" if first == "runner" else f"{also}\n{run}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny("tensorflow").path)], capture_output=True, text=True, check=False
    )
    assert sorted(done.stdout.split("\n")) == ["", "[6 6]", "[7]"], done.stderr[-1000:]


def test_text_goes_through_tensorflow(tmp_path: Path) -> None:
    import tensorflow as tf

    class Upper(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text: Any) -> dict[str, Any]:
            return {"upper": tf.strings.upper(text, encoding="utf-8"), "same": text}

    model = Upper()
    tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": model.serve})
    signature = Signature(
        (TensorSpec("text", DType.STRING, ("n",)),),
        (TensorSpec("upper", DType.STRING, ("n",)), TensorSpec("same", DType.STRING, ("n",))),
        {"n": DimRange(1, 9)},
    )
    runner = load("tensorflow", tmp_path, signature)
    texts = ["é", "", "x" * 500]
    for _ in range(3):
        given = runner.run({"text": np.array(texts, object)})
        assert given["upper"].tolist() == [text.upper() for text in texts]
        assert given["same"].tolist() == texts


def test_a_savedmodel_without_serving_default_says_which_signatures_it_has(tmp_path: Path) -> None:
    import tensorflow as tf

    model = tf.Module()
    model.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(model, str(tmp_path), signatures={"other": model.f})
    with pytest.raises(RunnerError, match="no signature serving_default; it has __saved_model_init_op, other"):
        load("tensorflow", tmp_path, SIGNATURE)
