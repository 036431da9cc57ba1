"""Faults of ONNX files that can be told from names, dtypes and shapes, or that keep the file from running."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.parity.corpus.fault import Fault, Good
from tests.parity.corpus.onnx_graph import FILE, before, constant, fix, flip, follow, graph, node_of, rename, weight

Change = Callable[[onnx.ModelProto], None]


def cast(output: str, kind: int) -> Change:
    """Give an output in another dtype."""

    def change(model: onnx.ModelProto) -> None:
        follow(model, output, helper.make_node("Cast", [before(output)], [output], to=kind))
        next(port for port in model.graph.output if port.name == output).type.tensor_type.elem_type = kind

    return change


def input_dtype(name: str, kind: int, real: int) -> Change:
    """Take an input in another dtype."""

    def change(model: onnx.ModelProto) -> None:
        next(port for port in model.graph.input if port.name == name).type.tensor_type.elem_type = kind
        for node in model.graph.node:
            node.input[:] = [f"{name}.cast" if given == name else given for given in node.input]
        model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}.cast"], to=real))

    return change


def shaped(output: str, operator: str, *shape: str | int) -> Change:
    """Give an output in another shape by an operator that takes axes."""

    def change(model: onnx.ModelProto) -> None:
        axes = constant(model, "axes.injected", np.array([1]))
        follow(model, output, helper.make_node(operator, [before(output), axes], [output]))
        port = next(port for port in model.graph.output if port.name == output)
        port.CopyFrom(helper.make_tensor_value_info(output, port.type.tensor_type.elem_type, shape))

    return change


def mean_row(model: onnx.ModelProto) -> None:
    axes = constant(model, "axes.injected", np.array([0]))
    follow(model, "factors", helper.make_node("ReduceMean", [before("factors"), axes], ["factors"], keepdims=1))
    port = next(port for port in model.graph.output if port.name == "factors")
    port.CopyFrom(helper.make_tensor_value_info("factors", TensorProto.FLOAT, [1, 3]))


def missing_output(model: onnx.ModelProto) -> None:
    model.graph.output.remove(next(port for port in model.graph.output if port.name == "total"))


def extra_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("gelu", TensorProto.FLOAT, None))


def extra_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [1]))
    node = helper.make_node("Div", [before("linear"), "temperature"], ["linear"])
    follow(model, "linear", node)


def frozen_reshape(model: onnx.ModelProto) -> None:
    shape = constant(model, "shape.injected", np.array([8, 64]))
    node_of(model, "Reshape").input[1] = shape
    del model.graph.value_info[:]


def short_positions(model: onnx.ModelProto) -> None:
    table = weight(model, "places.weight")[:8]
    node_of(model, "Gather", "places").input[0] = constant(model, "places.short", table)


def newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def external(good: Good, folder: Path) -> tuple[Path, Path]:
    """The good export with its weights in a file beside it."""
    path = folder / FILE
    model = onnx.load(good.export)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=256)
    return path, folder / "weights.bin"


def lost_data(good: Good, folder: Path) -> Path:
    path, data = external(good, folder)
    data.unlink()
    return path


def truncated_data(good: Good, folder: Path) -> Path:
    path, data = external(good, folder)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    return path


def altered_data(good: Good, folder: Path) -> Path:
    path, data = external(good, folder)
    model = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    place = {entry.key: entry.value for entry in tensor.external_data}
    values = np.fromfile(data, np.uint8)
    head = values[int(place["offset"]) :][: int(place["length"])].view(np.float32)
    flip(head, (3,), 23)
    values.tofile(data)
    return path


def truncated_file(good: Good, folder: Path) -> Path:
    path = folder / FILE
    path.write_bytes(good.export.read_bytes()[:-200])
    return path


def no_model(good: Good, folder: Path) -> Path:
    path = folder / FILE
    path.write_bytes(b"<html>404 Not Found</html>")
    return path


def _fault(name: str, base: str, says: str, change: Change, code: str, *also: str) -> Fault:
    return Fault(name, "onnx", base, says, graph(change), code, also)


# fmt: off
FAULTS = (
    # names
    _fault("output-renamed", "vision", "the output carries the exporter's own name",
           lambda model: rename(model, probabilities="output_0"), "PARITY_OUTPUT_RENAMED"),
    _fault("input-renamed", "vision", "the input carries the exporter's own name",
           lambda model: rename(model, image="input_0"), "PARITY_INPUT_RENAMED"),
    _fault("one-of-several-inputs-renamed", "tabular", "one of three inputs has another name",
           lambda model: rename(model, kind="type"), "PARITY_INPUT_RENAMED"),
    _fault("outputs-swapped", "tabular", "two outputs of different shapes have each other's names",
           lambda model: rename(model, score="total", total="score"), "PARITY_OUTPUT_SWAPPED"),
    _fault("outputs-in-a-cycle", "tabular", "three outputs of different shapes have the next one's name",
           lambda model: rename(model, factors="score", score="total", total="factors"), "PARITY_OUTPUT_SWAPPED"),
    _fault("outputs-of-different-dtypes-swapped", "tabular", "a class and whole numbers have each other's names",
           lambda model: rename(model, label="level", level="label"), "PARITY_OUTPUT_SWAPPED"),
    _fault("output-missing", "tabular", "one of five outputs is not there", missing_output, "PARITY_OUTPUT_MISSING"),
    _fault("output-extra", "vision", "an inner value is given as well", extra_output, "PARITY_OUTPUT_EXTRA"),
    _fault("input-extra", "vision", "a constant became an input", extra_input, "PARITY_INPUT_EXTRA"),
    # dtypes
    _fault("output-float64", "vision", "float64 where float32 is declared",
           cast("probabilities", TensorProto.DOUBLE), "PARITY_DTYPE"),
    _fault("output-float16", "vision", "float16 where float32 is declared",
           cast("probabilities", TensorProto.FLOAT16), "PARITY_DTYPE"),
    _fault("output-int32", "tabular", "int32 where int64 is declared", cast("label", TensorProto.INT32),
           "PARITY_DTYPE"),
    _fault("output-signed", "tabular", "int8 where uint8 is declared", cast("level", TensorProto.INT8),
           "PARITY_DTYPE"),
    _fault("input-int32", "encoder", "the tokens are taken as int32 where int64 is declared",
           input_dtype("tokens", TensorProto.INT32, TensorProto.INT64), "PARITY_INPUT_DTYPE"),
    _fault("input-float64", "vision", "the image is taken as float64 where float32 is declared",
           input_dtype("image", TensorProto.DOUBLE, TensorProto.FLOAT), "PARITY_INPUT_DTYPE"),
    # shapes
    _fault("column-flattened", "tabular", "[n] where the source gives [n, 1]: it broadcasts",
           shaped("score", "Squeeze", "batch"), "PARITY_SHAPE"),
    _fault("flat-made-a-column", "tabular", "[n, 1] where the source gives [n]: it broadcasts",
           shaped("total", "Unsqueeze", "batch", 1), "PARITY_SHAPE"),
    _fault("one-row-for-all", "tabular", "[1, c] where the source gives [n, c]: it broadcasts", mean_row,
           "PARITY_BATCH_FROZEN"),
    # frozen dimensions
    _fault("batch-frozen-1", "vision", "the batch is fixed at 1", lambda model: fix(model, "batch", 1),
           "PARITY_BATCH_FROZEN"),
    _fault("batch-frozen-5", "vision", "the batch is fixed at a size that is never asked for",
           lambda model: fix(model, "batch", 5), "PARITY_BATCH_FROZEN"),
    _fault("batch-frozen-max", "vision", "the batch is fixed at the greatest size",
           lambda model: fix(model, "batch", 16), "PARITY_BATCH_FROZEN"),
    _fault("batch-frozen-inside", "vision", "a reshape in the middle has the size of the traced batch",
           frozen_reshape, "PARITY_BATCH_FROZEN"),
    _fault("length-frozen", "encoder", "the length is fixed at the traced one", lambda model: fix(model, "length", 9),
           "PARITY_LENGTH_FROZEN"),
    _fault("positions-cut", "encoder", "position embeddings end before the greatest length", short_positions,
           "PARITY_LENGTH_FROZEN"),
    # files
    _fault("newer-opset", "vision", "an opset that the runtime does not know", newer_opset, "PARITY_RUNTIME_ERROR"),
    Fault("external-data-lost", "onnx", "vision", "the file with the weights is gone", lost_data,
          "PARITY_RUNTIME_ERROR"),
    Fault("external-data-truncated", "onnx", "vision", "the file with the weights ends half-way", truncated_data,
          "PARITY_RUNTIME_ERROR"),
    Fault("external-data-altered", "onnx", "vision", "one bit in the file with the weights is another", altered_data,
          "PARITY_TENSOR_DIFFERS", layers=("head",)),
    Fault("file-truncated", "onnx", "vision", "the file ends early", truncated_file, "PARITY_RUNTIME_ERROR"),
    Fault("no-model", "onnx", "vision", "the file is an error page", no_model, "PARITY_RUNTIME_ERROR"),
)
# fmt: on
