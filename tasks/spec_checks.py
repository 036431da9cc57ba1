"""What the parts of a spec must be to each other, to the files beside it, and to Slipway's tables.

In: a `Draft`, the parts that hold on their own. Out: where and what is wrong. `CHECKS` is the table; a check is a
function of the draft and the spec's folder that yields (key, sentence), and looks only at parts that hold, so that one
mistake is reported once. Those of tensors are in `spec_tensors`, those of files in `spec_source`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path

from serving.contract import Signature, TensorSpec
from tasks.spec_document import KeyPath, dotted
from tasks.spec_draft import Draft, Found
from tasks.spec_hints import nearest
from tasks.spec_source import entrypoint, evaluation_data, metric_callables, source_uri
from tasks.spec_tensors import (
    batch,
    batch_rows,
    legal,
    max_batch,
    ranges,
    sizes,
    strings,
    tensor_names,
    values,
    volumes,
)

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
    elif name is not None and not legal(name):
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
