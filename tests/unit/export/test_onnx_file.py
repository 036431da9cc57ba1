"""What is done to an ONNX file whoever made it: names, dimensions, weights beside it, nothing of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.export.conversion import ExportFailure
from tasks.export.onnx_file import DATA_FILE, FILE, check, finish, put_weights_beside
from tasks.export.onnx_limits import onnx_limits

Shape = Sequence[int | str | None]


def signature(inputs: dict[str, Shape], outputs: dict[str, Shape]) -> Signature:
    def tensors(shapes: dict[str, Shape]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, DType.FLOAT32, tuple(shape)) for name, shape in shapes.items())  # type: ignore[arg-type]

    return Signature(tensors(inputs), tensors(outputs), {"batch": DimRange(1, 8), "length": DimRange(1, 8)})


def written(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / FILE
    path.write_bytes(model.SerializeToString())
    return path


def ask(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers: list[np.ndarray] = session.run(None, inputs)
    return answers


def names(path: Path) -> tuple[list[str], list[str]]:
    graph = onnx.load(path).graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


ROW = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_inputs_and_outputs_take_the_specs_names_by_position(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["args_0"], ["Identity:0"]), helper.make_node("Abs", ["args_0"], ["Identity_1:0"])]
    path = written(tmp_path, nodes, {"args_0": ["unk__1", 4]}, {"Identity:0": ["unk__2", 4], "Identity_1:0": [None, 4]})
    finish(path, signature({"x": ["batch", 4]}, {"minus": ["batch", 4], "size": ["batch", 4]}))
    assert names(path) == (["x"], ["minus", "size"])
    minus, size = ask(path, x=ROW)
    assert np.array_equal(minus, -ROW)
    assert np.array_equal(size, ROW)


def test_swapped_names_do_not_collide(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sub", ["b", "a"], ["x"]), helper.make_node("Neg", ["x"], ["y"])]
    path = written(tmp_path, nodes, {"b": ["n", 4], "a": ["n", 4]}, {"y": ["n", 4]})
    finish(path, signature({"a": ["batch", 4], "b": ["batch", 4]}, {"x": ["batch", 4]}))
    assert names(path) == (["a", "b"], ["x"])
    assert np.array_equal(ask(path, a=ROW, b=ROW * 3)[0], ROW * 2)


def test_an_output_that_is_an_input_keeps_both_names(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["in"], ["out"])]
    path = written(tmp_path, nodes, {"in": ["n", 4]}, {"out": ["n", 4], "in": ["n", 4]})
    finish(path, signature({"x": ["batch", 4]}, {"y": ["batch", 4], "same": ["batch", 4]}))
    assert names(path) == (["x"], ["y", "same"])
    assert np.array_equal(ask(path, x=ROW)[1], ROW)


def test_open_dimensions_and_formulas_of_them_take_the_specs_names(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["x", "x"], ["twice"], axis=0), helper.make_node("Neg", ["x"], ["y"])]
    path = written(tmp_path, nodes, {"x": ["s77", 4]}, {"y": ["s77", 4]})
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["2*s77", 4]))
    onnx.save(model, path)
    finish(path, signature({"x": ["batch", 4]}, {"y": ["batch", 4]}))
    graph = onnx.load(path).graph
    sizes = [
        value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output, *graph.value_info)
    ]
    assert sizes == ["batch", "batch", "2*batch"]


@pytest.mark.parametrize("frozen", [1, "1"])
@pytest.mark.parametrize("where", ["input", "output"])
def test_a_frozen_dimension_is_named_also_where_it_is_written_as_a_name(
    frozen: int | str, where: str, tmp_path: Path
) -> None:
    shapes: dict[str, Shape] = {"input": ["n", 4], "output": ["n", 4], where: [frozen, 4]}
    path = written(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": shapes["input"]}, {"y": shapes["output"]})
    with pytest.raises(ExportFailure, match=r"EXPORT_DIMENSION_FROZEN.*batch.*frozen at 1"):
        finish(path, signature({"x": ["batch", 4]}, {"y": ["batch", 4]}))


@pytest.mark.parametrize(
    ("declared", "difference"),
    [
        (signature({"x": ["batch", 5]}, {"y": ["batch", 4]}), "has 4 in dimension 1"),
        (signature({"x": ["batch", 4]}, {"y": ["batch"]}), "has 2 dimensions"),
        (signature({"x": ["batch", 4], "z": ["batch"]}, {"y": ["batch", 4]}), "1 inputs"),
        (signature({"x": ["batch", 4]}, {"y": ["batch", 4], "z": ["batch"]}), "1 outputs"),
    ],
)
def test_another_signature_is_a_mismatch(declared: Signature, difference: str, tmp_path: Path) -> None:
    path = written(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})
    with pytest.raises(ExportFailure, match=f"EXPORT_SIGNATURE_MISMATCH.*{difference}"):
        finish(path, declared)


def test_names_that_must_be_there_are_missed(tmp_path: Path) -> None:
    path = written(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})
    with pytest.raises(ExportFailure, match="no output 'z'; it has y"):
        finish(path, signature({"x": ["batch", 4]}, {"z": ["batch", 4]}), rename=False)


def test_large_weights_lie_beside_the_graph_and_still_answer(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    path = written(
        tmp_path,
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        {"x": ["n", 4]},
        {"y": ["n", 500]},
        {"weight": weight},
    )
    described = signature({"x": ["batch", 4]}, {"y": ["batch", 500]})
    finish(path, described, external_over=1000)
    assert path.stat().st_size < 1000 < weight.nbytes <= (tmp_path / DATA_FILE).stat().st_size
    np.testing.assert_allclose(ask(path, x=ROW)[0], ROW @ weight, rtol=1e-5)


def test_weights_that_already_lie_beside_the_graph_stay_there(tmp_path: Path) -> None:
    weight = np.ones((4, 500), np.float32)
    path = written(
        tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 500]}, {"w": weight}
    )
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, all_tensors_to_one_file=True, location=DATA_FILE)
    before = (tmp_path / DATA_FILE).read_bytes()
    finish(path, signature({"a": ["batch", 4]}, {"b": ["batch", 500]}))
    assert (tmp_path / DATA_FILE).read_bytes() == before
    np.testing.assert_allclose(ask(path, a=ROW)[0], ROW @ weight)


def two_layers(folder: Path) -> tuple[Path, np.ndarray]:
    weight = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    nodes = [helper.make_node("Add", ["x", "small"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    weights = {"small": np.ones(4, np.float32), "w": weight}
    return written(folder, nodes, {"x": ["n", 4]}, {"y": ["n", 500]}, weights), (ROW + 1) @ weight


@pytest.mark.parametrize("how", ["raw bytes", "a list of numbers"])
def test_weights_of_any_size_can_be_put_beside_the_graph(tmp_path: Path, how: str) -> None:
    path, expected = two_layers(tmp_path)
    if how == "a list of numbers":
        model = onnx.load(path)
        array = numpy_helper.to_array(model.graph.initializer[1])
        numbers = helper.make_tensor("w", TensorProto.FLOAT, array.shape, array.ravel().tolist())
        model.graph.initializer[1].CopyFrom(numbers)
        onnx.save(model, path)
    put_weights_beside(path)
    where = [
        {entry.key: entry.value for entry in weight.external_data}
        for weight in onnx.load(path, load_external_data=False).graph.initializer
    ]
    assert where == [{}, {"location": DATA_FILE, "offset": "0", "length": "8000"}]
    np.testing.assert_allclose(ask(path, x=ROW)[0], expected, rtol=1e-5)


def test_a_file_that_a_source_brought_is_not_written_over(tmp_path: Path) -> None:
    path, expected = two_layers(tmp_path)
    (tmp_path / DATA_FILE).write_bytes(b"the source's own")
    put_weights_beside(path)
    assert (tmp_path / DATA_FILE).read_bytes() == b"the source's own"
    np.testing.assert_allclose(ask(path, x=ROW)[0], expected, rtol=1e-5)


def test_a_graph_without_weights_to_move_stays_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})
    before = path.read_bytes()
    put_weights_beside(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [FILE]


def test_doc_strings_and_stack_traces_are_left_out_and_module_names_kept(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["x"], ["y"], doc_string="File /somewhere/model.py")
    for key in ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.name_scopes"):
        node.metadata_props.add(key=key, value="File /somewhere/model.py" if "stack" in key else "['', 'head']")
    path = written(tmp_path, [node], {"x": ["n", 4]}, {"y": ["n", 4]})
    finish(path, signature({"x": ["batch", 4]}, {"y": ["batch", 4]}))
    assert b"/somewhere" not in path.read_bytes()
    (kept,) = onnx.load(path).graph.node[0].metadata_props
    assert (kept.key, kept.value) == ("pkg.torch.onnx.name_scopes", "['', 'head']")


def test_what_the_checker_refuses_is_no_export(tmp_path: Path) -> None:
    path = written(tmp_path, [helper.make_node("Neg", ["nowhere"], ["y"])], {"x": ["n", 4]}, {"y": ["n", 4]})
    with pytest.raises(ExportFailure, match="EXPORT_INVALID_ONNX"):
        finish(path, signature({"x": ["batch", 4]}, {"y": ["batch", 4]}))


def stamped(path: Path, domain: str, version: int, *, used: bool = False, defined: bool = False) -> Path:
    """The file with an operator set of one more domain, one of whose operators it uses, or defines itself."""
    model = onnx.load(path)
    entries = {entry.domain: entry.version for entry in model.opset_import} | {domain: version}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(name, number) for name, number in entries.items())
    if used:
        model.graph.node[0].op_type, model.graph.node[0].domain = "Own", domain
    if defined:
        body = [helper.make_node("Neg", ["a"], ["b"])]
        model.functions.append(
            helper.make_function(domain, "Own", ["a"], ["b"], body, [helper.make_opsetid("", entries[""])])
        )
    path.write_bytes(model.SerializeToString())
    return path


def negated(folder: Path) -> Path:
    return written(folder, [helper.make_node("Neg", ["x"], ["y"])], {"x": ["batch", 4]}, {"y": ["batch", 4]})


@pytest.mark.parametrize(("domain", "name"), [("ai.onnx.ml", "opset ai.onnx.ml"), ("com.microsoft", "opset com.mic")])
def test_an_operator_set_newer_than_the_runtimes_is_refused(tmp_path: Path, domain: str, name: str) -> None:
    newest = onnx_limits().opsets[domain]
    check(stamped(negated(tmp_path), domain, newest))
    with pytest.raises(ExportFailure, match=rf"EXPORT_OPSET_TOO_NEW.*{name}.* {newest + 1}, .*up to {newest}"):
        check(stamped(negated(tmp_path), domain, newest + 1))


def test_an_operator_of_a_domain_that_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportFailure, match=r"EXPORT_UNKNOWN_DOMAIN.*my\.ops\.Own"):
        check(stamped(negated(tmp_path), "my.ops", 1, used=True))


def test_an_operator_that_the_file_defines_itself_is_served(tmp_path: Path) -> None:
    path = stamped(negated(tmp_path), "my.ops", 1, used=True, defined=True)
    check(path)
    assert np.array_equal(ask(path, x=ROW)[0], -ROW)


def test_the_limits_are_those_of_the_onnxruntime_that_is_installed() -> None:
    limits = onnx_limits()
    assert limits.version == onnxruntime.__version__
    assert (limits.opset, limits.ir_version) >= (21, 10)
