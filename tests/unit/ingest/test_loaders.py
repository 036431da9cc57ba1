"""Each loader: a whole model is ingested and answers from the store; a broken or different one is said so."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, TensorSpec
from tasks.contracts import Artifact
from tasks.errors import CorruptObject, SourceError
from tasks.ingest import SOURCES, load_evaluation, load_source
from tasks.ingest.sources import loader_module
from tests.unit.ingest.conftest import BIAS, INPUT, OUTPUT, WEIGHT, Workplace, rewrite, save_onnx

Made = Callable[[str], Path]

#: kind of file → (framework, entrypoint, loader)
KINDS = {
    "pt": ("pytorch", "model:build", "torch-state-dict"),
    "pt2": ("pytorch", None, "torch-export"),
    "keras": ("keras", None, "keras"),
    "savedmodel": ("tensorflow", None, "savedmodel"),
    "skops": ("sklearn", None, "skops"),
    "onnx": ("onnx", None, "onnx"),
}


def put(workplace: Workplace, path: Path) -> str:
    """Copy a model into the spec's folder; its name there."""
    if path.is_dir():
        shutil.copytree(path, workplace.folder / path.name)
    else:
        shutil.copy(path, workplace.folder / path.name)
    return path.name


def ingest_kind(workplace: Workplace, made: Made, kind: str, **changes: Any) -> Artifact:
    framework, entrypoint, _ = KINDS[kind]
    return workplace.ingest(put(workplace, made(kind)), framework, **{"entrypoint": entrypoint, **changes})


def ingest_file(workplace: Workplace, name: str, kind: str, **changes: Any) -> Artifact:
    framework, entrypoint, _ = KINDS[kind]
    return workplace.ingest(name, framework, **{"entrypoint": entrypoint, **changes})


# --- whole models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_ingested_and_answers_from_the_store(
    workplace: Workplace, made: Made, tmp_path: Path, kind: str
) -> None:
    artifact = ingest_kind(workplace, made, kind)
    shutil.rmtree(workplace.folder)  # everything is in the store

    model = load_source(artifact, workplace.store, tmp_path / "work")
    columns = load_evaluation(artifact, workplace.store, tmp_path / "work")
    answers = model.predict({"x": columns["x"][:4]})

    assert (artifact.loader, artifact.source_uri) == (KINDS[kind][2], made(kind).name)
    assert list(answers) == ["y"]
    assert answers["y"].shape == (4, 2)
    if kind != "skops":
        assert answers["y"].dtype == np.float32
        np.testing.assert_allclose(answers["y"], columns["x"][:4] @ WEIGHT + BIAS, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ingesting_again_gives_the_same_artifact_and_leaves_no_scratch(
    workplace: Workplace, made: Made, kind: str
) -> None:
    first = ingest_kind(workplace, made, kind)
    framework, entrypoint, _ = KINDS[kind]
    assert workplace.ingest(made(kind).name, framework, entrypoint=entrypoint) == first
    assert list(workplace.settings.work.iterdir()) == []


def test_every_loader_has_its_module() -> None:
    for loader in SOURCES:
        module = loader_module(loader)
        assert callable(module.inspect)
        assert callable(module.load)


def test_a_store_that_was_altered_is_noticed(workplace: Workplace, made: Made, tmp_path: Path) -> None:
    artifact = ingest_kind(workplace, made, "onnx")
    digest = artifact.files.files[0].digest.removeprefix("sha256:")
    (workplace.store.root / "objects" / digest[:2] / digest[2:]).write_bytes(b"other bytes")
    with pytest.raises(CorruptObject):
        load_source(artifact, workplace.store, tmp_path / "work")


# --- broken files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pt", "pt2", "keras", "skops", "onnx"])
@pytest.mark.parametrize("share", [0.0005, 0.3, 0.95])
def test_a_file_that_was_cut_short_is_said_so(workplace: Workplace, made: Made, kind: str, share: float) -> None:
    content = made(kind).read_bytes()
    name = f"cut{made(kind).suffix}"
    (workplace.folder / name).write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(SourceError, match=r"copy|save|write") as caught:
        ingest_file(workplace, name, kind)
    assert name in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pt", "pt2", "keras", "skops"])
def test_a_flipped_bit_in_an_archive_is_noticed(workplace: Workplace, made: Made, kind: str) -> None:
    name = put(workplace, made(kind))
    with zipfile.ZipFile(workplace.folder / name) as archive:
        member = max(archive.infolist(), key=lambda info: info.compress_size)
    content = bytearray((workplace.folder / name).read_bytes())
    content[member.header_offset + 30 + len(member.filename) + 64 + 30] ^= 1
    (workplace.folder / name).write_bytes(content)
    with pytest.raises(SourceError):
        ingest_file(workplace, name, kind)


@pytest.mark.parametrize("kind", ["pt", "pt2", "keras", "skops", "onnx"])
def test_a_file_of_something_else_is_said_so(workplace: Workplace, made: Made, kind: str) -> None:
    name = f"text{made(kind).suffix}"
    (workplace.folder / name).write_text("not a model at all, but a text that is long enough to be something\n" * 20)
    with pytest.raises(SourceError, match=name):
        ingest_file(workplace, name, kind)


@pytest.mark.parametrize("missing", ["variables/variables.index", "variables/variables.data-00000-of-00001"])
def test_a_savedmodel_without_its_variables_is_said_so(workplace: Workplace, made: Made, missing: str) -> None:
    name = put(workplace, made("savedmodel"))
    (workplace.folder / name / missing).unlink()
    with pytest.raises(SourceError, match="cannot be loaded"):
        ingest_file(workplace, name, "savedmodel")


def test_a_savedmodel_whose_graph_was_cut_short_is_said_so(workplace: Workplace, made: Made) -> None:
    path = workplace.folder / put(workplace, made("savedmodel")) / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"saved_model\.pb"):
        ingest_file(workplace, path.parent.name, "savedmodel")


# --- models that are not the spec's -------------------------------------------------------------------------------

WIDER = replace(INPUT, shape=("batch", 4))
MORE_CLASSES = replace(OUTPUT, shape=("batch", 3))


@pytest.mark.parametrize("kind", KINDS)
def test_another_width_of_input_is_said_so(workplace: Workplace, made: Made, kind: str) -> None:
    x = np.zeros((4, 4), dtype=np.float32)
    np.savez(workplace.folder / "eval.npz", x=x, label=np.array([0, 1, 0, 1]))
    with pytest.raises(SourceError) as caught:
        ingest_kind(workplace, made, kind, inputs=(WIDER,))
    assert "4" in str(caught.value)
    assert "3" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_another_width_of_output_is_said_so(workplace: Workplace, made: Made, kind: str) -> None:
    with pytest.raises(SourceError, match=r"output 'y' is declared \[batch, 3\], the model (gives|has) \[") as caught:
        ingest_kind(workplace, made, kind, outputs=(MORE_CLASSES,))
    assert "2]" in str(caught.value)


@pytest.mark.parametrize("kind", ["pt2", "keras", "savedmodel", "onnx"])
def test_another_dtype_of_input_is_said_so(workplace: Workplace, made: Made, kind: str) -> None:
    np.savez(workplace.folder / "eval.npz", x=np.zeros((4, 3)), label=np.array([0, 1, 0, 1]))
    with pytest.raises(SourceError, match="input 'x' is declared float64, the model has float32"):
        ingest_kind(workplace, made, kind, inputs=(replace(INPUT, dtype=DType.FLOAT64),))


@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
def test_another_name_is_said_so(workplace: Workplace, made: Made, kind: str) -> None:
    with pytest.raises(SourceError, match="declares the outputs z; the model has y"):
        ingest_kind(workplace, made, kind, outputs=(replace(OUTPUT, name="z"),))


@pytest.mark.parametrize("kind", ["pt", "pt2", "keras"])
def test_a_missing_output_is_said_so(workplace: Workplace, made: Made, kind: str) -> None:
    with pytest.raises(SourceError, match=r"2 outputs|declares 2"):
        ingest_kind(workplace, made, kind, outputs=(OUTPUT, replace(OUTPUT, name="z")))


def test_a_frozen_batch_is_said_so(workplace: Workplace) -> None:
    save_onnx(workplace.folder / "m.onnx", batch=1)
    with pytest.raises(SourceError, match=r"'batch' .* is frozen at 1"):
        workplace.ingest("m.onnx", "onnx")


# --- PyTorch state dicts ------------------------------------------------------------------------------------------


def save_state(workplace: Workplace, state: dict[str, Any]) -> None:
    import torch

    torch.save({key: torch.as_tensor(value) for key, value in state.items()}, workplace.folder / "m.pt")


@pytest.mark.parametrize(
    ("state", "fragments"),
    [
        ({"weight": np.zeros((2, 3), np.float32)}, ["missing bias"]),
        ({"w": np.zeros(1), "bias": np.zeros(2, np.float32)}, ["missing weight", "unexpected w"]),
        ({"weight": np.zeros((2, 4), np.float32), "bias": np.zeros(2, np.float32)}, ["[2, 4], expected [2, 3]"]),
        ({"weight": np.zeros((2, 3)), "bias": np.zeros(2, np.float32)}, ["float64", "cannot hold"]),
        ({"module.weight": np.zeros((2, 3)), "module.bias": np.zeros(2)}, ["'module.'", "DataParallel"]),
    ],
)
def test_a_state_dict_of_another_module_names_the_keys(
    workplace: Workplace, state: dict[str, Any], fragments: list[str]
) -> None:
    save_state(workplace, state)
    with pytest.raises(SourceError) as caught:
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_checkpoint_is_refused_with_the_way_to_save_the_tensors_alone(workplace: Workplace) -> None:
    import torch

    module = torch.nn.Linear(3, 2)
    torch.save({"epoch": 3, "state_dict": module.state_dict()}, workplace.folder / "m.pt")
    with pytest.raises(SourceError, match=r"a checkpoint \(epoch, state_dict\).*torch\.save\(model\.state_dict\(\)"):
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")


def test_a_torch_export_archive_with_an_entrypoint_is_said_so(workplace: Workplace, made: Made) -> None:
    shutil.copy(made("pt2"), workplace.folder / "m.pt")
    with pytest.raises(SourceError, match=r"is a torch\.export archive"):
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")


@pytest.mark.parametrize(
    ("code", "fragment"),
    [
        ("def build():\n    return 7\n", "gave a int; expected a torch.nn.Module"),
        ("def build():\n    return {}['x']\n", "raised KeyError at model.py:2"),
        ("import nowhere_installed\ndef build(): ...\n", "imports nowhere_installed"),
    ],
)
def test_an_entrypoint_that_builds_no_module_is_said_so(
    workplace: Workplace, made: Made, code: str, fragment: str
) -> None:
    (workplace.folder / "model.py").write_text(code)
    with pytest.raises(SourceError) as caught:
        ingest_kind(workplace, made, "pt")
    assert fragment in str(caught.value)


def test_a_module_in_training_mode_is_put_into_inference_mode(workplace: Workplace, made: Made) -> None:
    (workplace.folder / "model.py").write_text(
        "import torch\n\nclass M(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)\n\n"
        "def build():\n    return M(3, 2).train()\n"
    )
    assert ingest_kind(workplace, made, "pt").loader == "torch-state-dict"


def test_a_module_that_draws_at_random_is_refused(workplace: Workplace, made: Made) -> None:
    (workplace.folder / "model.py").write_text(
        "import torch\n\nclass M(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return torch.nn.functional.dropout(super().forward(x))\n\ndef build():\n    return M(3, 2)\n"
    )
    with pytest.raises(SourceError, match="different each time"):
        ingest_kind(workplace, made, "pt")


def test_outputs_may_be_a_dictionary_by_name(workplace: Workplace, made: Made, tmp_path: Path) -> None:
    (workplace.folder / "model.py").write_text(
        "import torch\n\nclass M(torch.nn.Linear):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return {'label': y.argmax(1), 'y': y}\n\ndef build():\n    return M(3, 2)\n"
    )
    label = TensorSpec("label", DType.INT64, ("batch",))
    artifact = ingest_kind(workplace, made, "pt", outputs=(OUTPUT, label))
    answers = load_source(artifact, workplace.store, tmp_path).predict({"x": np.zeros((2, 3), np.float32)})
    assert list(answers) == ["y", "label"]
    assert (answers["label"].dtype, answers["label"].shape) == (np.int64, (2,))


def test_bfloat16_answers_are_refused_with_the_way_out(workplace: Workplace, made: Made) -> None:
    (workplace.folder / "model.py").write_text(
        "import torch\n\nclass M(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x).bfloat16()\n\ndef build():\n    return M(3, 2)\n"
    )
    with pytest.raises(SourceError, match=r"bfloat16.*float32"):
        ingest_kind(workplace, made, "pt")


# --- torch.export archives ----------------------------------------------------------------------------------------


def export(workplace: Workplace, module: Any, most: int = 8) -> None:
    import torch

    batch = torch.export.Dim("batch", min=1, max=most)
    program = torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, workplace.folder / "m.pt2")


def test_a_program_exported_for_fewer_sizes_is_said_so(workplace: Workplace) -> None:
    import torch

    export(workplace, torch.nn.Linear(3, 2).eval(), most=4)
    with pytest.raises(SourceError, match=r"'batch' may be 1 to 8 in the spec, the program was exported for \d to 4"):
        workplace.ingest("m.pt2", "pytorch")


def test_a_program_exported_in_training_mode_is_said_so(workplace: Workplace) -> None:
    import torch

    export(workplace, torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5)).train())
    with pytest.raises(SourceError, match=r"training mode.*model\.eval"):
        workplace.ingest("m.pt2", "pytorch")


def test_an_archive_of_the_layout_before_torch_2_8_is_said_so(workplace: Workplace) -> None:
    with zipfile.ZipFile(workplace.folder / "m.pt2", "w") as archive:
        for name in ("version", "serialized_exported_program.json", "serialized_state_dict.pt"):
            archive.writestr(name, b"8.1")
    with pytest.raises(SourceError, match="older PyTorch"):
        workplace.ingest("m.pt2", "pytorch")


# --- Keras --------------------------------------------------------------------------------------------------------


def keras_of_two(workplace: Workplace, names: tuple[str, str], outputs: bool = False) -> None:
    import keras

    left, right = (keras.Input((width,), name=name) for name, width in zip(names, (3, 2), strict=True))
    y = keras.layers.Dense(2)(left) + right * 10.0
    model = keras.Model({names[0]: left, names[1]: right} if outputs else [left, right], {"y": y} if outputs else y)
    model.save(workplace.folder / "m.keras")
    np.savez(
        workplace.folder / "eval.npz",
        x=np.zeros((4, 3), np.float32),
        z=np.ones((4, 2), np.float32),
        label=np.array([0, 1, 0, 1]),
    )


@pytest.mark.parametrize("structured", [False, True])
def test_several_keras_inputs_are_known_by_their_names(workplace: Workplace, tmp_path: Path, structured: bool) -> None:
    keras_of_two(workplace, ("x", "z"), structured)
    z = TensorSpec("z", DType.FLOAT32, ("batch", 2))
    artifact = workplace.ingest("m.keras", "keras", inputs=(z, INPUT))  # not in the model's order
    model = load_source(artifact, workplace.store, tmp_path)
    answer = model.predict({"x": np.zeros((2, 3), np.float32), "z": np.ones((2, 2), np.float32)})
    np.testing.assert_allclose(answer["y"], np.full((2, 2), 10, np.float32))


def test_several_keras_inputs_of_other_names_are_said_so(workplace: Workplace) -> None:
    keras_of_two(workplace, ("left", "right"))
    z = TensorSpec("z", DType.FLOAT32, ("batch", 2))
    with pytest.raises(SourceError, match="declares the inputs x, z; the model has left, right"):
        workplace.ingest("m.keras", "keras", inputs=(INPUT, z))


def test_a_keras_model_of_a_later_keras_is_said_so(workplace: Workplace, made: Made) -> None:
    def edit(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        config["config"]["layers"][-1].update(class_name="DenseOfTheFuture")
        members["config.json"] = json.dumps(config).encode()
        members["metadata.json"] = b'{"keras_version": "9.1.0"}'

    rewrite(made("keras"), workplace.folder / "m.keras", edit)
    with pytest.raises(SourceError, match=r"DenseOfTheFuture.*saved by Keras 9\.1\.0"):
        workplace.ingest("m.keras", "keras")


def test_dropout_and_batch_normalisation_answer_in_inference_mode(workplace: Workplace) -> None:
    import keras

    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    keras.Sequential([keras.Input((3,)), *layers]).save(workplace.folder / "m.keras")
    assert workplace.ingest("m.keras", "keras").loader == "keras"


# --- TensorFlow ---------------------------------------------------------------------------------------------------


def test_a_savedmodel_without_serving_default_is_said_so(workplace: Workplace) -> None:
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(workplace.folder / "m"))
    with pytest.raises(SourceError, match="no signature 'serving_default'"):
        workplace.ingest("m", "tensorflow")


def test_a_savedmodel_that_keras_exported_is_accepted(workplace: Workplace) -> None:
    import keras

    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.BatchNormalization(), keras.layers.Dense(2)])
    model.export(workplace.folder / "m", verbose=False)
    y = replace(OUTPUT, name="output_0")
    assert workplace.ingest("m", "tensorflow", outputs=(y,)).loader == "savedmodel"


def test_a_savedmodel_with_a_vocabulary_and_strings_is_accepted(workplace: Workplace, tmp_path: Path) -> None:
    import tensorflow as tf

    class Lookup(tf.Module):
        def __init__(self) -> None:
            values = tf.lookup.KeyValueTensorInitializer(["no", "yes"], tf.constant([0, 1], tf.int64))
            self.table = tf.lookup.StaticHashTable(values, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"y": tf.cast(self.table.lookup(x), tf.float32)}

    model = Lookup()
    tf.saved_model.save(model, str(workplace.folder / "m"), signatures=model.serve)
    np.savez(workplace.folder / "eval.npz", x=np.array(["yes", "no"]), label=np.array([1.0, 0.0]))
    text, number = TensorSpec("x", DType.STRING, ("batch",)), TensorSpec("y", DType.FLOAT32, ("batch",))
    artifact = workplace.ingest("m", "tensorflow", inputs=(text,), outputs=(number,))
    answers = load_source(artifact, workplace.store, tmp_path).predict({"x": np.array(["yes", "?"], dtype=object)})
    assert answers["y"].tolist() == [1, -1]


def vocabulary(file: str) -> Any:
    import tensorflow as tf

    class Lookup(tf.Module):
        def __init__(self) -> None:
            kinds = (tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER)
            self.table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(file, *kinds), -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"y": tf.cast(self.table.lookup(x), tf.float32)}

    return Lookup()


def test_a_savedmodels_own_vocabulary_is_read(workplace: Workplace, tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "words.txt").write_text("no\nyes\n")
    model = vocabulary(str(tmp_path / "words.txt"))
    tf.saved_model.save(model, str(workplace.folder / "m"), signatures=model.serve)
    (tmp_path / "words.txt").unlink()
    np.savez(workplace.folder / "eval.npz", x=np.array(["yes", "no"]), label=np.array([1.0, 0.0]))
    text, number = TensorSpec("x", DType.STRING, ("batch",)), TensorSpec("y", DType.FLOAT32, ("batch",))
    assert workplace.ingest("m", "tensorflow", inputs=(text,), outputs=(number,)).loader == "savedmodel"

    saved = workplace.folder / "m" / "saved_model.pb"
    saved.write_bytes(saved.read_bytes().replace(b"words.txt", b"../secret"))
    with pytest.raises(SourceError, match=r"the asset '\.\./secret' lies outside"):
        workplace.ingest("m", "tensorflow", inputs=(text,), outputs=(number,))


def test_a_savedmodel_that_reads_a_vocabulary_from_elsewhere_is_refused(workplace: Workplace) -> None:
    import tensorflow as tf

    class Reads(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
            file = {"filename": "/etc/passwd", "key_index": -2, "value_index": -1}
            tf.raw_ops.InitializeTableFromTextFileV2(table_handle=table, vocab_size=-1, delimiter="\t", **file)
            return {"y": x[:, :2]}

    model = Reads()
    tf.saved_model.save(model, str(workplace.folder / "m"), signatures=model.serve)
    with pytest.raises(SourceError, match="InitializeTableFromTextFileV2"):
        workplace.ingest("m", "tensorflow")


# --- scikit-learn -------------------------------------------------------------------------------------------------

LABEL = TensorSpec("label", DType.INT64, ("batch",))


def dump_sklearn(workplace: Workplace, estimator: Any, labels: Any = None) -> None:
    import skops.io

    skops.io.dump(estimator, workplace.folder / "m.skops")
    if labels is not None:
        with np.load(workplace.folder / "eval.npz") as old:
            np.savez(workplace.folder / "eval.npz", x=old["x"], label=labels)


def features() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)


def test_a_classifiers_outputs_are_label_and_probabilities_by_dtype(workplace: Workplace, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = features()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, (x[:, 0] > 0).astype(np.int64) + 5)
    dump_sklearn(workplace, pipeline)
    artifact = workplace.ingest("m.skops", "sklearn", outputs=(LABEL, OUTPUT))
    answers = load_source(artifact, workplace.store, tmp_path).predict({"x": x[:4]})
    assert list(answers) == ["label", "y"]
    assert set(answers["label"]) <= {5, 6}
    np.testing.assert_allclose(answers["y"].sum(axis=1), 1, rtol=1e-5)


def test_string_labels_are_strings(workplace: Workplace, tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeClassifier

    x = features()
    dump_sklearn(workplace, DecisionTreeClassifier().fit(x, np.where(x[:, 0] > 0, "yes", "no")), np.array(["yes"] * 10))
    word = replace(LABEL, dtype=DType.STRING)
    artifact = workplace.ingest("m.skops", "sklearn", outputs=(word, OUTPUT))
    answers = load_source(artifact, workplace.store, tmp_path).predict({"x": x[:4]})
    assert set(answers["label"].tolist()) <= {"yes", "no"}


def test_a_regressor_may_be_declared_flat_or_as_a_column(workplace: Workplace, tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    x = features()
    dump_sklearn(workplace, Ridge().fit(x, x[:, 0]))
    for shape in (("batch",), ("batch", 1)):
        artifact = workplace.ingest("m.skops", "sklearn", outputs=(replace(OUTPUT, shape=shape),))
        model = load_source(artifact, workplace.store, tmp_path / str(len(shape)))
        assert model.predict({"x": x[:4]})["y"].shape == (4, 1)[: len(shape)]


def test_columns_are_handed_over_by_name(workplace: Workplace, tmp_path: Path) -> None:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "colour": ["red", "blue", "red", "blue"]})
    encoder = ColumnTransformer([("c", OneHotEncoder(), ["colour"])], remainder="passthrough")
    dump_sklearn(workplace, make_pipeline(encoder, LinearRegression()).fit(frame, [1.0, 2.0, 3.0, 4.0]))
    frame.assign(label=[1.0, 2.0, 3.0, 4.0]).to_parquet(workplace.folder / "eval.parquet")
    from tasks.spec import EvaluationSpec, MetricSpec

    size, colour = TensorSpec("size", DType.FLOAT64, ("batch", 1)), TensorSpec("colour", DType.STRING, ("batch",))
    metric = MetricSpec(name="rmse", output="y", label="label", max_drop=0.01)
    artifact = workplace.ingest(
        "m.skops",
        "sklearn",
        inputs=(size, colour),
        outputs=(replace(OUTPUT, dtype=DType.FLOAT64, shape=("batch",)),),
        evaluation=EvaluationSpec(data="eval.parquet", metrics=(metric,)),
    )
    model = load_source(artifact, workplace.store, tmp_path)
    columns = load_evaluation(artifact, workplace.store, tmp_path)
    assert columns["size"].shape == (4, 1)
    np.testing.assert_allclose(model.predict(columns)["y"], [1, 2, 3, 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "fragment"),
    [
        (replace(OUTPUT, shape=("batch",)), r"the model gives \[batch, 2\]"),
        (replace(OUTPUT, shape=("batch", 5)), r"the model gives \[batch, 2\]"),
    ],
)
def test_probabilities_of_another_shape_are_said_so(
    workplace: Workplace, made: Made, output: TensorSpec, fragment: str
) -> None:
    with pytest.raises(SourceError, match=fragment):
        ingest_kind(workplace, made, "skops", outputs=(output,))


def test_probabilities_of_a_classifier_that_has_none_are_said_so(workplace: Workplace) -> None:
    from sklearn.svm import LinearSVC

    x = features()
    dump_sklearn(workplace, LinearSVC().fit(x, x[:, 0] > 0))
    with pytest.raises(SourceError, match="predict_proba, which LinearSVC does not have"):
        workplace.ingest("m.skops", "sklearn")


@pytest.mark.parametrize("name", ["forest", "boosting", "kd_tree", "ball_tree"])
def test_trees_are_packaged_and_broken_ones_refused(workplace: Workplace, name: str) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    x = features()
    estimator: Any = {
        "forest": RandomForestClassifier(2),
        "boosting": HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2),
        "kd_tree": KNeighborsClassifier(algorithm="kd_tree"),
        "ball_tree": KNeighborsClassifier(algorithm="ball_tree"),
    }[name].fit(x, x[:, 0] > 0)
    dump_sklearn(workplace, estimator)
    assert workplace.ingest("m.skops", "sklearn").loader == "skops"

    if name == "forest":
        tree = estimator.estimators_[0].tree_
        state = tree.__getstate__()
        state["nodes"]["left_child"][0] = 10**9
        tree.__setstate__(state)
    elif name == "boosting":
        estimator._predictors[0][0].nodes["left"][0] = 10**9
    else:
        np.asarray(estimator._tree.idx_array)[0] = 10**9
    dump_sklearn(workplace, estimator)
    with pytest.raises(SourceError, match="points outside itself"):
        workplace.ingest("m.skops", "sklearn")


# --- ONNX ---------------------------------------------------------------------------------------------------------


def save_external(workplace: Workplace) -> None:
    save_onnx(workplace.folder / "m.onnx", save_as_external_data=True, location="weights/m.data", size_threshold=0)


def test_an_onnx_model_is_stored_with_its_external_data(workplace: Workplace, tmp_path: Path) -> None:
    (workplace.folder / "weights").mkdir()
    save_external(workplace)
    artifact = workplace.ingest("m.onnx", "onnx")
    assert [file.path for file in artifact.files.files] == ["m.onnx", "weights/m.data"]
    shutil.rmtree(workplace.folder)
    model = load_source(artifact, workplace.store, tmp_path)
    np.testing.assert_allclose(model.predict({"x": np.zeros((1, 3), np.float32)})["y"], [BIAS])


def test_missing_and_short_external_data_are_said_so(workplace: Workplace) -> None:
    (workplace.folder / "weights").mkdir()
    save_external(workplace)
    data = workplace.folder / "weights" / "m.data"
    content = data.read_bytes()
    data.write_bytes(content[:8])
    with pytest.raises(SourceError, match=r"which has only 8"):
        workplace.ingest("m.onnx", "onnx")
    data.unlink()
    with pytest.raises(SourceError, match=r"is not there"):
        workplace.ingest("m.onnx", "onnx")


def test_external_data_without_a_length_is_held_against_its_tensors_sizes(workplace: Workplace) -> None:
    import onnx

    (workplace.folder / "weights").mkdir()
    save_external(workplace)
    path, data = workplace.folder / "m.onnx", workplace.folder / "weights" / "m.data"
    model = onnx.load(path, load_external_data=False)
    last = model.graph.initializer[-1]
    kept = [(entry.key, entry.value) for entry in last.external_data if entry.key != "length"]
    last.ClearField("external_data")
    for key, value in kept:
        last.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    workplace.ingest("m.onnx", "onnx")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"ends at byte 32 of weights/m\.data, which has only 31"):
        workplace.ingest("m.onnx", "onnx")


def test_external_data_that_is_not_what_the_model_was_saved_with_is_said_so(workplace: Workplace) -> None:
    import hashlib

    import onnx

    (workplace.folder / "weights").mkdir()
    save_external(workplace)
    path, data = workplace.folder / "m.onnx", workplace.folder / "weights" / "m.data"
    model = onnx.load(path, load_external_data=False)
    sha1 = hashlib.sha1(data.read_bytes(), usedforsecurity=False).hexdigest()
    model.graph.initializer[0].external_data.add(key="checksum", value=sha1)
    path.write_bytes(model.SerializeToString())
    workplace.ingest("m.onnx", "onnx")
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    with pytest.raises(SourceError, match=rf"expected SHA-1 {sha1}"):
        workplace.ingest("m.onnx", "onnx")


def test_an_onnx_model_that_onnxruntime_cannot_run_is_said_so(workplace: Workplace) -> None:
    save_onnx(workplace.folder / "m.onnx", op="NoSuchOperator")
    with pytest.raises(SourceError, match=r"onnxruntime .* cannot run m\.onnx.*NoSuchOperator"):
        workplace.ingest("m.onnx", "onnx")


# --- what the whole stage sees ------------------------------------------------------------------------------------


def test_rows_with_missing_values_do_not_hold_whether_or_not_the_model_imputes_them(
    workplace: Workplace, made: Made
) -> None:
    """The server refuses such a request, so nothing that is measured on them can come true."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    x = features()
    dump_sklearn(workplace, make_pipeline(SimpleImputer(), LogisticRegression()).fit(x, x[:, 0] > 0))
    x[3, 0] = np.nan
    np.savez(workplace.folder / "eval.npz", x=x, label=np.arange(30) % 2)
    for artifact in (workplace.ingest("m.skops", "sklearn"), ingest_kind(workplace, made, "onnx")):
        assert artifact.evaluation.quality is not None
        assert "DATA_MISSING_VALUES" in [finding.code for finding in artifact.evaluation.quality.findings]
        assert artifact.evaluation.quality.verdict == "failed"


def test_a_batch_that_begins_above_one_is_respected(workplace: Workplace, made: Made) -> None:
    assert ingest_kind(workplace, made, "onnx", dynamic={"batch": DimRange(6, 8)}).evaluation.rows == 10
