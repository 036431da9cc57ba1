"""A PyTorch model's inner values, operator by operator.

The model is captured and lowered as the exporter does it (`tasks.export.torch_capture`, then torch.onnx's own
decompositions), so that its operators have the names that the exporter gives to the values of the ONNX file. Every
operator is computed three times: in the model's own precision, in float64 all the way (what the source's rounding adds
up to), and in float64 from the model's own last inner values (what rounding adds at this place alone). Weights are
widened when they are used, so that no second copy of the model is held.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import Signature
from tasks.export.torch_capture import ONNX_OPSET, capture
from tasks.export.torch_recurrent import recurrent_layers_whole
from tasks.ingest.sources import SourceModel
from tasks.parity.divergence.source_values import SourceValue, Written, change, keep

if TYPE_CHECKING:
    import torch


def open_values(source: SourceModel, signature: Signature) -> TorchValues:
    """Capture the model as the exporter does."""
    return TorchValues(_lowered(source.native, signature), signature)


def _lowered(native: Any, signature: Signature) -> torch.export.ExportedProgram:
    """The program whose operators the exporter turns into ONNX, one by one."""
    import torch

    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it has said all this when the model was exported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = capture(native, signature)
            with torch.no_grad(), recurrent_layers_whole():
                converted = torch.onnx.export(
                    program, (), dynamo=True, opset_version=ONNX_OPSET, verbose=False, optimize=False
                )
    finally:
        log.setLevel(level)
    if converted is None or converted.exported_program is None:
        raise RuntimeError("torch.onnx.export keeps the program that it exported")
    return converted.exported_program


@dataclass(slots=True)
class _Lanes:
    """One operator's result: the model's own, in float64 all the way, and in float64 from the last own values.

    None in the place of a float64 version stands for the own one, widened: no copy is held.
    """

    own: Any
    wide: Any = None
    near: Any = None


@dataclass(frozen=True)
class TorchValues:
    """See `tasks.parity.divergence.source_values.InnerValues`."""

    program: torch.export.ExportedProgram
    signature: Signature

    @cached_property
    def values(self) -> Mapping[str, SourceValue]:
        return {node.name: _described(node) for node in self.program.graph.nodes if node.op == "call_function"}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.program.graph_signature.user_outputs)

    def parameters(self, module: str) -> Mapping[str, NDArray[Any]]:
        prefix = f"{module}." if module else ""
        held = {**self.program.state_dict, **self.program.constants}
        return {
            name.removeprefix(prefix): value.detach().numpy()
            for name, value in held.items()
            if name.startswith(prefix) and "." not in name.removeprefix(prefix) and hasattr(value, "detach")
        }

    def write(self, inputs: Mapping[str, NDArray[Any]], wanted: Collection[str], folder: Path) -> Mapping[str, Written]:
        import torch

        given = {
            str(name): torch.from_numpy(np.array(inputs[tensor.name], copy=True))
            for name, tensor in zip(self.program.graph_signature.user_inputs, self.signature.inputs, strict=True)
        }
        folder.mkdir(parents=True)
        found: dict[str, Written] = {}
        held: dict[torch.fx.Node, _Lanes] = {}
        last_use = {used: node for node in self.program.graph.nodes for used in node.all_input_nodes}
        with torch.no_grad():
            for node in self.program.graph.nodes:
                if node.op == "output":
                    break
                lanes = held[node] = self._computed(node, held, given)
                if node.name in wanted and isinstance(lanes.own, torch.Tensor | int | float | bool):
                    written = _kept(lanes, folder / f"{len(found)}.npy")
                    if written is not None:
                        found[node.name] = written
                        lanes.near = None  # from here on, what is near begins anew
                for used in node.all_input_nodes:
                    if last_use[used] is node:
                        del held[used]
        return found

    def _computed(self, node: torch.fx.Node, held: Mapping[torch.fx.Node, _Lanes], given: Mapping[str, Any]) -> _Lanes:
        if node.op == "placeholder":
            return _Lanes(given[node.name] if node.name in given else self._parameter(node.name))
        if node.op == "get_attr":
            return _Lanes(getattr(self.program.graph_module, str(node.target)))
        target: Any = node.target

        def call(lane: str) -> Any:
            args, kwargs = _arguments(node, held, lane)
            return target(*args, **kwargs)

        return _Lanes(call("own"), call("wide"), call("near"))

    def _parameter(self, name: str) -> Any:
        for spec in self.program.graph_signature.input_specs:
            if spec.arg.name == name and spec.target is not None:
                held = self.program.state_dict.get(spec.target)
                return held if held is not None else self.program.constants[spec.target]
        raise KeyError(name)


def _arguments(node: torch.fx.Node, held: Mapping[torch.fx.Node, _Lanes], lane: str) -> Any:
    """An operator's arguments in one lane; where a float64 lane is asked to make float32, it makes float64."""
    import torch
    from torch.fx.node import map_aggregate

    def argument(item: Any) -> Any:
        if isinstance(item, torch.fx.Node):
            lanes = held[item]
            if lane == "own":
                return lanes.own
            version = lanes.wide if lane == "wide" else lanes.near
            return _wide(lanes.own) if version is None else version
        if lane != "own" and isinstance(item, torch.dtype) and item.is_floating_point:
            return torch.float64
        return item

    return map_aggregate(node.args, argument), map_aggregate(node.kwargs, argument)


def _wide(value: Any) -> Any:
    import torch

    if isinstance(value, tuple | list):
        return type(value)(_wide(item) for item in value)
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _kept(lanes: _Lanes, file: Path) -> Written | None:
    import torch

    if isinstance(lanes.own, torch.Tensor) and lanes.own.dtype is torch.bfloat16:
        return None  # NumPy does not know it
    own, wide, near = (np.asarray(value) for value in (lanes.own, lanes.wide, lanes.near))
    return keep(own, file, change(own, wide), change(own, near))


# --- what is known of an operator ---------------------------------------------------------------------------------


def _described(node: torch.fx.Node) -> SourceValue:
    origin = node
    while origin.target.__class__.__name__ == "builtin_function_or_method" and origin.all_input_nodes:
        origin = origin.all_input_nodes[0]  # an element of a tuple: the operator that gave the tuple says more
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = list(stack.values())[-1] if stack else ("", "")
    known = not path.startswith("_empty_nn_module_stack")
    return SourceValue(
        name=node.name,
        module=re.sub(r"@\d+", "", path) if known else "",  # `@1`: the module's second call
        kind=(kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2] if known else "",
        operator=str(origin.target),
        inputs=tuple(used.name for used in node.all_input_nodes),
        settings=_settings(origin),
    )


def _settings(node: torch.fx.Node) -> dict[str, float | int | str]:
    """The operator's arguments that are numbers or words, by the names of its schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    found: dict[str, float | int | str] = {}
    for position, argument in enumerate(schema.arguments):
        value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        if value is None and argument.has_default_value():
            value = argument.default_value
        if isinstance(value, float | int | str):
            found[argument.name] = value
    return found
