"""Exports of reduced precision: faithful ones pass, and what is wrong is not hidden by the format's own noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from serving.contract import DimRange, DType, Signature, TensorSpec
from serving.preprocess import Preprocessing
from tasks.contracts import Finding
from tasks.export.calibration import calibration_rows
from tasks.export.conversion import Source, base_folder
from tasks.export.formats import exporter_of
from tasks.parity.coarse import Reduced
from tasks.parity.confrontation import Judgement, confront
from tasks.spec import EvaluationSpec, ExportSpec, Int8, ServingSpec
from tests import samples
from tests.parity.conftest import codes, metric, model, rows
from tests.parity.corpus.forked import ForkedWorkers

WIDTH, HIDDEN, CLASSES = 8, 16, 4
SIGNATURE = Signature(
    (TensorSpec("x", DType.FLOAT32, ("batch", WIDTH)),),
    (TensorSpec("y", DType.FLOAT32, ("batch", CLASSES)),),
    {"batch": DimRange(1, 16)},
)
NET = f"""net (float[batch, {WIDTH}] x) => (float[batch, {CLASSES}] y) {{
    h = MatMul (x, w1)
    r = Relu (h)
    y = Gemm <transB = 1> (r, w2, b)
}}"""


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Channels of very different sizes, so that their scales cannot be exchanged."""
    draw = np.random.default_rng(seed)
    sizes = np.geomspace(0.3, 3, HIDDEN)
    return {
        "w1": (draw.normal(size=(WIDTH, HIDDEN)) * sizes).astype(np.float32),
        "w2": (draw.normal(size=(CLASSES, HIDDEN)) / sizes).astype(np.float32),
        "b": draw.normal(size=CLASSES).astype(np.float32),
    }


class OnnxSource:
    """An ONNX file as a source model."""

    def __init__(self, path: Path) -> None:
        self.native = path
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


@dataclass
class Case:
    """A source, and an export of it in a format that tests may change before it is judged."""

    folder: Path
    source: OnnxSource
    signature: Signature
    evaluation: dict[str, np.ndarray]
    path: Path
    reduced: Reduced
    workers: ForkedWorkers

    def change(self, **changes: Callable[[np.ndarray], Any]) -> None:
        """Replace weights of the export by what a function makes of them."""
        file = onnx.load(self.path)
        for weight in file.graph.initializer:
            if weight.name in changes:
                old = numpy_helper.to_array(weight)
                new = np.asarray(changes.pop(weight.name)(old.copy()), dtype=old.dtype)
                weight.CopyFrom(numpy_helper.from_array(new, weight.name))
        assert not changes, f"the file has no {list(changes)}"
        onnx.save(file, self.path)

    def judged(self) -> Judgement:
        spec = samples.spec(
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            dynamic=self.signature.dynamic,
            preprocess=(),
            evaluation=EvaluationSpec(data="eval.npz", metrics=metric("rmse", self.signature.outputs[0].name, 1e9)),
            serving=ServingSpec(max_batch=8),
        )
        answers = self.source.predict({name: column[:8] for name, column in self.evaluation.items()})
        label = np.zeros((len(self.evaluation["x"]), *next(iter(answers.values())).shape[1:]), dtype=np.float32)
        columns = {**self.evaluation, "label": label}
        work = self.folder / "work"
        work.mkdir()
        return confront(
            spec,
            self.source,
            "onnx",
            columns,
            "onnx",
            self.path,
            work,
            "seed",
            launch=self.workers,
            reduced=self.reduced,
        )


@pytest.fixture(scope="module")
def workers() -> Iterator[ForkedWorkers]:
    found = ForkedWorkers()
    yield found
    found.close()


@pytest.fixture
def case(tmp_path: Path, workers: ForkedWorkers) -> Callable[..., Case]:
    """`case(format, mode)`: the network of this module, or another, exported and ready to be changed."""

    def make(
        format: str = "onnx-int8",
        mode: Int8 = Int8.STATIC,
        source: bytes | None = None,
        export_of: bytes | None = None,
        signature: Signature = SIGNATURE,
        evaluation: dict[str, np.ndarray] | None = None,
        calibrated_on: dict[str, np.ndarray] | None = None,
    ) -> Case:
        columns = evaluation or {"x": rows(60, WIDTH)}
        trained = source or model(NET, **weights())
        for name, content in (("source.onnx", trained), ("given.onnx", export_of or trained)):
            (tmp_path / name).write_bytes(content)
        out = tmp_path / "out"
        out.mkdir()
        given = OnnxSource(tmp_path / "given.onnx")
        conversion = exporter_of(format, "onnx")(
            Source(
                given,  # type: ignore[arg-type]
                tmp_path / "given.onnx",
                "onnx",
                ExportSpec(int8=mode),
                lambda: calibration_rows(calibrated_on or columns, Preprocessing((), signature)),
            ),
            signature,
            out,
        )
        reduced = Reduced(conversion.precision, mode, base_folder(out) / str(conversion.base))
        return Case(
            tmp_path, OnnxSource(tmp_path / "source.onnx"), signature, columns, out / conversion.root, reduced, workers
        )

    return make


def remark(judged: Judgement, code: str) -> Finding:
    return next(finding for finding in judged.findings if finding.code == code)


KINDS = [("onnx-int8", Int8.STATIC), ("onnx-int8", Int8.DYNAMIC), ("onnx-fp16", Int8.STATIC)]


@pytest.mark.parametrize(("format", "mode"), KINDS)
def test_a_faithful_file_passes_with_room_to_spare(format: str, mode: Int8, case: Callable[..., Case]) -> None:
    judged = case(format, mode).judged()
    assert codes(judged) == [], [finding.message for finding in judged.findings]
    (output,) = judged.outputs
    assert 0.02 < (output.worst_margin or 0) < 0.7


def test_what_is_allowed_follows_the_formats_precision(case: Callable[..., Case], tmp_path: Path) -> None:
    judged = case("onnx-fp16").judged()
    scale = np.abs(judged.references[0].answers["y"]).max()
    assert 1e-4 < judged.outputs[0].tolerance.atol / scale < 1e-2
    assert any("float16" in condition for condition in judged.references[0].noise["y"].largest)


# --- faults -------------------------------------------------------------------------------------------------------


def swapped(values: np.ndarray) -> np.ndarray:
    values[[0, -1]] = values[[-1, 0]]
    return values


@pytest.mark.parametrize(
    ("mode", "weight", "change"),
    [
        (Int8.STATIC, "r_scale", lambda scale: scale * 0.5),
        (Int8.STATIC, "w1_scale", lambda scale: scale * 1.2),
        (Int8.STATIC, "w1_scale", swapped),
        (Int8.STATIC, "w2_scale", swapped),
        (Int8.STATIC, "w2_zero_point", lambda point: point + 10),
        (Int8.DYNAMIC, "w1_scale", lambda scale: scale * 1.2),
        (Int8.DYNAMIC, "w1_scale", swapped),
        (Int8.DYNAMIC, "w1_quantized", lambda grid: np.clip(grid, -20, 20)),
    ],
    ids=["range", "scale", "scales of two channels", "scales of two rows", "zero point", *("dynamic",) * 3],
)
def test_wrong_scales_zero_points_and_saturated_weights_are_caught(
    mode: Int8, weight: str, change: Callable[[np.ndarray], Any], case: Callable[..., Case]
) -> None:
    faulty = case("onnx-int8", mode)
    faulty.change(**{weight: change})
    assert codes(faulty.judged()) == ["PARITY_TENSOR_DIFFERS"]


@pytest.mark.parametrize("place", [1, 2], ids=["scale", "zero point"])
def test_values_that_come_back_by_another_scale_or_zero_point_are_caught(place: int, case: Callable[..., Case]) -> None:
    faulty = case("onnx-int8")
    file = onnx.load(faulty.path)
    stored = {weight.name: numpy_helper.to_array(weight) for weight in file.graph.initializer}
    node = next(node for node in file.graph.node if node.op_type == "DequantizeLinear" and "x_" in node.input[1])
    right = stored[node.input[place]]
    wrong = right * np.float32(1.2) if place == 1 else right + np.uint8(15)
    file.graph.initializer.append(numpy_helper.from_array(np.asarray(wrong, dtype=right.dtype), "wrong"))
    node.input[place] = "wrong"
    onnx.save(file, faulty.path)
    assert codes(faulty.judged()) == ["PARITY_TENSOR_DIFFERS"]


def test_ranges_from_a_tenth_of_the_values_are_caught(case: Callable[..., Case]) -> None:
    whole = rows(60, WIDTH)
    judged = case(evaluation={"x": whole}, calibrated_on={"x": whole / 10}).judged()
    assert codes(judged) == ["PARITY_TENSOR_DIFFERS"]


@pytest.mark.parametrize(("format", "mode"), KINDS)
def test_stale_weights_are_caught(format: str, mode: Int8, case: Callable[..., Case]) -> None:
    fresh, stale = weights(), weights()
    stale["w2"] = stale["w2"] + 0.3 * weights(1)["w2"]
    judged = case(format, mode, source=model(NET, **fresh), export_of=model(NET, **stale)).judged()
    assert codes(judged) == ["PARITY_BASE_DIFFERS"]


def test_weights_that_are_staler_than_the_file_they_are_said_to_come_from_are_caught(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    stale = weights()
    stale["w2"] = stale["w2"] + 0.3 * weights(1)["w2"]
    faulty = case("onnx-int8", export_of=model(NET, **stale))
    faulty.reduced.base.write_bytes(model(NET, **weights()))
    assert codes(faulty.judged()) == ["PARITY_TENSOR_DIFFERS"]


def test_weights_that_became_infinite_in_float16_are_caught(case: Callable[..., Case]) -> None:
    faulty = case("onnx-fp16")
    faulty.change(w2=lambda weight: np.where(np.abs(weight) == np.abs(weight).max(), np.inf, weight))
    assert codes(faulty.judged()) == ["PARITY_NAN", "PARITY_METRIC_MISSING"]


def test_the_same_question_again_has_to_give_the_same_answer_to_full_precision(case: Callable[..., Case]) -> None:
    faulty = case("onnx-int8")
    file = onnx.load(faulty.path)
    file.graph.node[-1].output[0] = "steady"
    file.graph.node.extend(
        [
            onnx.helper.make_node("RandomUniformLike", ["steady"], ["random"], low=-0.01, high=0.01),
            onnx.helper.make_node("Add", ["steady", "random"], ["y"]),
        ]
    )
    onnx.save(file, faulty.path)
    assert codes(faulty.judged()) == ["PARITY_NOT_DETERMINISTIC"]


def test_a_row_that_depends_on_its_neighbours_by_more_than_rounding_is_caught(case: Callable[..., Case]) -> None:
    faulty = case("onnx-int8")
    file = onnx.load(faulty.path)
    file.graph.node[-1].output[0] = "alone"
    file.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["alone"], ["middle"], noop_with_empty_axes=0, keepdims=0),
            onnx.helper.make_node("Sub", ["alone", "middle"], ["y"]),
        ]
    )
    onnx.save(file, faulty.path)
    assert "PARITY_BATCH_DEPENDENT" in codes(faulty.judged())


# --- whole numbers ------------------------------------------------------------------------------------------------


#: Its levels are floats cut to eight bits, as an image's are.
LEVELS = NET.replace("(float[batch, 4] y)", "(float[batch, 4] y, uint8[batch, 4] level)").replace(
    "w2, b)\n",
    "w2, b)\n    grown = Mul (y, twelve)\n    inside = Clip (grown, zero, most)\n    level = Cast <to = 2> (inside)\n",
)
LEVELLED = Signature(
    SIGNATURE.inputs, (*SIGNATURE.outputs, TensorSpec("level", DType.UINT8, ("batch", CLASSES))), SIGNATURE.dynamic
)


def levels(case: Callable[..., Case], format: str = "onnx-int8", mode: Int8 = Int8.STATIC) -> Case:
    constants = {"twelve": np.float32(12), "zero": np.float32(0), "most": np.float32(255)}
    source = model(LEVELS, **weights(), **{name: np.asarray(value) for name, value in constants.items()})
    return case(format, mode, source=source, signature=LEVELLED)


def added_to_levels(faulty: Case, more: float) -> None:
    """The float behind the levels is this much larger: what another zero point does to it."""
    file = onnx.load(faulty.path)
    cast = next(node for node in file.graph.node if node.output[0] == "level")
    file.graph.initializer.append(numpy_helper.from_array(np.float32(more), "more"))
    place = list(file.graph.node).index(cast)
    file.graph.node.insert(place, onnx.helper.make_node("Add", ["wide", "more"], ["shifted"]))
    file.graph.node.insert(place, onnx.helper.make_node("Cast", [cast.input[0]], ["wide"], to=onnx.TensorProto.FLOAT))
    cast.input[0] = "shifted"
    onnx.save(file, faulty.path)


@pytest.mark.parametrize(("format", "mode"), KINDS)
def test_whole_numbers_that_are_rounded_floats_may_move_as_the_float_does(
    format: str, mode: Int8, case: Callable[..., Case]
) -> None:
    judged = levels(case, format, mode).judged()
    assert codes(judged) == [], [finding.message for finding in judged.findings]
    assert judged.outputs[1].tolerance.atol >= 1


@pytest.mark.parametrize(("format", "mode"), KINDS)
def test_whole_numbers_that_move_further_than_the_float_may_are_caught(
    format: str, mode: Int8, case: Callable[..., Case]
) -> None:
    faulty = levels(case, format, mode)
    added_to_levels(faulty, 1.5 if format == "onnx-fp16" else 12.0)
    judged = faulty.judged()
    assert codes(judged) == ["PARITY_TENSOR_DIFFERS"]
    assert {finding.evidence.get("output") for finding in judged.findings if finding.verdict != "passed"} == {"level"}


def test_whole_numbers_that_wrap_around_are_caught(case: Callable[..., Case]) -> None:
    faulty = levels(case)
    file = onnx.load(faulty.path)
    cast = next(node for node in file.graph.node if node.output[0] == "level")
    clip = next(node for node in file.graph.node if node.output[0] == cast.input[0])
    file.graph.node.insert(
        list(file.graph.node).index(cast),
        onnx.helper.make_node("Cast", [clip.input[0]], ["wide"], to=onnx.TensorProto.INT64),
    )
    cast.input[0] = "wide"
    onnx.save(file, faulty.path)
    assert codes(faulty.judged()) == ["PARITY_TENSOR_DIFFERS"]


def test_classes_from_a_table_of_floats_are_no_rounded_floats(case: Callable[..., Case]) -> None:
    text = NET.replace("(float[batch, 4] y)", "(float[batch, 4] y, int64[batch] label)").replace(
        "w2, b)\n",
        "w2, b)\n    place = ArgMax <axis = 1, keepdims = 0> (y)\n    number = Gather (numbers, place)\n"
        "    label = Cast <to = 7> (number)\n",
    )
    two = Signature(
        SIGNATURE.inputs, (*SIGNATURE.outputs, TensorSpec("label", DType.INT64, ("batch",))), SIGNATURE.dynamic
    )
    numbers = np.float32([3, 1, 2, 5])
    other = case(source=model(text, **weights(), numbers=numbers), signature=two, evaluation={"x": rows(400, WIDTH)})
    other.change(numbers=lambda table: table[[1, 0, 2, 3]])
    judged = other.judged()
    assert codes(judged) == ["PARITY_TENSOR_DIFFERS"]
    assert judged.outputs[1].tolerance.atol == 0


# --- what is no fault ---------------------------------------------------------------------------------------------


def test_rows_beyond_the_calibrated_range_are_compared_with_clipped_answers_and_counted(
    case: Callable[..., Case],
) -> None:
    evaluation = rows(60, WIDTH)
    judged = case(evaluation={"x": evaluation}).judged()
    found = remark(judged, "PARITY_ROWS_BEYOND_CALIBRATION")
    assert found.evidence["pool"] == "random"
    assert codes(judged) == []


def test_rows_that_dynamic_ranges_answer_with_their_neighbours_in_mind_are_a_remark(case: Callable[..., Case]) -> None:
    judged = case("onnx-int8", Int8.DYNAMIC).judged()
    assert "moves" in remark(judged, "PARITY_ROUNDS_WITH_NEIGHBOURS").message
    assert codes(judged) == []


def test_classes_that_rounding_turns_over_have_to_be_ones_that_rounding_gives(case: Callable[..., Case]) -> None:
    text = NET.replace("(float[batch, 4] y)", "(float[batch, 4] y, int64[batch] label)").replace(
        "w2, b)\n", "w2, b)\n    label = ArgMax <axis = 1, keepdims = 0> (y)\n"
    )
    two = Signature(
        SIGNATURE.inputs, (*SIGNATURE.outputs, TensorSpec("label", DType.INT64, ("batch",))), SIGNATURE.dynamic
    )
    judged = case(source=model(text, **weights()), signature=two, evaluation={"x": rows(400, WIDTH)}).judged()
    assert codes(judged) == [], [finding.message for finding in judged.findings]


def test_a_weight_that_two_products_share_is_quantised_once_for_each(case: Callable[..., Case]) -> None:
    square = weights()["w1"][:, :WIDTH]
    text = """net (float[batch, 8] x) => (float[batch, 8] y) {
        h = Gemm <transB = 1> (x, w)
        y = Gemm <transB = 1> (h, w)
    }"""
    wide = Signature(SIGNATURE.inputs, (TensorSpec("y", DType.FLOAT32, ("batch", WIDTH)),), SIGNATURE.dynamic)
    judged = case("onnx-int8", Int8.DYNAMIC, source=model(text, w=square), signature=wide).judged()
    assert codes(judged) == [], [finding.message for finding in judged.findings]


def test_a_base_that_cannot_be_asked_is_inconclusive(case: Callable[..., Case]) -> None:
    unknown = case("onnx-int8")
    base = onnx.load(unknown.reduced.base)
    base.graph.node[0].op_type = "Unheard"
    onnx.save(base, unknown.reduced.base)
    assert codes(unknown.judged()) == ["PARITY_NOISE_UNKNOWN"]
