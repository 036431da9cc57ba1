"""Files that would run code when they are opened: each leaves a mark if it does, and must not.

`test_the_attack_is_real` opens the same files the way the framework's own manual does, and finds the mark: what is
refused here is not harmless elsewhere.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import EvaluationError, SourceError, UnsafeSource
from tests.unit.ingest.conftest import Workplace, rewrite, save_onnx

Members = dict[str, bytes]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.mark}",)


# --- torch.export archives ----------------------------------------------------------------------------------------


def _edit_json(members: Members, name: str, edit: Callable[[Any], None]) -> None:
    [key] = [key for key in members if key.endswith(name)]
    content = json.loads(members[key])
    edit(content)
    members[key] = json.dumps(content).encode()


def _torch_saved(value: Any) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _add(name: str, content: Callable[[Path], bytes], members: Members, mark: Path) -> None:
    members[f"{next(iter(members)).partition('/')[0]}/{name}"] = content(mark)


def sample_inputs(members: Members, mark: Path) -> None:
    _add("data/sample_inputs/model.pt", lambda mark: _torch_saved(((Touch(mark),), {})), members, mark)


def pickled_weight(members: Members, mark: Path) -> None:
    def edit(config: Any) -> None:
        meta = config["config"]["bias"]
        meta["use_pickle"] = True
        _add(f"data/weights/{meta['path_name']}", lambda mark: _torch_saved(Touch(mark)), members, mark)

    _edit_json(members, "model_weights_config.json", edit)


def _constant(path_name: str, use_pickle: bool, content: Callable[[Path], bytes]) -> Callable[[Members, Path], None]:
    def edit(members: Members, mark: Path) -> None:
        meta = {"path_name": path_name, "is_param": False, "use_pickle": use_pickle, "tensor_meta": None}
        _edit_json(members, "model_constants_config.json", lambda config: config["config"].update(evil=meta))
        _add(f"data/constants/{path_name}", content, members, mark)

    return edit


def older_weights(members: Members, mark: Path) -> None:
    _add("data/weights/model.pt", lambda mark: _torch_saved({"evil": Touch(mark)}), members, mark)


def compiled_library(members: Members, mark: Path) -> None:
    _add("data/aotinductor/model/model.so", lambda mark: b"\x7fELF", members, mark)


def operator_outside(members: Members, mark: Path) -> None:
    def edit(program: Any) -> None:
        graph = program["graph_module"]["graph"]
        call = {"target": "torch.os.system", "metadata": {}, "is_hop_single_tensor_return": None, "name": "evil"}
        argument = {"name": "", "arg": {"as_string": f"touch {mark}"}, "kind": 1}
        output = {"as_tensor": {"name": "evil"}}
        graph["nodes"].insert(0, {**call, "inputs": [argument], "outputs": [output]})
        graph["tensor_values"]["evil"] = graph["tensor_values"]["p_bias"]
        program["verifiers"] = []

    _edit_json(members, "models/model.json", edit)


def operator_writes_a_file(members: Members, mark: Path) -> None:
    def edit(program: Any) -> None:
        graph = program["graph_module"]["graph"]
        call = {"target": "torch.ops.aten.from_file.default", "metadata": {}, "name": "evil"}
        inputs = [
            {"name": "filename", "arg": {"as_string": str(mark)}, "kind": 1},
            {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
            {"name": "size", "arg": {"as_int": 4}, "kind": 1},
        ]
        output = {"as_tensor": {"name": "evil"}}
        graph["nodes"].insert(0, {**call, "inputs": inputs, "outputs": [output], "is_hop_single_tensor_return": None})
        graph["tensor_values"]["evil"] = graph["tensor_values"]["p_bias"]

    _edit_json(members, "models/model.json", edit)


def _python(mark: Path) -> str:
    return f"__import__('os').system('touch {mark}')"


def size_expression(members: Members, mark: Path) -> None:
    def edit(program: Any) -> None:
        size = program["graph_module"]["graph"]["tensor_values"]["linear"]["sizes"][0]
        size["as_expr"]["expr_str"] = _python(mark)

    _edit_json(members, "models/model.json", edit)


def guard_code(members: Members, mark: Path) -> None:
    _edit_json(members, "models/model.json", lambda program: program["guards_code"].append(f"{_python(mark)} == 0"))


def guard_message(members: Members, mark: Path) -> None:
    """The guard's text is also written into a string literal of the generated code."""
    codes = [", ".join(map(str, text.encode())) for text in ("os", f"touch {mark}")]
    call = f"__import__(bytes([{codes[0]}]).decode()).system(bytes([{codes[1]}]).decode())"
    guard = f"""'" + str({call}) + "' == 0"""
    _edit_json(members, "models/model.json", lambda program: program["guards_code"].append(guard))


def name_of_an_input(members: Members, mark: Path) -> None:
    [key] = [key for key in members if key.endswith("models/model.json")]
    evil = json.dumps(f"input={_python(mark)}").encode()
    for place in (b'{"name": %s}', b"{%s: {", b", %s: {"):
        members[key] = members[key].replace(place % b'"input"', place % evil)


def tree_that_imports(members: Members, mark: Path) -> None:
    """`out_spec` may name a module, which is imported: here, one that lies beside the mark."""
    package = mark.with_name("evil_module.py")
    package.write_text(f"open({str(mark)!r}, 'w')\nclass E: pass\n")
    context = {"__enum__": True, "fqn": "evil_module:E", "name": "A"}
    leaf = {"type": None, "context": None, "children_spec": []}

    def edit(program: Any) -> None:
        for entry in program["graph_module"]["module_call_graph"]:
            tree = {"type": "builtins.dict", "context": json.dumps([context]), "children_spec": [leaf]}
            entry["signature"]["out_spec"] = json.dumps([1, tree])

    _edit_json(members, "models/model.json", edit)


ARCHIVES = {
    "sample inputs": sample_inputs,
    "a pickled weight": pickled_weight,
    "a pickled constant": _constant("tensor_0", True, lambda mark: _torch_saved(Touch(mark))),
    "an opaque object": _constant("opaque_obj_0", True, lambda mark: pickle.dumps(Touch(mark))),
    "a custom object": _constant("custom_obj_0", True, lambda mark: _torch_saved(Touch(mark))),
    "weights of an older layout": older_weights,
    "a compiled library": compiled_library,
    "an operator outside torch.ops": operator_outside,
    "an operator that writes a file": operator_writes_a_file,
    "a size that is an expression": size_expression,
    "guards": guard_code,
    "the message of a guard": guard_message,
    "the name of an input": name_of_an_input,
    "a tree that imports": tree_that_imports,
}


@pytest.fixture
def hostile_archive(made: Callable[[str], Path], tmp_path: Path, mark: Path) -> Callable[[str], Path]:
    def make(what: str) -> Path:
        return rewrite(made("pt2"), tmp_path / "hostile.pt2", partial(ARCHIVES[what], mark=mark))

    return make


@pytest.mark.parametrize("what", ARCHIVES)
def test_a_torch_export_archive_with_code_in_it_is_refused(
    what: str, hostile_archive: Callable[[str], Path], workplace: Workplace, mark: Path
) -> None:
    shutil.copy(hostile_archive(what), workplace.folder / "m.pt2")
    with pytest.raises(UnsafeSource, match=r"torch\.export\.save") as caught:
        workplace.ingest("m.pt2", "pytorch")
    assert "m.pt2" in str(caught.value)
    assert not mark.exists()


#: No mark from these here: a torch-bound object needs its own library to be unpickled, a compiled library a compiler,
#: and this PyTorch's verifier stops the operator before it is called.
SHOWN = [
    what for what in ARCHIVES if what not in ("a custom object", "a compiled library", "an operator outside torch.ops")
]


@pytest.mark.parametrize("what", SHOWN)
def test_the_attack_is_real(
    what: str, hostile_archive: Callable[[str], Path], mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    path = hostile_archive(what)
    monkeypatch.syspath_prepend(str(mark.parent))
    try:  # noqa: SIM105 - what an attack breaks afterwards does not matter
        torch.export.load(path).module()(torch.zeros(2, 3))
    except Exception:  # noqa: BLE001
        pass
    assert mark.exists()


# --- pickles under other names ------------------------------------------------------------------------------------


def test_a_state_dict_with_an_object_in_it_is_refused_and_the_object_named(workplace: Workplace, mark: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(2, 3), "evil": Touch(mark)}, workplace.folder / "m.pt")
    with pytest.raises(UnsafeSource, match=r"posix\.system.*torch\.save\(model\.state_dict\(\)"):
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")
    assert not mark.exists()


def test_a_bare_pickle_called_pt_is_refused(workplace: Workplace, mark: Path) -> None:
    (workplace.folder / "m.pt").write_bytes(pickle.dumps(Touch(mark)))
    with pytest.raises(UnsafeSource, match=r"posix\.system"):
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(workplace: Workplace) -> None:
    import torch

    torch.save(torch.nn.Linear(3, 2), workplace.folder / "m.pt")
    with pytest.raises(UnsafeSource, match=r"torch\.nn\.modules\.linear\.Linear"):
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")


def test_a_torchscript_archive_is_refused(workplace: Workplace) -> None:
    import torch

    torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3)).save(str(workplace.folder / "m.pt"))
    with pytest.raises(UnsafeSource, match="TorchScript"):
        workplace.ingest("m.pt", "pytorch", entrypoint="model:build")


def test_a_pickle_called_skops_is_refused(workplace: Workplace, mark: Path) -> None:
    (workplace.folder / "m.skops").write_bytes(pickle.dumps(Touch(mark)))
    with pytest.raises(UnsafeSource, match=r"posix\.system.*skops\.io\.dump"):
        workplace.ingest("m.skops", "sklearn")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".joblib"])
def test_a_folder_with_only_pickles_is_refused_with_the_way_out(workplace: Workplace, mark: Path, suffix: str) -> None:
    (workplace.folder / "logged").mkdir()
    (workplace.folder / "logged" / f"model{suffix}").write_bytes(pickle.dumps(Touch(mark)))
    with pytest.raises(UnsafeSource, match=rf"model\{suffix}.*skops\.io\.dump"):
        workplace.ingest("logged", "sklearn")
    assert not mark.exists()


def test_pickled_evaluation_data_is_refused(workplace: Workplace, made: Callable[[str], Path], mark: Path) -> None:
    shutil.copy(made("onnx"), workplace.folder / "m.onnx")
    x = np.zeros((2, 3), dtype=np.float32)
    np.savez(workplace.folder / "eval.npz", x=x, label=np.array([Touch(mark), 1], dtype=object))
    with pytest.raises(EvaluationError, match="'label' is pickled objects"):
        workplace.ingest("m.onnx", "onnx")
    assert not mark.exists()


# --- Keras --------------------------------------------------------------------------------------------------------


def _hostile_keras(made: Callable[[str], Path], to: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    rewrite(made("keras"), to, lambda members: _edit_json(members, "config.json", edit))


def _layer(config: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = config["config"]["layers"][-1]
    return layer


def test_a_keras_model_with_a_lambda_is_refused(workplace: Workplace, mark: Path) -> None:
    import keras

    command = f"touch {mark}"
    lambda_layer = keras.layers.Lambda(lambda x: (__import__("os").system(command), x)[1], name="evil")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.add(lambda_layer)
    mark.unlink()  # it ran while it was built
    model.save(workplace.folder / "m.keras")
    with pytest.raises(UnsafeSource, match="Lambda 'evil' holds Python code"):
        workplace.ingest("m.keras", "keras")
    assert not mark.exists()
    keras.saving.load_model(workplace.folder / "m.keras", safe_mode=False)(np.zeros((1, 3)))
    assert mark.exists()


def test_a_keras_model_with_a_pickled_torch_module_is_refused(
    workplace: Workplace, made: Callable[[str], Path], mark: Path
) -> None:
    import base64

    def edit(config: dict[str, Any]) -> None:
        wrapped = base64.b64encode(_torch_saved(Touch(mark))).decode()
        _layer(config).update(class_name="TorchModuleWrapper", module="keras.layers", config={"module": wrapped})

    _hostile_keras(made, workplace.folder / "m.keras", edit)
    with pytest.raises(UnsafeSource, match="TorchModuleWrapper holds Python code"):
        workplace.ingest("m.keras", "keras")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"module": "os", "class_name": "system", "registered_name": "system"}, "os.system"),
        ({"module": "keras.utils", "class_name": "get_file"}, "keras.utils.get_file"),
        ({"module": "keras.src.saving.saving_lib", "class_name": "load_model"}, "saving_lib.load_model"),
        ({"module": None, "class_name": "Mine", "registered_name": "mine>Mine"}, "none of Keras's own"),
        ({"registered_name": "mine>Mine"}, "custom object mine>Mine"),
        ({"class_name": "Lambda"}, "holds Python code"),
        ({"class_name": "TFSMLayer"}, "holds Python code"),
        ({"class_name": ["Dense"]}, "none of Keras's own"),
    ],
)
def test_a_keras_layer_that_is_none_of_keras_own_is_refused(
    workplace: Workplace, made: Callable[[str], Path], change: dict[str, Any], found: str
) -> None:
    _hostile_keras(made, workplace.folder / "m.keras", lambda config: _layer(config).update(change))
    with pytest.raises(UnsafeSource, match=found):
        workplace.ingest("m.keras", "keras")


def test_code_hidden_deep_in_a_keras_configuration_is_found(workplace: Workplace, made: Callable[[str], Path]) -> None:
    def edit(config: dict[str, Any]) -> None:
        evil = {"class_name": "__lambda__", "config": {"value": "…"}}
        _layer(config)["config"]["kernel_initializer"]["config"] = {"deep": [{"er": evil}]}

    _hostile_keras(made, workplace.folder / "m.keras", edit)
    with pytest.raises(UnsafeSource, match="__lambda__ holds Python code"):
        workplace.ingest("m.keras", "keras")


def test_a_keras_layer_that_reads_a_file_is_refused(workplace: Workplace, made: Callable[[str], Path]) -> None:
    def edit(config: dict[str, Any]) -> None:
        _layer(config).update(class_name="StringLookup", config={"vocabulary": "/etc/passwd"})

    _hostile_keras(made, workplace.folder / "m.keras", edit)
    with pytest.raises(UnsafeSource, match="vocabulary names the file '/etc/passwd'"):
        workplace.ingest("m.keras", "keras")


@pytest.mark.parametrize("kind", ["link", "data set", "virtual"])
def test_keras_weights_that_lie_in_another_file_are_refused(
    workplace: Workplace, made: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    import h5py

    def edit(members: Members) -> None:
        weights = tmp_path / "weights.h5"
        weights.write_bytes(members["model.weights.h5"])
        with h5py.File(weights, "a") as file:
            if kind == "link":
                file["evil"] = h5py.ExternalLink("/etc/passwd", "/x")
            elif kind == "data set":
                file.create_dataset("evil", (4,), "u1", external=[("/etc/passwd", 0, 4)])
            else:
                layout = h5py.VirtualLayout((4,), "u1")
                layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (4,))
                file.create_virtual_dataset("evil", layout)
        members["model.weights.h5"] = weights.read_bytes()

    rewrite(made("keras"), workplace.folder / "m.keras", edit)
    with pytest.raises(UnsafeSource, match="reach outside the file"):
        workplace.ingest("m.keras", "keras")


def test_a_keras_2_file_is_refused_with_the_way_out(workplace: Workplace) -> None:
    import h5py

    with h5py.File(workplace.folder / "m.keras", "w") as file:
        file.attrs["model_config"] = "{}"
    with pytest.raises(UnsafeSource, match="Keras 2 file"):
        workplace.ingest("m.keras", "keras")


# --- scikit-learn -------------------------------------------------------------------------------------------------


def test_a_skops_file_that_names_a_function_of_the_system_is_refused(workplace: Workplace, mark: Path) -> None:
    import os

    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x = np.eye(3, dtype=np.float32)
    pipeline = make_pipeline(FunctionTransformer(), LogisticRegression()).fit(x, [0, 1, 1])
    pipeline.steps[0][1].func = os.system
    skops.io.dump(pipeline, workplace.folder / "m.skops")
    with pytest.raises(UnsafeSource, match=r"posix\.system"):
        workplace.ingest("m.skops", "sklearn")
    assert not mark.exists()


def test_a_skops_file_that_names_a_class_of_someones_own_is_refused(workplace: Workplace) -> None:
    import skops.io

    skops.io.dump({"model": Touch(Path("x"))}, workplace.folder / "m.skops")
    with pytest.raises(UnsafeSource, match=r"Touch|system"):
        workplace.ingest("m.skops", "sklearn")


# --- TensorFlow ---------------------------------------------------------------------------------------------------


def _save_savedmodel(folder: Path, act: Callable[[Any], None]) -> None:
    import tensorflow as tf

    class Evil(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def serve(self, x: Any) -> dict[str, Any]:
            act(x)
            return {"y": x[:, :2]}

    model = Evil()
    tf.saved_model.save(model, str(folder), signatures=model.serve)


def _acts(mark: Path) -> dict[str, Callable[[Any], None]]:
    import tensorflow as tf

    def in_a_branch(x: Any) -> None:
        tf.cond(tf.size(x) > 0, lambda: tf.io.write_file(str(mark), "x"), tf.no_op)

    return {
        "WriteFile": lambda x: tf.io.write_file(str(mark), "x"),
        "ReadFile": lambda x: tf.print(tf.strings.length(tf.io.read_file("/etc/passwd"))),
        "PrintV2": lambda x: tf.print("x", output_stream=f"file://{mark}"),
        "EagerPyFunc": lambda x: tf.py_function(mark.touch, [], []),
        "MatchingFiles": lambda x: tf.print(tf.io.matching_files("/etc/*")),
        "SaveV2": lambda x: tf.raw_ops.SaveV2(
            prefix=str(mark), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros(1)]
        ),
        "WriteFile in a branch": in_a_branch,
    }


@pytest.mark.parametrize(
    "op", ["WriteFile", "ReadFile", "PrintV2", "EagerPyFunc", "MatchingFiles", "SaveV2", "WriteFile in a branch"]
)
def test_a_savedmodel_that_reaches_outside_is_refused(workplace: Workplace, mark: Path, op: str) -> None:
    _save_savedmodel(workplace.folder / "m", _acts(mark)[op])
    with pytest.raises(UnsafeSource, match=op.partition(" ")[0]):
        workplace.ingest("m", "tensorflow")
    assert not mark.exists()


def test_a_savedmodel_that_writes_when_it_is_asked_really_does(tmp_path: Path, mark: Path) -> None:
    import tensorflow as tf

    _save_savedmodel(tmp_path / "m", _acts(mark)["WriteFile in a branch"])
    mark.unlink(missing_ok=True)
    tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"](x=tf.zeros((1, 3)))
    assert mark.exists()


@pytest.mark.parametrize("name", ["saved_model.cpb", "saved_model.pbtxt"])
def test_a_savedmodel_with_a_second_graph_is_refused(
    workplace: Workplace, made: Callable[[str], Path], name: str
) -> None:
    shutil.copytree(made("savedmodel"), workplace.folder / "m")
    (workplace.folder / "m" / name).write_bytes(b"x")
    with pytest.raises(UnsafeSource, match=name):
        workplace.ingest("m", "tensorflow")


# --- ONNX ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret"])
def test_an_onnx_model_whose_tensors_lie_outside_its_folder_is_refused(workplace: Workplace, location: str) -> None:
    import onnx

    path = workplace.folder / "m.onnx"
    save_onnx(path)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeSource, match="outside the model's folder"):
        workplace.ingest("m.onnx", "onnx")


def test_a_function_whose_tensor_lies_outside_the_folder_is_refused(workplace: Workplace) -> None:
    import onnx
    from onnx import helper

    path = workplace.folder / "m.onnx"
    save_onnx(path)
    model = onnx.load(path)
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    constant = helper.make_node("Constant", [], ["out"], value=tensor)
    model.functions.append(helper.make_function("own", "Leak", [], ["out"], [constant], [helper.make_opsetid("", 18)]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeSource, match="outside the model's folder"):
        workplace.ingest("m.onnx", "onnx")


def test_an_onnx_model_with_operators_of_its_own_is_refused_by_their_names(workplace: Workplace) -> None:
    save_onnx(workplace.folder / "m.onnx", op="Evil", domain="my.ops")
    with pytest.raises(SourceError, match=r"my\.ops\.Evil"):
        workplace.ingest("m.onnx", "onnx")


# --- archives -----------------------------------------------------------------------------------------------------


def _with_member(archive: Path, name: str, content: bytes = b"x", **attributes: Any) -> None:
    member = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(member, key, value)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(member, content)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "a\\..\\evil"])
def test_an_archive_that_would_write_outside_is_refused(
    workplace: Workplace, made: Callable[[str], Path], name: str
) -> None:
    shutil.copy(made("keras"), workplace.folder / "m.keras")
    _with_member(workplace.folder / "m.keras", name)
    with pytest.raises(UnsafeSource, match="outside its folder"):
        workplace.ingest("m.keras", "keras")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("kind", "member"), [("keras", "config.json"), ("pt2", "small/MODELS/model.json")])
def test_an_archive_with_a_member_twice_is_refused(
    workplace: Workplace, made: Callable[[str], Path], kind: str, member: str
) -> None:
    shutil.copy(made(kind), workplace.folder / f"m.{kind}")
    _with_member(workplace.folder / f"m.{kind}", member)
    with pytest.raises(UnsafeSource, match="twice"):
        workplace.ingest(f"m.{kind}", "keras" if kind == "keras" else "pytorch")


def test_an_archive_that_fills_the_disk_is_refused(workplace: Workplace, made: Callable[[str], Path]) -> None:
    shutil.copy(made("skops"), workplace.folder / "m.skops")
    _with_member(workplace.folder / "m.skops", "zeros.npy", bytes(300 << 20), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeSource, match="fills a disk"):
        workplace.ingest("m.skops", "sklearn")


def test_an_archive_with_a_link_in_it_is_refused(workplace: Workplace, made: Callable[[str], Path]) -> None:
    shutil.copy(made("keras"), workplace.folder / "m.keras")
    _with_member(workplace.folder / "m.keras", "assets/x", b"/etc/passwd", external_attr=0o120777 << 16)
    with pytest.raises(UnsafeSource, match="is a link"):
        workplace.ingest("m.keras", "keras")


def test_an_archive_with_data_before_it_is_refused(workplace: Workplace, made: Callable[[str], Path]) -> None:
    (workplace.folder / "m.keras").write_bytes(b"#!/bin/sh\n" + made("keras").read_bytes())
    with pytest.raises(SourceError, match="does not begin like a zip archive"):
        workplace.ingest("m.keras", "keras")
