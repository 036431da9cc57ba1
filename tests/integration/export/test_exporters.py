"""What every exporter promises, for every model of the zoo: names, open dimensions, the source's answers."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

import serving.runners
from serving.contract import CONTRACT_FILE, Signature, Tolerance
from serving.runners import RunnerError
from tasks.errors import PlatformError
from tasks.export.compiler import compiler_version
from tasks.export.formats import formats_of
from tasks.export.sizes import sample_inputs, shape_of
from tasks.image import contract_bytes
from tasks.parity.reproduction import script
from tasks.smoke.catalogue import LEVELS
from tasks.store import LocalStore
from tests import samples
from tests.integration.export.conftest import Exports
from tests.integration.serving.process import Server, running
from tests.integration.tiny import TinyModel

FRAMEWORKS = {
    "cnn": "pytorch",
    "transformer": "pytorch",
    "recurrent": "pytorch",
    "several": "pytorch",
    "choosing": "pytorch",
    "program": "pytorch",
    "keras_two": "keras",
    "keras_cnn": "keras",
    "savedmodel": "tensorflow",
    "classifier": "sklearn",
    "columns": "sklearn",
    "onnx_file": "onnx",
}
#: Models that a format cannot express: loops in float16 (test_reduced.py: how they are refused).
REFUSED = {("several", "onnx-fp16")}
#: Compiling one takes tens of seconds: the model with open lengths stands for all.
COMPILED = ("transformer", "torch-aoti")
PAIRS = [
    (name, target)
    for name, framework in FRAMEWORKS.items()
    for target in formats_of(framework)
    if (name, target) not in REFUSED and (target != "torch-aoti" or (name, target) == COMPILED)
]
#: How far from the source answers may lie here, as a share of the largest: enough to know the model again. How far a
#: format may lie from its source is measured by parity (tests/parity/test_reduced.py).
NEAR = {"onnx-int8": 0.15, "onnx-fp16": 0.005}
every_pair = pytest.mark.parametrize(("name", "format"), PAIRS)


@every_pair
def test_answers_as_the_source_does_at_every_size(exported: Exports, name: str, format: str) -> None:
    folder, conversion = exported(name, format)
    model = exported.model(name)
    runner = serving.runners.load(exported.runtime(format), folder / conversion.root, model.signature)
    for sizes in ({"batch": batch, "length": length} for batch, length in ((1, 1), (2, 5), (7, 12), (16, 5))):
        inputs = sample_inputs(model.signature, sizes)
        expected, found = model.predict(inputs), runner.run(inputs)
        assert list(found) == [tensor.name for tensor in model.signature.outputs]
        for tensor in model.signature.outputs:
            assert found[tensor.name].shape == expected[tensor.name].shape == shape_of(tensor, sizes)
            assert found[tensor.name].dtype == tensor.dtype.numpy
            near = NEAR.get(format, 0.0) * float(np.abs(expected[tensor.name]).max(initial=0.0))
            np.testing.assert_allclose(found[tensor.name], expected[tensor.name], atol=2e-6 + near, rtol=1e-5)
    runner.close()


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *((name, target) for name in ("cnn", "transformer", "recurrent") for target in ("onnx", "torch-export")),
        ("cnn", "onnx-int8"),
        ("cnn", "onnx-fp16"),
        ("classifier", "onnx"),
        ("columns", "onnx"),
    ],
)
def test_gives_the_same_bytes_again(exported: Exports, name: str, format: str) -> None:
    """TensorFlow numbers its functions over a process's life: test_stage.py exports through it in fresh ones."""
    (first, _), (second, _) = exported(name, format), exported.again(name, format)
    assert digests(first) == digests(second)


@every_pair
def test_names_no_path_of_this_machine(exported: Exports, name: str, format: str) -> None:
    folder, _ = exported(name, format)
    local = [str(Path(__file__).parents[3]).encode(), str(folder.parent).encode(), b"site-packages"]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [place for place in local if place in content]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_onnx_files_name_every_open_dimension_as_the_spec_does(exported: Exports, name: str) -> None:
    import onnx

    folder, conversion = exported(name, "onnx")
    model = onnx.load(folder / conversion.root)
    signature = exported.model(name).signature
    for values, tensors in ((model.graph.input, signature.inputs), (model.graph.output, signature.outputs)):
        shapes = {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in values
        }
        assert list(shapes) == [tensor.name for tensor in tensors]
        assert shapes == {tensor.name: tensor.shape for tensor in tensors}
    assert conversion.ir_version == model.ir_version
    assert conversion.opset == next(entry.version for entry in model.opset_import if not entry.domain)


def test_onnx_nodes_keep_the_module_that_they_came_from(exported: Exports) -> None:
    import onnx

    folder, conversion = exported("transformer", "onnx")
    scopes = {
        entry.value
        for node in onnx.load(folder / conversion.root).graph.node
        for entry in node.metadata_props
        if entry.key == "pkg.torch.onnx.name_scopes"
    }
    assert any("encoder.layers.1.norm1" in scope for scope in scopes)


def test_recurrent_layers_are_single_operators(exported: Exports) -> None:
    import onnx

    folder, conversion = exported("recurrent", "onnx")
    operators = [node.op_type for node in onnx.load(folder / conversion.root).graph.node]
    assert (operators.count("LSTM"), operators.count("GRU"), operators.count("Loop")) == (2, 1, 0)


def test_onnx_that_fits_stays_as_it_came(exported: Exports) -> None:
    folder, conversion = exported("onnx_file", "onnx")
    assert (folder / conversion.root).read_bytes() == exported.model("onnx_file").path.read_bytes()


def test_weights_above_the_limit_lie_beside_the_graph(exported: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.export.torch_to_onnx.EXTERNAL_OVER_BYTES", 1000)
    folder, conversion = exported.again("cnn", "onnx")
    model = exported.model("cnn")
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    inputs = sample_inputs(model.signature, {"batch": 2})
    runner = serving.runners.load("onnx", folder / conversion.root, model.signature)
    found, expected = runner.run(inputs)["probabilities"], model.predict(inputs)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-5)


def compiled(exported: Exports) -> tuple[serving.runners.Runner, Signature]:
    folder, conversion = exported(*COMPILED)
    described = exported.model(COMPILED[0]).signature
    return serving.runners.load("torch", folder / conversion.root, described), described


def test_a_compiled_model_runs_on_every_processor_of_its_level(exported: Exports) -> None:
    _, conversion = exported(*COMPILED)
    assert {"avx2", "fma"} <= set(conversion.needs) <= LEVELS["x86-64-v3"]
    assert conversion.programs == {"g++": compiler_version()}


def test_a_compiled_model_is_never_given_what_it_was_not_compiled_for(exported: Exports) -> None:
    """Its code checks nothing: a wrong dtype would be read beyond its end."""
    runner, described = compiled(exported)
    tokens = sample_inputs(described, {"batch": 2, "length": 5})["tokens"]
    for wrong in (tokens.astype(np.int32), tokens[0], np.zeros((17, 5), np.int64), np.zeros((2, 13), np.int64)):
        with pytest.raises(RunnerError, match=r"input 'tokens' is .* the model was compiled for int64 of shape"):
            runner.run({"tokens": wrong})


def test_a_compiled_model_is_served_and_an_id_outside_its_table_is_400(exported: Exports, tmp_path: Path) -> None:
    """The range that it was compiled under is the contract's: nothing else would stand between the id and its end."""
    folder, _ = exported(*COMPILED)
    model, package = exported.model(COMPILED[0]), tmp_path / "package"
    shutil.copytree(folder, package / "model")
    inputs = sample_inputs(model.signature, {"batch": 2, "length": 5})
    golden = {f"input/{name}": array for name, array in inputs.items()}
    np.savez(package / "golden.npz", **golden, **{f"output/{k}": array for k, array in model.predict(inputs).items()})
    described = TinyModel("torch", package / "model").contract(
        package, format=COMPILED[1], model="model", signature=model.signature, preprocess=(),
        tolerances={name.name: Tolerance(1e-5, 1e-5) for name in model.signature.outputs},
    )  # fmt: skip
    (package / CONTRACT_FILE).write_bytes(contract_bytes(described))

    def ask(server: Server, greatest: int) -> httpx.Response:
        entry = {"name": "tokens", "datatype": "INT64", "shape": [1, 3], "data": [0, 7, greatest]}
        return server.client.post("/v2/models/tiny/infer", json={"inputs": [entry]})

    with running(package, tmp_path / "log") as server:
        assert ask(server, 19).status_code == 200
        outside = ask(server, 20)
        assert outside.status_code == 400
        assert "input 'tokens': values must lie between 0 and 19, found 20 at position 2" in outside.text
        assert ask(server, 19).status_code == 200


def test_a_compiled_model_answers_many_threads_and_strided_inputs(exported: Exports) -> None:
    runner, described = compiled(exported)
    batches = [sample_inputs(described, {"batch": size, "length": 5})["tokens"] for size in range(1, 9)]
    alone = [runner.run({"tokens": tokens})["logits"] for tokens in batches]
    strided = [np.asfortranarray(tokens) for tokens in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda tokens: runner.run({"tokens": tokens})["logits"], strided))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_compiled_model_zipped_is_the_package_that_torch_opens(exported: Exports, tmp_path: Path) -> None:
    import torch

    folder, _ = exported(*COMPILED)
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, Path("model") / path.relative_to(folder))
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    logits, _ = torch._inductor.aoti_load_package(str(package))(tokens)
    assert logits.shape == (2, 3)


def test_the_script_that_reproduces_a_failure_opens_a_compiled_model(exported: Exports, tmp_path: Path) -> None:
    folder, _ = exported(*COMPILED)
    model = exported.model(COMPILED[0])
    shutil.copytree(folder, tmp_path / "export")
    inputs = sample_inputs(model.signature, {"batch": 2, "length": 5})
    expected = model.predict(inputs)
    np.savez(tmp_path / "inputs.npz", **inputs)
    np.savez(tmp_path / "allowed.npz", **{name: np.full(array.shape, 1e-5) for name, array in expected.items()})
    export = samples.export(LocalStore(tmp_path / "store"), COMPILED[1]).model_copy(
        update={"runtime": "torch", "root": "."}
    )
    (tmp_path / "reproduce.py").write_text(script(export, model.signature))
    codes = []
    for wrong in (0.0, 1.0):
        np.savez(tmp_path / "expected.npz", **{name: array + np.float32(wrong) for name, array in expected.items()})
        codes.append(subprocess.run([sys.executable, tmp_path / "reproduce.py"], check=False).returncode)
    assert codes == [0, 1]


def test_without_a_compiler_one_sentence_says_what_is_missing(
    exported: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlatformError, match=r"no C\+\+ compiler here: install Debian's g\+\+"):
        exported.again(*COMPILED)


def test_importing_torchax_leaves_torch_as_it_was() -> None:
    import torch

    from tasks.export.torchax_import import import_torchax

    fast = torch.backends.mha.get_fastpath_enabled()
    import_torchax()
    with pytest.raises(AttributeError):
        _ = torch.ops.aten.add.no_such_overload
    assert torch._C._get_privateuse1_backend_name() == "privateuseone"
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_keeping_recurrent_layers_whole_leaves_torch_as_it_was() -> None:
    import torch

    from tasks.export.torch_recurrent import recurrent_layers_whole, recurrent_operators

    def state() -> list[object]:
        return [(dict(op.py_kernels), torch._decomp.decomposition_table.get(op)) for op in recurrent_operators()]

    before = state()
    with recurrent_layers_whole():
        assert state() != before
    assert state() == before


def test_a_savedmodel_that_fits_stays_as_it_came(exported: Exports) -> None:
    folder, _ = exported("savedmodel", "savedmodel")
    assert digests(folder) == digests(exported.model("savedmodel").path)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
