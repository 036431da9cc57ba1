"""What a spec's tensors and dimensions must be to each other. Checks of `tasks.spec_checks.CHECKS`."""

from __future__ import annotations

import keyword
import math
import re
from pathlib import Path

from serving.contract import DType, NanPolicy, TensorSpec
from tasks.spec import DEFAULT_MAX_BATCH, Framework
from tasks.spec_document import KeyPath, dotted
from tasks.spec_draft import Draft, Found
from tasks.spec_hints import nearest
from tasks.spec_keys import EXPECTED

#: What a message of the Open Inference Protocol over gRPC carries, because protobuf stops there
#: (protobuf.dev, "Proto Limits": 2 GiB). The parity gate asks for the largest batch, so more would also fill a machine.
_LARGEST_BYTES = 1 << 31
#: Larger numbers than this are not written out.
_COUNTABLE = 10**30
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def tensor_names(draft: Draft, _folder: Path) -> Found:
    """Legal, and unique over inputs and outputs together: graphs know one name space."""
    seen: dict[str, KeyPath] = {}
    for path, texts in (*draft.texts("inputs"), *draft.texts("outputs")):
        name = texts.get("name")
        if name is None:
            continue
        if not legal(name):
            yield (*path, "name"), f"expected {EXPECTED['inputs.*.name']}; found {name!r}"
        elif name in seen:
            yield (*path, "name"), f"{name!r} is already the name of {dotted(seen[name])}; give each its own"
        seen.setdefault(name, path)


def sizes(draft: Draft, _folder: Path) -> Found:
    """Sizes are at least 1; named dimensions are declared under `dynamic`."""
    declared = draft.written("dynamic")
    known = list(declared) if isinstance(declared, dict) else []
    for path, shape in draft.shapes():
        for axis, size in enumerate(shape or ()):
            if isinstance(size, int):
                if size < 1:
                    why = "name the dimension if it varies, such as batch"
                    yield (*path, axis), f"a size is at least 1, found {size}; {why}"
            elif not legal(size):
                yield (*path, axis), f"expected a size, or a name of letters, digits and underscores; found {size!r}"
            elif size not in known:
                hint = nearest(size, known) or f"; add `{size}: {{min: 1, max: 64}}` with its own range"
                yield (*path, axis), f"the dimension {size!r} has no range under `dynamic`{hint}"


def ranges(draft: Draft, _folder: Path) -> Found:
    """`1 <= min < max`, and every declared dimension is somebody's."""
    shapes = [shape for _, shape in draft.shapes()]
    used = {size for shape in shapes for size in shape or () if isinstance(size, str)}
    for name, span in draft.dynamic.items():
        if span.min < 1:
            yield ("dynamic", name, "min"), f"a size is at least 1, found {span.min}"
        if span.min > span.max:
            yield ("dynamic", name), f"min {span.min} is above max {span.max}"
        elif span.min == span.max:
            yield ("dynamic", name), f"has the one size {span.min}; write {span.min} in the shapes instead of {name!r}"
        if name not in used and shapes and None not in shapes:
            yield ("dynamic", name), f"no input or output has the dimension {name!r}{nearest(name, used)}"


def volumes(draft: Draft, _folder: Path) -> Found:
    """No tensor is larger than one request can carry, with every named dimension at its largest."""
    for what, tensors in (("inputs", draft.inputs), ("outputs", draft.outputs)):
        for index, tensor in tensors.items():
            spans = {size: draft.dynamic[size].max for size in tensor.shape if size in draft.dynamic}
            count = math.prod(spans.get(size, 1) if isinstance(size, str) else size for size in tensor.shape)
            width = 1 if tensor.dtype is DType.STRING else tensor.dtype.numpy.itemsize
            if count * width <= _LARGEST_BYTES:
                continue
            at = f" with {', '.join(f'{name} = {size}' for name, size in spans.items())}" if spans else ""
            yield (
                (what, index, "shape"),
                f"is {min(count * width, _COUNTABLE):.3g} bytes{at}; a tensor has at most 2 GiB: correct sizes, ranges",
            )


def batch(draft: Draft, _folder: Path) -> Found:
    """All inputs and outputs begin with one and the same named dimension: requests are joined along it."""
    leads: dict[str, list[str]] = {}
    for path, shape in draft.shapes():
        if shape == ():
            yield path, "must begin with the batch dimension, such as [batch]; found an empty shape"
        elif shape and isinstance(shape[0], int):
            why = "the first dimension must be a named one, such as [batch, …]"
            yield (*path, 0), f"the batch is frozen at {shape[0]}; {why}"
        elif shape and shape[0] in draft.dynamic:  # else it is reported as unknown
            leads.setdefault(str(shape[0]), []).append(dotted(path[:-1]))
    if len(leads) > 1:
        found = ", ".join(f"{lead} ({', '.join(places)})" for lead, places in leads.items())
        yield ("inputs",), f"all inputs and outputs must begin with the same dimension, the batch; found {found}"


def max_batch(draft: Draft, _folder: Path) -> Found:
    """Requests of `max_batch` rows must be possible."""
    span, rows = draft.dynamic.get(draft.batch or ""), draft.max_batch
    if span is None or rows is None or rows < 1 or span.min > span.max:
        return
    if not span.min <= rows <= span.max:
        yield ("serving", "max_batch"), f"{rows} is outside the range {span.min} to {span.max} of {draft.batch!r}"


def batch_rows(draft: Draft, _folder: Path) -> Found:
    """No batch is larger than what parity proves to be answered like single rows."""
    rows, span = draft.written("serving", "batch_rows"), draft.dynamic.get(draft.batch or "")
    most = draft.max_batch or min(DEFAULT_MAX_BATCH, 1 if span is None else span.max)
    if isinstance(rows, int) and rows > most:
        yield ("serving", "batch_rows"), f"{rows} is above serving.max_batch, {most}: parity proves batches up to that"


def strings(draft: Draft, _folder: Path) -> Found:
    """PyTorch models have no tensors of strings."""
    if draft.framework is Framework.PYTORCH:
        for path, texts in (*draft.texts("inputs"), *draft.texts("outputs")):
            if texts.get("dtype") == DType.STRING:
                yield (*path, "dtype"), f"a {draft.framework} model has no tensors of strings"


def values(draft: Draft, _folder: Path) -> Found:
    """A range is one of numbers that the dtype has; NaN is a float's."""
    for index, tensor in draft.inputs.items():
        if tensor.nan is NanPolicy.ACCEPT and not tensor.dtype.is_float:
            yield ("inputs", index, "nan"), f"{tensor.dtype} has no NaN; remove the key"
        if tensor.range is None:
            continue
        path: KeyPath = ("inputs", index, "range")
        least, greatest = tensor.range
        if tensor.dtype in (DType.BOOL, DType.STRING):
            yield path, f"{tensor.dtype} has no range of numbers; remove the key"
        elif least is None and greatest is None:
            yield path, "has no end at all; give one of them, or remove the key"
        elif least is not None and greatest is not None and least > greatest:
            yield path, f"the least value {least} is above the greatest {greatest}"
        elif not tensor.dtype.is_float and any(isinstance(end, float) for end in tensor.range):
            yield path, f"{tensor.dtype} has whole numbers; found [{least}, {greatest}]"
        else:
            yield from _beyond(path, tensor)


def legal(name: str) -> bool:
    """A name that every framework takes: SavedModel signatures and traced functions make it a Python argument."""
    return _NAME.fullmatch(name) is not None and not keyword.iskeyword(name)


def _beyond(path: KeyPath, tensor: TensorSpec) -> Found:
    """Ends that the dtype does not have: no value would ever lie there."""
    import numpy as np

    number = float if tensor.dtype.is_float else int
    limits = np.finfo(tensor.dtype.numpy) if tensor.dtype.is_float else np.iinfo(tensor.dtype.numpy)
    least, greatest = number(limits.min), number(limits.max)
    for axis, end in enumerate(tensor.range or ()):
        if end is not None and not least <= end <= greatest:
            span = f"{least} to {greatest}"
            yield (*path, axis), f"{end} is no {tensor.dtype}, which has {span}; write null for no end"
