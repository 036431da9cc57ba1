"""Why PyTorch could not capture or convert a model, in terms of the user's own modules.

PyTorch's errors name symbols and internals. The module is found where PyTorch leaves it: in the frames of the
traceback while a model's Python code runs, and in the metadata of a graph's nodes afterwards.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tasks.export.conversion import ExportFailure, Place, reason_of

if TYPE_CHECKING:
    import torch

_SPECIALIZED = re.compile(r"You marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)")
_RANGE = re.compile(r"Not all values of (\w+) = .* satisfy the generated guard (.+?)\.?$", re.MULTILINE)
_EQUAL = re.compile(r"The values of (.+?) and (.+?) must always be equal")
_CONDITION = "use torch.where, or torch.cond with both branches, or move the decision out of the model"


def why_not_captured(error: Exception, model: torch.nn.Module, again: Callable[[], object]) -> ExportFailure:
    """The finding for an exception out of `torch.export.export`. `again` repeats the attempt, to watch it."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    text = str(error)
    if "Constraints violated" in text:
        return _restricted(text, model, again)
    place = place_of_error(error, model)
    at = f" at {place.line}" if place.line else ""
    evidence: dict[str, str | int | float | bool] = {**place.evidence}
    data_dependent = (GuardOnDataDependentSymNode, DataDependentOutputException, DynamicOutputShapeException)
    if isinstance(error, data_dependent):
        return ExportFailure(
            "EXPORT_DATA_DEPENDENT_CONTROL_FLOW",
            f"{place} takes a path that depends on the values of a tensor{at}, and an exported graph has one path",
            f"rewrite {place.module or 'it'} without the decision: {_CONDITION}",
            evidence=evidence,
            other_formats=False,
        )
    if "numpy() is not supported" in text or "numpy on" in text:
        return ExportFailure(
            "EXPORT_UNSUPPORTED_OPERATOR",
            f"{place} leaves PyTorch for NumPy{at}, where no exporter can follow",
            f"write {place.module or 'it'} with PyTorch's own operators",
            evidence={**evidence, "operator": "numpy"},
            other_formats=False,
        )
    return ExportFailure(
        "EXPORT_FAILED",
        f"torch.export stopped in {place}{at}: {reason_of(error)}",
        f"make torch.export.export work on {place.module or 'the model'} alone; the full message is kept as evidence",
        evidence={**evidence, "error": type(error).__name__},
        other_formats=False,
    )


def frozen_dimension(name: str, size: int, where: str, place: Place | None = None) -> ExportFailure:
    """A dimension that the spec declares as dynamic came out with one size."""
    place = place or Place()
    by = f" by {place}" if place.kind else ""
    line = f" at {place.line}" if place.line else ""
    return ExportFailure(
        "EXPORT_DIMENSION_FROZEN",
        f"in {where} the dimension {name} is frozen at {size}{by}{line}",
        f"keep {name} open in {place.module or 'the model'}: no int() of it, no comparison with a number, no constant "
        f"of that size; or write {size} instead of {name} in model.yaml",
        evidence={"dimension": name, "frozen_at": size, **place.evidence},
        other_formats=False,
    )


def place_of_error(error: BaseException, model: torch.nn.Module) -> Place:
    """The innermost module of `model` whose code was running, from the error's traceback or what caused it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for link in chain:
        frames = []
        trace = link.__traceback__
        while trace is not None:
            frames.append((trace.tb_frame, trace.tb_lineno))
            trace = trace.tb_next
        place = _place(frames, model)
        if place.module or place.kind:
            return place
    return Place()


def place_of_node(node: torch.fx.Node) -> Place:
    """The module that a graph's node came from, and the line of its code."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else getattr(kind, "__qualname__", "")
    found = re.findall(r'File "(.+?)", line (\d+), in .*\n\s+(.+)', node.meta.get("stack_trace") or "")
    own = [entry for entry in found if not _is_library(entry[0])] or found
    line = f"{Path(own[-1][0]).name}:{own[-1][1]}: {own[-1][2].strip()}" if own else ""
    return Place(module=module.removeprefix("L['self']").lstrip("."), kind=kind.rsplit(".", 1)[-1], line=line)


def node_in(error: BaseException | None) -> torch.fx.Node | None:
    """The graph's node that was being worked on when the error was raised."""
    import torch

    node: torch.fx.Node | None = None
    while error is not None and node is None:
        trace = error.__traceback__
        while trace is not None:
            for name in ("node", "n"):
                if isinstance(candidate := trace.tb_frame.f_locals.get(name), torch.fx.Node):
                    node = candidate
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return node


# --- dimensions ---------------------------------------------------------------------------------------------------


def _restricted(text: str, model: torch.nn.Module, again: Callable[[], object]) -> ExportFailure:
    """A dimension was frozen, or does not hold over its whole range."""
    places = _guards_added(model, again)
    if found := _SPECIALIZED.search(text):
        name, size = found[1], int(found[2])
        fits = [place for guard, place in places if re.search(rf"\bEq\(.*\b{size}\b", guard)]
        return frozen_dimension(name, size, "the exported graph", fits[0] if fits else None)
    place = places[0][1] if places else Place()
    where = f" in {place}{f' at {place.line}' if place.line else ''}" if place.kind else ""
    if found := _EQUAL.search(text):
        rule, name = "two dimensions are always equal", " and ".join(re.findall(r"\w+", f"{found[1]} {found[2]}")[:2])
    elif found := _RANGE.search(text):
        name = found[1]
        rule = re.sub(r"L\['\w+'\]\.size\(\)\[\d+\]", name, found[2])
    else:
        name, rule = "", reason_of(ValueError(text.partition("\n")[2]))
    return ExportFailure(
        "EXPORT_DIMENSION_RESTRICTED",
        f"the model does not take the whole declared range of {name or 'a dimension'}{where}: it needs {rule}",
        f"change {place.module or 'the model'} so that every size works, or narrow the range in model.yaml",
        evidence={"dimension": name, **place.evidence},
        other_formats=False,
    )


def _guards_added(model: torch.nn.Module, again: Callable[[], object]) -> list[tuple[str, Place]]:
    """Every condition on sizes that capturing adds, and the module that was running when it did."""
    found: list[tuple[str, Place]] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "[guard added]" in (message := record.getMessage()):
                frames, frame = [], sys._getframe()
                current: FrameType | None = frame
                while current is not None:
                    frames.append((current, current.f_lineno))
                    current = current.f_back
                found.append((message, _place(frames[::-1], model)))

    with _listening("torch.fx.experimental.symbolic_shapes", Watch()), contextlib.suppress(Exception):
        again()
    return found


@contextlib.contextmanager
def _listening(name: str, handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate, logger.handlers
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = False, [handler]
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers = before[1:]


# --- frames -------------------------------------------------------------------------------------------------------


def _place(frames: list[tuple[FrameType, int]], model: torch.nn.Module) -> Place:
    """From a stack, outermost first: the innermost module of the model, and the innermost line of the user's code."""
    names = {id(module): name for name, module in model.named_modules()}
    module, kind, line = "", "", ""
    for frame, number in frames:
        owner: Any = frame.f_locals.get("self")
        if id(owner) in names:
            module, kind = names[id(owner)], type(owner).__name__
            if not _is_library(frame.f_code.co_filename):
                line = ""
        if kind and not _is_library(frame.f_code.co_filename):
            source = linecache.getline(frame.f_code.co_filename, number).strip()
            line = f"{Path(frame.f_code.co_filename).name}:{number}: {source}".rstrip(": ")
    return Place(module, kind, line)


def _is_library(filename: str) -> bool:
    """Whether a file is a library's or Slipway's rather than the user's."""
    import torch

    own = str(Path(__file__).parent)
    libraries = str(Path(torch.__file__).parent.parent)
    return filename.startswith((libraries, sys.base_prefix, own, "<"))
