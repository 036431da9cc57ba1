"""ONNX in reduced precision: what is quantised, what is refused, what is kept beside it, and on which processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from serving.contract import DimRange, DType, Signature, TensorSpec
from serving.preprocess import Preprocessing
from tasks.export import export
from tasks.export.calibration import MOST_ROWS, batches, calibration_rows
from tasks.export.conversion import ExportFailure, Source, base_folder
from tasks.export.formats import exporter_of
from tasks.spec import ExportSpec, Int8
from tasks.store import LocalStore
from tests.integration.export.conftest import Exports
from tests.integration.export.test_stage import torch_artifact
from tests.samples import spec

WIDTH = 64
SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", WIDTH)),),
    (TensorSpec("y", DType.FLOAT32, ("batch", WIDTH)),),
    {"batch": DimRange(1, 64)},
)
PRODUCT = f"net (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{ y = MatMul (x, w) }}"


def model(text: str, **weights: np.ndarray) -> bytes:
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return parsed.SerializeToString()


def exported_file(
    content: bytes, folder: Path, format: str = "onnx-int8", mode: Int8 = Int8.STATIC, rows: np.ndarray | None = None
) -> Path:
    path, out = folder / "given.onnx", folder / "out"
    path.write_bytes(content)
    out.mkdir()
    given = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32) if rows is None else rows
    source: Any = Source(None, path, "onnx", ExportSpec(int8=mode), lambda: batches({"x": given}, SIGNATURE))  # type: ignore[arg-type]
    return out / exporter_of(format, "onnx")(source, SIGNATURE, out).root


def kinds(path: Path) -> dict[int, set[str]]:
    """Element type → the weights that have it."""
    found: dict[int, set[str]] = {}
    for weight in onnx.load(path).graph.initializer:
        found.setdefault(weight.data_type, set()).add(weight.name)
    return found


# --- what is written ----------------------------------------------------------------------------------------------


def test_attentions_own_products_stay_in_float(exported: Exports) -> None:
    folder, conversion = exported("transformer", "onnx-int8")
    graph = onnx.load(folder / conversion.root).graph
    whole = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    quantised = [node for node in products if whole.issuperset(node.input[:2])]
    mixed = [node for node in products if whole & set(node.input[:2]) and node not in quantised]
    assert len(quantised) == 9  # two layers of four linear ones, and the head
    assert len(products) - len(quantised) == 4
    assert mixed == []


def test_int8_nodes_keep_the_module_that_they_came_from(exported: Exports) -> None:
    folder, conversion = exported("transformer", "onnx-int8")
    said = [entry.value for node in onnx.load(folder / conversion.root).graph.node for entry in node.metadata_props]
    assert any("linear1" in value for value in said)


def test_the_full_precision_file_beside_it_is_that_of_the_format_onnx(exported: Exports) -> None:
    plain, conversion = exported("cnn", "onnx")
    for target in ("onnx-int8", "onnx-fp16"):
        folder, reduced = exported("cnn", target)
        assert reduced.base is not None
        beside = base_folder(folder) / reduced.base
        assert beside.read_bytes() == (plain / conversion.root).read_bytes()


def test_a_reduced_export_is_stored_with_its_base_and_precision(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    given = torch_artifact(store, tmp_path, "pass")
    dynamic = spec(export=ExportSpec(int8=Int8.DYNAMIC))
    plain, reduced = (
        export(dynamic, given, target, store, tmp_path / target).export for target in ("onnx", "onnx-int8")
    )
    assert plain is not None
    assert reduced is not None
    assert (plain.precision, plain.base, reduced.precision) == ("full", None, "int8")
    assert reduced.base is not None
    assert reduced.base.files == plain.files
    assert "dynamic" in reduced.exporter


def test_int8_weights_take_a_quarter_and_float16_weights_half(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    for target, kind in (("onnx-int8", TensorProto.INT8), ("onnx-fp16", TensorProto.FLOAT16)):
        (tmp_path / target).mkdir()
        path = exported_file(model(PRODUCT, w=weight), tmp_path / target, target)
        stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
        large = [tensor for tensor in stored.values() if list(tensor.dims) == [WIDTH, WIDTH]]
        assert [tensor.data_type for tensor in large] == [kind]


# --- what is refused ----------------------------------------------------------------------------------------------


def refusal(content: bytes, folder: Path, format: str, mode: Int8 = Int8.STATIC) -> ExportFailure:
    with pytest.raises(ExportFailure) as raised:
        exported_file(content, folder, format, mode)
    return raised.value


def test_a_model_in_which_nothing_can_be_quantised_is_refused(tmp_path: Path) -> None:
    text = f"net (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{ y = Softmax (x) }}"
    assert refusal(model(text), tmp_path, "onnx-int8").code == "EXPORT_NOTHING_TO_QUANTIZE"


def test_a_model_of_convolutions_alone_is_told_to_be_static(tmp_path: Path) -> None:
    text = f"""net (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
        wide = Reshape (x, apart)
        z = Conv <pads = [1, 1]> (wide, w)
        y = Reshape (z, together)
    }}"""
    weights = {"apart": np.array([0, 1, WIDTH]), "together": np.array([0, WIDTH])}
    content = model(text, w=np.ones((1, 1, 3), dtype=np.float32), **weights)
    found = refusal(content, tmp_path, "onnx-int8", Int8.DYNAMIC)
    assert found.code == "EXPORT_NOTHING_TO_QUANTIZE"
    assert "int8: static" in found.advice


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    weight = np.eye(WIDTH, dtype=np.float32)
    weight[3, 3] = 70_000
    found = refusal(model(PRODUCT, w=weight), tmp_path, "onnx-fp16")
    assert (found.code, found.evidence["weight"], found.evidence["largest"]) == ("EXPORT_FLOAT16_OVERFLOW", "w", 70_000)


def test_a_mask_that_stands_for_infinity_is_no_overflow(tmp_path: Path) -> None:
    text = f"net (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{ z = Add (x, mask)\n y = Softmax (z) }}"
    mask = np.zeros(WIDTH, dtype=np.float32)
    mask[0] = np.finfo(np.float32).min
    path = exported_file(model(text, mask=mask), tmp_path, "onnx-fp16")
    answer = onnxruntime.InferenceSession(path).run(None, {"x": np.zeros((2, WIDTH), dtype=np.float32)})[0]
    assert answer[:, 0].tolist() == [0, 0]


def test_loops_are_refused_in_float16(exported: Exports) -> None:
    with pytest.raises(ExportFailure) as raised:
        exported.again("several", "onnx-fp16")
    assert (raised.value.code, raised.value.evidence["operator"]) == ("EXPORT_UNSUPPORTED_OPERATOR", "Loop")


def test_recurrent_layers_over_an_open_length_are_refused_by_the_compiler(exported: Exports) -> None:
    with pytest.raises(ExportFailure, match=r"unrolls memory \(LSTM\) over one number of steps") as raised:
        exported.again("recurrent", "torch-aoti")
    assert (raised.value.code, raised.value.evidence["operator"]) == ("EXPORT_UNSUPPORTED_OPERATOR", "aten.lstm")


# --- calibration --------------------------------------------------------------------------------------------------


def test_calibration_rows_are_few_spread_and_the_same_every_time() -> None:
    column = np.arange(10_000, dtype=np.float32)[:, np.newaxis] * np.ones(WIDTH, dtype=np.float32)

    def rows() -> np.ndarray:
        return np.concatenate([batch["x"] for batch in calibration_rows({"x": column}, Preprocessing((), SIGNATURE))])[
            :, 0
        ]

    assert len(rows()) == MOST_ROWS
    assert (rows()[0], rows()[-1]) == (0, 9_999)
    assert np.diff(rows()).max() <= 41
    assert np.array_equal(rows(), rows())


def test_calibration_batches_keep_to_the_least_size_of_the_batch() -> None:
    least = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": DimRange(4, 8)})
    found = batches({"x": np.zeros((9, WIDTH), dtype=np.float32)}, least)
    assert [len(batch["x"]) for batch in found] == [8, 4]


# --- processors ---------------------------------------------------------------------------------------------------

#: Runs a file for stored inputs and stores the answer; Python's libraries are those of this process.
PROGRAM = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {"x": numpy.load(sys.argv[2])})[0])
"""


def saturating() -> tuple[bytes, np.ndarray]:
    """Neighbouring weights and inputs near the ends of their ranges: the pairs that `vpmaddubsw` adds in 16 bits."""
    draw = np.random.default_rng(0)
    signs = np.where(draw.random((1, WIDTH)) < 0.5, 1, -1)
    weight = (draw.uniform(0.9, 1, size=(WIDTH, WIDTH)) * signs).astype(np.float32)
    return model(PRODUCT, w=weight), draw.uniform(0.8, 1, size=(16, WIDTH)).astype(np.float32)


def on_haswell(path: Path, inputs: np.ndarray, folder: Path) -> np.ndarray:
    """The file's answer on a processor with AVX2 and without VNNI, emulated."""
    np.save(folder / "inputs.npy", inputs)
    files = [str(path), str(folder / "inputs.npy"), str(folder / "answer.npy")]
    libraries = str(Path(np.__file__).parents[1])
    environment = {"PYTHONPATH": libraries, "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    command = ["qemu-x86_64-static", "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", PROGRAM, *files]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    answer: np.ndarray = np.load(folder / "answer.npy")
    return answer


def error(answer: np.ndarray, inputs: np.ndarray, content: bytes) -> float:
    expected = onnxruntime.InferenceSession(content).run(None, {"x": inputs})[0]
    return float(np.abs(answer - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("mode", list(Int8))
def test_int8_answers_the_same_without_vnni(mode: Int8, tmp_path: Path) -> None:
    content, inputs = saturating()
    path = exported_file(content, tmp_path, mode=mode, rows=inputs)
    assert error(on_haswell(path, inputs, tmp_path), inputs, content) < 0.01


def test_eight_bit_weights_would_saturate_without_vnni(tmp_path: Path) -> None:
    """Why weights have seven bits: the same file with eight is far off there."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    content, inputs = saturating()
    quantize_dynamic(onnx.load_from_string(content), tmp_path / "eight.onnx", weight_type=QuantType.QInt8)
    assert error(on_haswell(tmp_path / "eight.onnx", inputs, tmp_path), inputs, content) > 0.1
