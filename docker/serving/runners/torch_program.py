"""Runs a `torch.export` archive with torch's own operators, reading it as data.

`torch.export.load` imports torch's compilers (seconds, and packages that serving does not need), and reading with it
can run code that stands in the archive: pickles, sympy expressions, generated source. The archive itself is a list of
operator calls in JSON beside raw tensors (torch/_export/serde/schema.py, version 8), and a list can be walked.

What a list of operator calls cannot say (loops over tensors, mutated state, custom objects) is `Unsupported`, and for
the caller to do otherwise.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from serving.runners.torch_archive import DTYPES, STRIDED, Unsupported, read_archive, sizes_of

#: `schema.MemoryFormat` → torch's.
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
#: `schema.ArgumentKind.POSITIONAL`
_POSITIONAL = 1
#: The guard that two inputs share a size.
_EQUAL_SIZES = re.compile(r"L\['\w+'\]\.size\(\)\[\d+\] == L\['\w+'\]\.size\(\)\[\d+\]")

#: What is computed with sizes, outside tensors: the functions that torch.export writes for symbolic numbers.
_PYTHON: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "not_", "and_")
    },
    **{f"_operator.{name}": getattr(operator, name) for name in ("or_", "eq", "ne", "lt", "le", "gt", "ge")},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_sqrt": math.sqrt,
}


class OutOfRange(Exception):
    """An input's size is not one that the program was exported for."""


@dataclass(frozen=True, slots=True)
class _Name:
    """Stands for a value of the run."""

    name: str


@dataclass(frozen=True, slots=True)
class _Call:
    """One operator call. `outputs` are names, lists of names, or `None` for what is not kept; `last` dies with it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    outputs: tuple[Any, ...]
    last: tuple[str, ...]


class _Graph:
    """Operator calls from inputs to outputs. Running it shares nothing but `constants`."""

    def __init__(self, inputs: Sequence[str], nodes: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._calls = tuple(_calls(nodes, keep=_names(outputs)))

    def __call__(self, inputs: Sequence[Any], constants: Mapping[str, Any]) -> list[Any]:
        values: dict[str, Any] = {**constants, **dict(zip(self._inputs, inputs, strict=True))}

        def value(argument: Any) -> Any:
            if isinstance(argument, _Name):
                return values[argument.name]
            return [value(item) for item in argument] if isinstance(argument, list) else argument

        for call in self._calls:
            answer = call.function(
                *[value(argument) for argument in call.arguments],
                **{key: value(argument) for key, argument in call.keywords},
            )
            answers = (answer,) if len(call.outputs) == 1 else answer
            for output, item in zip(call.outputs, answers or (), strict=True):
                if isinstance(output, list):
                    values.update(zip(output, item, strict=True))
                elif output is not None:
                    values[output] = item
            for name in call.last:
                values.pop(name, None)
        return [value(output) for output in self._outputs]


class Program:
    """An exported program; calling it runs it, from several threads at once if need be."""

    def __init__(self, path: Path) -> None:
        """Read an archive.

        Raises:
            Unsupported: see the module.
        """
        archive = read_archive(path)
        exported = archive.program
        for guard in exported["guards_code"]:
            if not _EQUAL_SIZES.fullmatch(guard):  # equal sizes have one symbol, which is checked
                raise Unsupported(f"the program asks that {guard}")
        graph, signature = exported["graph_module"]["graph"], exported["graph_module"]["signature"]
        self._constants: dict[str, Any] = {}
        self._inputs: list[str] = []
        for spec in signature["input_specs"]:
            self._bind(spec, archive.tensors)
        self._sizes = [sizes_of(graph["tensor_values"][name], exported["range_constraints"]) for name in self._inputs]
        self._graph = _Graph(self._inputs, graph["nodes"], [_output(spec) for spec in signature["output_specs"]])

    @property
    def arity(self) -> int:
        return len(self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> list[Any]:
        """The outputs in the program's order.

        Raises:
            OutOfRange: see there.
        """
        self._check(inputs)
        return self._graph(inputs, self._constants)

    def _bind(self, spec: Mapping[str, Any], stored: Mapping[str, torch.Tensor]) -> None:
        ((kind, content),) = spec.items()
        if kind == "user_input" and "as_tensor" in content["arg"]:
            self._inputs.append(content["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            self._constants[content["arg"]["name"]] = stored[content[f"{kind}_name"]]
        else:
            raise Unsupported(f"the program takes a {kind}")

    def _check(self, inputs: Sequence[torch.Tensor]) -> None:
        seen: dict[str, int] = {}
        for position, (tensor, sizes) in enumerate(zip(inputs, self._sizes, strict=True)):
            if tensor.ndim != len(sizes):
                raise OutOfRange(f"input {position} has {tensor.ndim} dimensions, the program takes {len(sizes)}")
            for axis, (found, size) in enumerate(zip(tensor.shape, sizes, strict=True)):
                expected = seen.setdefault(size.symbol, found) if size.symbol else found
                if found != expected or found < size.least or (size.most is not None and found > size.most):
                    most = "…" if size.most is None else size.most
                    raise OutOfRange(
                        f"dimension {axis} of input {position} is {found}, the program was exported for "
                        f"{expected if found != expected else f'{size.least} to {most}'}"
                    )


def _calls(nodes: Sequence[Mapping[str, Any]], keep: set[str]) -> Iterator[_Call]:
    """The calls in order; each value is let go after its last use."""
    pending: list[tuple[Callable[..., Any], list[Any], dict[str, Any], list[Any]]] = []
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        arguments = [_argument(item["arg"]) for item in node["inputs"] if _is_positional(node, item)]
        keywords = {item["name"]: _argument(item["arg"]) for item in node["inputs"] if not _is_positional(node, item)}
        outputs = [_result(item) for item in node["outputs"]]
        pending.append((_function(node), arguments, keywords, outputs))
        made = {name for output in outputs for name in (output if isinstance(output, list) else [output]) if name}
        for name in (*_names([*arguments, *keywords.values()]), *made):
            last[name] = index
    dying: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in keep:
            dying.setdefault(index, []).append(name)
    for index, (function, arguments, keywords, outputs) in enumerate(pending):
        yield _Call(
            function, tuple(arguments), tuple(keywords.items()), tuple(outputs), tuple(sorted(dying.get(index, ())))
        )


def _function(node: Mapping[str, Any]) -> Callable[..., Any]:
    target = node["target"]
    if target in _PYTHON:
        return _PYTHON[target]
    if target in _BRANCHES:
        return partial(_BRANCHES[target], len(node["outputs"]) == 1)
    parts = target.split(".")
    if parts[:2] != ["torch", "ops"] or len(parts) != 5:
        raise Unsupported(f"the program calls {target}")
    found: Any = torch.ops
    for part in parts[2:]:
        found = getattr(found, part, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise Unsupported(f"the program calls {target}, which this torch does not have")
    return found


def _set_grad_enabled(single: bool, enabled: bool, graph: _Graph, *operands: Any) -> Any:
    """`with torch.no_grad():` in the model; gradients are off anyway."""
    answers = graph(operands, {})
    return answers[0] if single else answers


def _cond(single: bool, predicate: Any, then: _Graph, otherwise: _Graph, operands: Sequence[Any]) -> Any:
    """`torch.cond`."""
    answers = (then if predicate else otherwise)(operands, {})
    return answers[0] if single else answers


#: Operators whose arguments are graphs.
_BRANCHES: dict[str, Callable[..., Any]] = {
    "torch.ops.higher_order.cond": _cond,
    "torch.ops.higher_order.wrap_with_set_grad_enabled": _set_grad_enabled,
}


def _is_positional(node: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    if item["kind"] is None or item["kind"] == 0:
        raise Unsupported(f"an argument of {node['target']} is neither positional nor named")
    return bool(item["kind"] == _POSITIONAL)


def _argument(argument: Mapping[str, Any]) -> Any:  # noqa: PLR0911, PLR0912  one branch per kind of argument
    """An argument of a call: a constant, a `_Name`, or a list of them (`schema.Argument`)."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_bools" | "as_strings":
            return content
        case "as_float":
            return float(content)  # JSON has no infinity and no NaN: they are text
        case "as_floats":
            return [float(item) for item in content]
        case "as_tensor":
            return _Name(content["name"])
        case "as_tensors":
            return [_Name(item["name"]) for item in content]
        case "as_optional_tensors":
            return [_Name(item["as_tensor"]["name"]) if "as_tensor" in item else None for item in content]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return _symbolic(content)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
            return [_symbolic(item) for item in content]
        case "as_scalar_type" if content in DTYPES:
            return DTYPES[content]
        case "as_memory_format" if content in _MEMORY_FORMATS:
            return _MEMORY_FORMATS[content]
        case "as_layout" if content == STRIDED:
            return torch.strided
        case "as_device" if content["type"] == "cpu":
            return torch.device("cpu")
        case "as_complex":
            return complex(float(content["real"]), float(content["imag"]))
        case "as_graph":
            graph = content["graph"]
            inputs = [_argument(item) for item in graph["inputs"]]
            if not all(isinstance(item, _Name) for item in inputs):
                raise Unsupported(f"the subgraph {content['name']} takes constants")
            return _Graph(
                [item.name for item in inputs], graph["nodes"], [_argument(item) for item in graph["outputs"]]
            )
    raise Unsupported(f"the program has an argument {kind}")


def _symbolic(content: Mapping[str, Any]) -> Any:
    ((kind, item),) = content.items()
    if kind == "as_name":
        return _Name(item)
    return float(item) if kind == "as_float" else item


def _result(argument: Mapping[str, Any]) -> str | list[str] | None:
    """The name of a call's output, or the names of a list of outputs; `None` for nothing."""
    named = _argument(argument)
    if isinstance(named, list):
        return [item.name for item in named]
    return named.name if isinstance(named, _Name) else None


def _output(spec: Mapping[str, Any]) -> Any:
    ((kind, content),) = spec.items()
    if kind != "user_output":
        raise Unsupported(f"the program has a {kind}")
    return _argument(content["arg"])


def _names(arguments: Sequence[Any]) -> set[str]:
    """Every value that the arguments name."""
    found: set[str] = set()
    for argument in arguments:
        if isinstance(argument, list):
            found |= _names(argument)
        elif isinstance(argument, _Name):
            found.add(argument.name)
    return found
