"""What holds for every source: the fingerprint, the folder that an MLflow model is, and what the probe asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DType, PreprocessStep, TensorSpec
from tasks.contracts import Digest
from tasks.errors import SourceError
from tasks.ingest import fingerprint
from tasks.ingest.probe import probe
from tasks.ingest.signatures import Found, differences
from tasks.spec import EvaluationSpec, MetricSpec, PreprocessedSpec
from tests.unit.ingest.conftest import INPUT, OUTPUT, Workplace

Made = Callable[[str], Path]


# --- the fingerprint ----------------------------------------------------------------------------------------------


@pytest.fixture
def given(workplace: Workplace, made: Made) -> Workplace:
    (workplace.folder / "m.pt").write_bytes(b"weights")
    return workplace


def of(workplace: Workplace, **changes: Any) -> Digest:
    spec = workplace.spec("m.pt", "pytorch", **{"entrypoint": "model:build", **changes})
    return fingerprint(spec, workplace.settings)


def test_the_fingerprint_is_the_same_until_something_changes(given: Workplace) -> None:
    first = of(given)
    assert of(given) == first
    (given.folder / "m.pt").write_bytes(b"weightz")
    assert of(given) != first


def test_the_fingerprint_changes_with_the_files_of_steps_and_with_what_training_fed(given: Workplace) -> None:
    words = given.folder / "words.txt"
    words.write_text("a\nb\n")
    np.savez(given.folder / "fed.npz", x=np.ones((1, 3), np.float32))
    evaluation = given.spec("m.pt", "pytorch").evaluation
    changes: dict[str, Any] = {
        "preprocess": (PreprocessStep("vocabulary", "x", file="words.txt"),),
        "evaluation": evaluation.model_copy(update={"preprocessed": PreprocessedSpec(data="fed.npz")}),
    }
    first = of(given, **changes)
    assert first != of(given)
    words.write_text("b\na\n")
    second = of(given, **changes)
    np.savez(given.folder / "fed.npz", x=np.zeros((1, 3), np.float32))
    assert len({first, second, of(given, **changes)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.py").write_text("def build(): ...  # other"),
        lambda folder: np.savez(folder / "eval.npz", x=np.ones((2, 3), np.float32), label=np.zeros(2)),
    ],
    ids=["code", "evaluation data"],
)
def test_the_fingerprint_changes_with_every_input(given: Workplace, change: Callable[[Path], None]) -> None:
    first = of(given)
    change(given.folder)
    assert of(given) != first


def test_the_fingerprint_follows_the_signature_and_the_labels_but_no_tolerance(given: Workplace) -> None:
    first = of(given)

    def metric(**changes: Any) -> EvaluationSpec:
        values = {"name": "accuracy", "output": "y", "label": "label", "max_drop": 0.01, **changes}
        return EvaluationSpec(data="eval.npz", metrics=(MetricSpec(**values),))

    assert of(given, evaluation=metric(max_drop=0.5, name="macro_f1")) == first
    assert of(given, evaluation=metric(label="unused")) != first
    assert of(given, outputs=(replace(OUTPUT, name="z"),)) != first
    assert of(given, preprocess=(PreprocessStep("scale", "x", by=2),)) != first
    assert of(given, formats=("onnx", "savedmodel")) == first


def test_the_fingerprint_stores_nothing_and_leaves_nothing(given: Workplace) -> None:
    of(given)
    assert not [path for path in given.store.root.rglob("*") if path.is_file()]
    assert list(given.settings.work.iterdir()) == []


def test_the_fingerprint_of_what_is_not_there_is_an_error(given: Workplace) -> None:
    (given.folder / "m.pt").unlink()
    with pytest.raises(SourceError, match="nothing is there"):
        of(given)


# --- folders ------------------------------------------------------------------------------------------------------


def test_the_one_model_in_a_folder_is_found(workplace: Workplace, made: Made) -> None:
    (workplace.folder / "logged" / "data").mkdir(parents=True)
    (workplace.folder / "logged" / "MLmodel").write_text("flavors: {}")
    shutil.copy(made("keras"), workplace.folder / "logged" / "data" / "model.keras")
    artifact = workplace.ingest("logged", "keras")
    assert [file.path for file in artifact.files.files] == ["model.keras"]
    assert artifact.root == "model.keras"


def test_a_savedmodel_in_a_folder_is_found(workplace: Workplace, made: Made) -> None:
    shutil.copytree(made("savedmodel"), workplace.folder / "logged" / "data" / "model")
    (workplace.folder / "logged" / "MLmodel").write_text("flavors: {}")
    artifact = workplace.ingest("logged", "tensorflow")
    assert artifact.root == "."
    assert "saved_model.pb" in [file.path for file in artifact.files.files]


def test_several_models_in_a_folder_are_named(workplace: Workplace, made: Made) -> None:
    (workplace.folder / "logged").mkdir()
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(made("onnx"), workplace.folder / "logged" / name)
    with pytest.raises(SourceError, match=r"expected one \.onnx file, found a\.onnx, b\.onnx; name one"):
        workplace.ingest("logged", "onnx")


def test_a_folder_without_a_model_says_what_is_in_it(workplace: Workplace) -> None:
    (workplace.folder / "logged").mkdir()
    (workplace.folder / "logged" / "conda.yaml").write_text("x")
    with pytest.raises(SourceError, match=r"expected a \.onnx file .*; found conda\.yaml"):
        workplace.ingest("logged", "onnx")


# --- the probe ----------------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """A model that answers by a function, and remembers what it was asked."""

    function: Callable[[Mapping[str, Any]], dict[str, Any]]
    native: Any = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(dict(inputs))
        return self.function(inputs)


def zeros(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"y": np.zeros((len(inputs["x"]), 2), np.float32)}


def columns(rows: int = 6) -> dict[str, Any]:
    return {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3), "label": np.zeros(rows)}


def test_a_model_is_asked_after_preprocessing(workplace: Workplace) -> None:
    model = Answers(zeros)
    spec = workplace.spec("m.onnx", "onnx", preprocess=(PreprocessStep("scale", "x", by=0.5),))
    probe(model, spec, columns())
    assert model.asked[0]["x"][1].tolist() == [1.5, 2, 2.5]


def test_fewer_rows_than_the_probe_asks_for_are_enough(workplace: Workplace) -> None:
    probe(Answers(zeros), workplace.spec("m.onnx", "onnx"), columns(1))


def test_a_model_that_answers_differently_every_time_is_refused(workplace: Workplace) -> None:
    rng = np.random.default_rng(0)
    model = Answers(lambda inputs: {"y": rng.random((len(inputs["x"]), 2), np.float32)})
    with pytest.raises(SourceError, match="'y' is different each time"):
        probe(model, workplace.spec("m.onnx", "onnx"), columns())


@pytest.mark.parametrize(
    ("answer", "fragment"),
    [
        (np.zeros((4, 2)), "declared float32, the model gives float64"),
        (np.zeros((4, 3), np.float32), r"declared \[batch, 2\], the model gives \[4, 3\]"),
        (np.zeros((2, 4), np.float32), r"the model gives \[2, 4\] for 4 rows"),
        (np.zeros(4, np.float32), r"the model gives \[4\]"),
        (np.zeros((4, 1), np.float32), r"the model gives \[4, 1\]"),
    ],
)
def test_answers_that_are_not_as_declared_are_said_so(workplace: Workplace, answer: Any, fragment: str) -> None:
    with pytest.raises(SourceError, match=fragment):
        probe(Answers(lambda inputs: {"y": answer}), workplace.spec("m.onnx", "onnx"), columns())


def test_scikit_learn_may_compute_in_twice_the_width_but_in_no_other_kind(workplace: Workplace) -> None:
    spec = workplace.spec("m.skops", "sklearn")
    probe(Answers(lambda inputs: {"y": np.zeros((4, 2))}), spec, columns())
    with pytest.raises(SourceError, match="declared float32, the model gives int64"):
        probe(Answers(lambda inputs: {"y": np.zeros((4, 2), np.int64)}), spec, columns())


def test_a_model_that_raises_is_told_with_what_it_was_asked(workplace: Workplace) -> None:
    def fail(inputs: Mapping[str, Any]) -> dict[str, Any]:
        raise ValueError("expected 7 features\nand more")

    with pytest.raises(SourceError, match=r"x float32\[4, 3\]\): expected 7 features;"):
        probe(Answers(fail), workplace.spec("m.onnx", "onnx"), columns())


def test_rows_that_are_not_finite_are_not_asked(workplace: Workplace) -> None:
    given = columns()
    given["x"][[0, 3], 1] = [np.nan, np.inf]
    model = Answers(zeros)
    probe(model, workplace.spec("m.onnx", "onnx"), given)
    assert len(model.asked) == 2
    assert all(np.isfinite(asked["x"]).all() for asked in model.asked)


def test_a_model_that_cannot_answer_whole_rows_is_told_so_beside_broken_ones(workplace: Workplace) -> None:
    def fail(inputs: Mapping[str, Any]) -> dict[str, Any]:
        raise ValueError("expected 7 features")

    given = columns()
    given["x"][0, 0] = np.nan
    with pytest.raises(SourceError, match="expected 7 features"):
        probe(Answers(fail), workplace.spec("m.onnx", "onnx"), given)


# --- signatures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Found("x", "float32", (None, 3)), []),
        (Found("x", None, None), []),
        (Found("x", "float32", (None, None)), []),
        (Found("other", "float32", (None, 3)), []),
        (Found("x", "int64", (None, 3)), ["is declared float32, the model has int64"]),
        (Found("x", "float32", (None, 4)), ["[batch, 3], the model has [any, 4]"]),
        (Found("x", "float32", (1, 3)), ["'batch' (axis 0) is frozen at 1"]),
        (Found("x", "float32", (None,)), ["[batch, 3], the model has [any]"]),
    ],
)
def test_a_signature_is_compared_by_dtype_rank_and_size(found: Found, expected: list[str]) -> None:
    said = list(differences("input", (INPUT,), [found], by_name=False))
    assert len(said) == len(expected)
    for sentence, fragment in zip(said, expected, strict=True):
        assert fragment in sentence


def test_a_signature_by_name_names_both_sides() -> None:
    other = TensorSpec("z", DType.FLOAT32, ("batch",))
    found = [Found("x", None, None), Found("w", None, None)]
    assert list(differences("input", (INPUT, other), found, by_name=True)) == [
        "the spec declares the inputs x, z; the model has x, w"
    ]
