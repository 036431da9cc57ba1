"""docs/model-yaml.md names every key, its example holds, and its messages are what is really said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from serving.contract import DimRange, PreprocessStep, Signature, TensorSpec
from serving.preprocess import problems as preprocess_problems
from serving.preprocess import raw_signature
from tasks.errors import SpecError
from tasks.ingest.code import import_callable
from tasks.ingest.metric_code import MetricFunction
from tasks.parity.metrics import METRICS
from tasks.spec import load_spec
from tasks.spec_document import parse_document
from tasks.spec_keys import EXPECTED

PAGE = (Path(__file__).parents[2] / "docs" / "model-yaml.md").read_text()


def block(info: str) -> str:
    [found] = re.findall(rf"^```{info}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_every_key_is_on_the_page() -> None:
    for key in {pattern.rpartition(".")[2] for pattern in EXPECTED if not pattern.endswith("*")}:
        assert re.search(rf"\b{key}\b", PAGE), key


def test_every_metric_is_on_the_page() -> None:
    for name in METRICS:
        assert f"`{name}`" in PAGE, name


def test_the_example_holds(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    for name in ("artifacts/digits.pt", "artifacts/eval.npz"):
        (tmp_path / name).touch()
    (tmp_path / "model.py").write_text("def build(): ...")
    (tmp_path / "model.yaml").write_text(block("yaml"))
    assert load_spec(tmp_path / "model.yaml").name == "digits-cnn"


def test_the_metric_of_ones_own_holds(tmp_path: Path) -> None:
    import numpy as np

    text = re.sub(r"    - \{name: accuracy.*\n", block("yaml own"), block("yaml"))
    text = text.replace(
        "{name: logits, dtype: float32, shape: [batch, 10]}", "{name: score, dtype: float32, shape: [batch]}"
    )
    (tmp_path / "artifacts").mkdir()
    for name in ("artifacts/digits.pt", "artifacts/eval.npz"):
        (tmp_path / name).touch()
    (tmp_path / "model.py").write_text("def build(): ...")
    (tmp_path / "metric.py").write_text(block("python own"))
    (tmp_path / "model.yaml").write_text(text)
    [metric] = load_spec(tmp_path / "model.yaml").evaluation.metrics
    function = MetricFunction(metric.callable or "", import_callable(tmp_path, metric.callable or ""))
    assert list(function.ask(np.array([0.9, 0.9, 0.1]), np.array([1, 0, 1]))) == pytest.approx([0.08, -0.6, 0])


RECIPES = re.findall(
    r"^```yaml\n(inputs:.*?)^```$",
    (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("recipe", RECIPES, ids=["images", "texts", "tables"])
def test_the_recipes_of_preprocessing_hold(tmp_path: Path, recipe: str) -> None:
    document, problems = parse_document(recipe)
    assert not problems
    assert document is not None
    written = document.data
    adapter = TypeAdapter(dict[str, DimRange])
    dynamic = adapter.validate_python(written.get("dynamic", {"batch": {"min": 1, "max": 8}}))
    inputs = TypeAdapter(tuple[TensorSpec, ...]).validate_python(written["inputs"])
    steps = TypeAdapter(tuple[PreprocessStep, ...]).validate_python(written["preprocess"])
    signature = Signature(inputs=inputs, outputs=(), dynamic=dynamic)
    assert preprocess_problems(signature, steps) == ()
    assert len(raw_signature(signature, steps).inputs) <= len(inputs)


def test_the_messages_are_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    path = tmp_path / "digits" / "model.yaml"
    path.write_text(block("yaml bad"))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value).replace(f"{path}:", "model.yaml:") + "\n" == block("text said")
