"""What the parts of a spec must be to each other, to the files beside it, and to Slipway's tables.

In: a `Draft`, the parts that hold on their own. Out: where and what is wrong. `CHECKS` is the table; a check is a
function of the draft and the spec's folder that yields (key, sentence), and looks only at parts that hold, so that one
mistake is reported once.
"""

from __future__ import annotations

import itertools
import keyword
import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path

from serving.contract import DType, NanPolicy, Signature, TensorSpec
from tasks.spec import DEFAULT_MAX_BATCH, Framework
from tasks.spec_document import KeyPath, dotted
from tasks.spec_draft import Draft, Found
from tasks.spec_hints import nearest
from tasks.spec_keys import EXPECTED
from tasks.spec_source import entrypoint, evaluation_data, metric_callables, source_uri

#: What a message of the Open Inference Protocol over gRPC carries, because protobuf stops there
#: (protobuf.dev, "Proto Limits": 2 GiB). The parity gate asks for the largest batch, so more would also fill a machine.
_LARGEST_BYTES = 1 << 31
#: Larger numbers than this are not written out.
_COUNTABLE = 10**30
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


# --- tensors and dimensions ---------------------------------------------------------------------------------------


def tensor_names(draft: Draft, _folder: Path) -> Found:
    """Legal, and unique over inputs and outputs together: graphs know one name space."""
    seen: dict[str, KeyPath] = {}
    for path, texts in (*draft.texts("inputs"), *draft.texts("outputs")):
        name = texts.get("name")
        if name is None:
            continue
        if not _legal(name):
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
            elif not _legal(size):
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


# --- preprocessing, metrics ---------------------------------------------------------------------------------------


def preprocess(draft: Draft, folder: Path) -> Found:
    """Known operations with the arguments that they take, on inputs and with files that there are."""
    from serving.preprocess import OPERATIONS, file_problems, problems

    names = draft.names("inputs")
    for path, texts in draft.texts("preprocess"):
        op, tensor = texts.get("op"), texts.get("input")
        if op is not None and op not in OPERATIONS:
            there = f"there are {', '.join(OPERATIONS)}{nearest(op, OPERATIONS)}"
            yield (*path, "op"), f"unknown operation {op!r}; {there}"
        if tensor is not None and tensor not in names:
            there = f"there are {', '.join(names)}{nearest(tensor, names)}"
            yield (*path, "input"), f"there is no input {tensor!r}; {there}"
    sound = {tensor.name for tensor in draft.inputs.values()}
    steps = {index: step for index, step in draft.preprocess.items() if step.op in OPERATIONS and step.input in sound}
    signature = Signature(inputs=tuple(draft.inputs.values()), outputs=(), dynamic=draft.dynamic)
    asked = tuple(steps.values())
    outside = [index for index, step in steps.items() if step.file is not None and not _below(step.file)]
    for index in outside:
        expected = "a path below the spec's own folder, with / between its parts"
        yield ("preprocess", index, "file"), f"expected {expected}; found {steps[index].file!r}"
    for problem in problems(signature, asked) or (() if outside else file_problems(signature, asked, folder)):
        yield ("preprocess", list(steps)[problem.step], problem.key), problem.message


def metrics(draft: Draft, _folder: Path) -> Found:
    """Known metrics of outputs that there are, and that they can be measured on."""
    from tasks.parity.metrics import METRICS

    names = draft.names("outputs")
    outputs = {tensor.name: tensor for tensor in draft.outputs.values()}
    seen: dict[tuple[str, ...], KeyPath] = {}
    for path, texts in draft.texts("evaluation", "metrics"):
        name, output = texts.get("name"), texts.get("output")
        if "callable" in texts:
            yield from _own_metric(path, texts)
        elif name is not None and name not in METRICS:
            there = f"there are {', '.join(METRICS)}{nearest(name, METRICS)}"
            yield (*path, "name"), f"unknown metric {name!r}; {there}"
        if output is not None and output not in names:
            there = f"there are {', '.join(names)}{nearest(output, names)}"
            yield (*path, "output"), f"there is no output {output!r}; {there}"
        if name in METRICS and output in outputs and "callable" not in texts:
            problem = METRICS[name].problem(outputs[output])
            yield from [((*path, "output"), f"{name} {problem}")] if problem else []
            yield from _ranking(path, texts, outputs[output])
        drop = draft.written(*path, "max_drop")
        if name in METRICS and "callable" not in texts and METRICS[name].is_share and _at_least(drop, 1):
            yield (*path, "max_drop"), f"{name} lies between 0 and 1, so nothing can lose {drop}; such as 0.005"
        what = tuple(texts.get(key, "") for key in ("name", "output", "label"))
        if all(what) and what in seen:
            yield path, f"measures the same as {dotted(seen[what])}; remove one"
        seen.setdefault(what, path)


def _own_metric(path: KeyPath, texts: Mapping[str, str]) -> Found:
    """A name that no metric of Slipway's has, and which way it improves."""
    from tasks.parity.metrics import METRICS

    name = texts.get("name")
    if name in METRICS:
        yield (*path, "name"), f"{name} is a metric of Slipway's own; give yours another name, or remove its callable"
    elif name is not None and not _legal(name):
        yield (*path, "name"), f"expected a name of letters, digits and underscores, such as profit; found {name!r}"
    if "direction" not in texts:
        yield (*path, "direction"), "is missing: say whether a higher or a lower value of it is better"
    if "group" in texts:
        yield (*path, "group"), "is for rankings such as ndcg; a callable takes answers and labels alone, remove it"


def _ranking(path: KeyPath, texts: Mapping[str, str], output: TensorSpec) -> Found:
    """Rankings of single scores have a group, and nothing else has one."""
    from tasks.parity.metrics import METRICS

    name, single = texts["name"], len(output.shape) < 2 or output.shape[1:] == (1,)
    if "direction" in texts:
        yield (*path, "direction"), f"{name} knows which way it improves; only a callable takes a direction, remove it"
    if "group" in texts and not METRICS[name].ranks:
        yield (*path, "group"), f"{name} ranks nothing; only rankings such as ndcg take a group, remove it"
    elif "group" in texts and not single:
        yield (*path, "group"), "each row of this output is a list of scores, so each row is a query; remove it"
    elif METRICS[name].ranks and single and "group" not in texts:
        yield (*path, "group"), f"is missing: {output.name!r} has one score a row; name the column of the row's query"


# --- formats, serving, instance types, release --------------------------------------------------------------------


def formats(draft: Draft, _folder: Path) -> Found:
    """Known formats that the framework can give, each once; or `all`, alone."""
    from tasks.export.formats import ALL, FORMATS, formats_of

    framework = draft.framework
    for index, name in draft.formats.items():
        if name == ALL:
            if len(set(draft.formats.values())) > 1:
                yield ("formats", index), "all stands alone: every format is in it; write [all], or only names"
        elif name not in FORMATS:
            there = f"there are {', '.join(FORMATS)}{nearest(name, [*FORMATS, ALL])}"
            yield ("formats", index), f"unknown format {name!r}; {there}"
        elif framework is not None and name not in formats_of(framework):
            gives = ", ".join(formats_of(framework)) or "none"
            yield ("formats", index), f"a {framework} model cannot be written as {name}; {framework} gives {gives}"
    for index, first in _repeated(draft.formats):
        yield ("formats", index), f"{draft.formats[index]!r} is already formats.{first}; remove one"


def serving_format(draft: Draft, _folder: Path) -> Found:
    """`auto`, or one of the formats that are made."""
    from tasks.export.formats import named_formats

    chosen, made = draft.serving_format, list(dict.fromkeys(draft.formats.values()))
    if draft.framework is not None:
        made = list(named_formats(made, draft.framework))
    if chosen is not None and chosen not in ("auto", *made):
        hint = nearest(chosen, ["auto", *made])
        yield ("serving", "format"), f"expected auto or one of formats ({', '.join(made)}); found {chosen!r}{hint}"


def prediction_log(draft: Draft, _folder: Path) -> Found:
    """What is left out of the recorded predictions are inputs that there are; a name too few would be one too many."""
    names = _sent(draft)
    for key in ("omit", "hash"):
        listed = draft.written("serving", "prediction_log", key)
        for index, name in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(name, str) and name not in names:
                hint = nearest(name, names) or f"; there are {', '.join(names)}"
                yield ("serving", "prediction_log", key, index), f"no input {name!r}{hint}"


def _sent(draft: Draft) -> list[str]:
    """The names under which clients send inputs: what is recorded is what they sent."""
    names = {name: name for name in draft.names("inputs")}
    for _, step in draft.texts("preprocess"):
        names |= {step.get("input", ""): step["source"]} if "source" in step else {}
        for key in ("indicator", "mask", "type_ids"):
            names.pop(step.get(key, ""), None)
    names.pop("", None)
    return list(dict.fromkeys(names.values()))


def instance_types(draft: Draft, _folder: Path) -> Found:
    """Instance types of the catalogue, each once."""
    from tasks.smoke.catalogue import OWN_FILE_VARIABLE, load_catalogue

    known, own = load_catalogue(), f"your own types go into the file that {OWN_FILE_VARIABLE} names"
    for index, name in draft.instance_types.items():
        if name not in known:
            hint = nearest(name, known) or f"; `slipway instance-types` shows the {len(known)} that there are"
            yield ("smoke", "instance_types", index), f"unknown instance type {name!r}{hint}; {own}"
    for index, first in _repeated(draft.instance_types):
        name = draft.instance_types[index]
        yield ("smoke", "instance_types", index), f"{name!r} is already instance_types.{first}; remove one"


def release_steps(draft: Draft, _folder: Path) -> Found:
    """Each step above the one before it, the last one everything."""
    if draft.written("release", "steps") == []:
        yield ("release", "steps"), "expected at least the step 100; found an empty list"
    steps = list(draft.steps.values())
    if len(steps) != len(draft.written("release", "steps") or ()):
        return
    for index, (before, step) in enumerate(itertools.pairwise(steps), start=1):
        if step <= before:
            yield ("release", "steps", index), f"each step must be above the one before it; {step:g} follows {before:g}"
    if steps and steps[-1] != 100:
        yield ("release", "steps"), f"the last step must be 100, all traffic; found {steps[-1]:g}"


#: Every check. Each looks at what holds; the order does not matter, problems are sorted by line.
CHECKS: tuple[Callable[[Draft, Path], Found], ...] = (
    tensor_names,
    sizes,
    ranges,
    volumes,
    batch,
    max_batch,
    batch_rows,
    strings,
    values,
    preprocess,
    metrics,
    formats,
    serving_format,
    prediction_log,
    instance_types,
    release_steps,
    source_uri,
    entrypoint,
    evaluation_data,
    metric_callables,
)


# --- parts of checks ----------------------------------------------------------------------------------------------


def _at_least(value: object, least: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= least


def _legal(name: str) -> bool:
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


def _below(path: str) -> bool:
    """A plain relative path that leaves no folder."""
    parts = path.split("/")
    return "\\" not in path and "://" not in path and not {"", ".", ".."} & set(parts)


def _repeated(values: Mapping[int, Hashable]) -> Iterator[tuple[int, int]]:
    """Positions of values that were there before, with the first position of each."""
    first: dict[Hashable, int] = {}
    for index, value in values.items():
        if value in first:
            yield index, first[value]
        else:
            first[value] = index
