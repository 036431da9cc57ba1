"""Declared preprocessing: raw inputs, as clients send them → what the model itself takes.

One implementation for the source model's evaluation, parity, the golden samples and every serving image, so that
training and production cannot drift apart. The operations and their arguments in model.yaml:

    arithmetic    scale, standardize, clip, cast              numbers → numbers
    missing       impute                                      NaN and null → a constant, with an indicator
    categories    vocabulary                                  strings → ids
    images        decode_image, resize, crop, layout          PNG and JPEG → arrays
    text          tokenize                                    strings → token ids, with a mask

Steps run in the order they are declared. What clients send is `raw_signature`: a step's `input` names an input of the
model, and `source` the raw input that it is made from, where that has a name of its own. One raw input may feed several
of the model's; inputs that a step fills beside its own (`indicator`, `mask`, `type_ids`) are not sent.

Pillow and tokenizers are imported only where a step needs them: `extras` says which a package needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PreprocessStep, Signature, TensorSpec
from serving.preprocess.operation import BadFile, BadRow, Operation, Run, feeds

#: Name in model.yaml → where the operation is.
OPERATIONS: Mapping[str, str] = {
    "scale": "serving.preprocess.arithmetic:SCALE",
    "standardize": "serving.preprocess.arithmetic:STANDARDIZE",
    "clip": "serving.preprocess.arithmetic:CLIP",
    "cast": "serving.preprocess.arithmetic:CAST",
    "impute": "serving.preprocess.missing:IMPUTE",
    "vocabulary": "serving.preprocess.categories:VOCABULARY",
    "decode_image": "serving.preprocess.images:DECODE_IMAGE",
    "resize": "serving.preprocess.images:RESIZE",
    "crop": "serving.preprocess.images:CROP",
    "layout": "serving.preprocess.images:LAYOUT",
    "tokenize": "serving.preprocess.text:TOKENIZE",
}


@dataclass(frozen=True, slots=True)
class StepProblem:
    """One thing wrong with a declared step: which step (from 0), which of its keys, and a sentence."""

    step: int
    key: str
    message: str


class Preprocessing:
    """Steps made ready to run on requests: files read, constants in the dtypes that are computed in.

    `raw` is what clients send. Calls may run at the same time.
    """

    def __init__(self, steps: Sequence[PreprocessStep], signature: Signature, folder: Path | None = None) -> None:
        """Files that steps name lie in `folder`.

        Raises:
            ValueError: a step is not one that `problems` accepts, or `BadFile` that `file_problems` does not.
        """
        self.steps = tuple(steps)
        self.signature = signature
        self.folder = folder
        self.raw = raw_signature(signature, steps)
        self._names = tuple(tensor.name for tensor in signature.inputs)
        self._chains = tuple(_Chain.of(chain, signature, folder) for chain in _chains(steps, signature))
        self._sent_only = tuple(tensor.name for tensor in self.raw.inputs if tensor.name not in self._names)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The model's inputs, by name in the signature's order, of raw inputs that fit `raw`.

        The arrays that are given are never written to.

        Raises:
            BadRow: a value that a step can make nothing of.
        """
        arrays = dict(inputs)
        if not self._chains:
            return arrays
        # What leaves the dtype's range becomes infinite, which is for the caller to judge.
        with np.errstate(over="ignore", invalid="ignore"):
            for chain in self._chains:
                value: Any = inputs[chain.source]
                for run in chain.runs:
                    value = run(value, arrays)
                arrays[chain.input] = value
        for name in self._sent_only:
            del arrays[name]
        return {name: arrays.pop(name) for name in self._names if name in arrays} | arrays


def apply(
    steps: Sequence[PreprocessStep],
    inputs: Mapping[str, NDArray[Any]],
    signature: Signature,
    folder: Path | None = None,
) -> dict[str, NDArray[Any]]:
    """Run `steps` once over raw inputs of `raw_signature(signature, steps)`; see `Preprocessing`.

    Raises:
        ValueError: a step is not one that `problems` accepts.
        BadRequest: a value that no step can make anything of.
    """
    return Preprocessing(steps, signature, folder)(inputs)


def raw_signature(signature: Signature, steps: Sequence[PreprocessStep]) -> Signature:
    """What clients send, where `signature` is what the model takes: steps undone, outputs and ranges as they are.

    Raises:
        ValueError: with every problem of the steps.
    """
    if found := problems(signature, steps):
        raise ValueError("; ".join(f"preprocess.{problem.step}.{problem.key}: {problem.message}" for problem in found))
    return replace(signature, inputs=tuple(dict.fromkeys(_sent(signature, steps).values())))


def problems(signature: Signature, steps: Sequence[PreprocessStep]) -> tuple[StepProblem, ...]:
    """Everything that is wrong with `steps` for a model of `signature`; empty when they can run."""
    found: list[StepProblem] = []
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    fed = {name: index for index, step in enumerate(steps) for name in feeds(step).values()}
    before: dict[str, list[str]] = {}
    for index, step in enumerate(steps):
        tensor = tensors.get(step.input)
        if step.op not in OPERATIONS:
            found.append(StepProblem(index, "op", f"no operation {step.op!r}; there are {', '.join(OPERATIONS)}"))
        if tensor is None:
            found.append(StepProblem(index, "input", f"no input {step.input!r}; there are {', '.join(tensors)}"))
        if step.op not in OPERATIONS or tensor is None:
            continue
        operation = find(step.op)
        given = {field.name for field in fields(step) if getattr(step, field.name) is not None} - {"op", "input"}
        for key in sorted(given - operation.arguments):
            takes = " and ".join(sorted(operation.arguments))
            found.append(StepProblem(index, key, f"{step.op} takes {takes}, not {key}"))
        found += [StepProblem(index, key, message) for key, message in operation.check(step, tensor, signature)]
        earlier = before.setdefault(step.input, [])
        if operation.first and earlier:
            found.append(StepProblem(index, "op", f"a {step.op} must be the first step of its input {step.input!r}"))
        if operation.after is not None and operation.after not in earlier:
            found.append(StepProblem(index, "op", f"{step.op} needs a step {operation.after} before it"))
        if step.op in earlier and step.op == "impute":
            found.append(StepProblem(index, "op", f"{step.input!r} is imputed already: nothing is missing any more"))
        earlier.append(step.op)
        for key, name in feeds(step).items():
            if name not in tensors:
                found.append(StepProblem(index, key, f"no input {name!r}; there are {', '.join(tensors)}"))
            elif fed[name] != index or name == step.input or list(feeds(step).values()).count(name) > 1:
                found.append(StepProblem(index, key, f"{name!r} is filled twice; name an input of its own"))
        if step.input in fed:
            by = steps[fed[step.input]]
            found.append(StepProblem(index, "input", f"{step.input!r} is filled by the {by.op} of {by.input!r}"))
    return tuple(found) or tuple(_problems_together(signature, steps))


def file_problems(signature: Signature, steps: Sequence[PreprocessStep], folder: Path) -> tuple[StepProblem, ...]:
    """What is wrong with the files that steps name, where the steps themselves can run."""
    found = []
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    for index, step in enumerate(steps):
        if step.file is None:
            continue
        try:
            find(step.op).prepare(step, tensors[step.input], signature, folder)
        except BadFile as error:
            found.append(StepProblem(index, "file", str(error)))
    return tuple(found)


def step_files(steps: Sequence[PreprocessStep]) -> tuple[str, ...]:
    """The files that steps name, each once, sorted."""
    return tuple(sorted({step.file for step in steps if step.file is not None}))


def extras(steps: Sequence[PreprocessStep]) -> tuple[str, ...]:
    """Which optional libraries the steps need: of `image` (Pillow) and `text` (tokenizers)."""
    return tuple(sorted({extra for step in steps if (extra := find(step.op).extra) is not None}))


@cache
def find(name: str) -> Operation:
    """The operation of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in OPERATIONS:
        raise ValueError(f"no operation {name!r}; there are {', '.join(OPERATIONS)}")
    module, _, attribute = OPERATIONS[name].partition(":")
    operation: Operation = getattr(importlib.import_module(module), attribute)
    return operation


# --- what belongs together ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Chain:
    """All steps of one input of the model, ready to run one after the other on the raw input `source`."""

    input: str
    source: str
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, steps: Sequence[PreprocessStep], signature: Signature, folder: Path | None) -> _Chain:
        tensor = next(tensor for tensor in signature.inputs if tensor.name == steps[0].input)
        runs = []
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            operation = find(step.op)
            runs.append(operation.prepare(step, tensor, signature, folder))
            if operation.pictures and (after is None or not find(after.op).pictures):
                from serving.preprocess.images import gathered

                runs.append(gathered(steps, tensor, signature))
        return cls(tensor.name, _source(steps), tuple(runs))


def _chains(steps: Sequence[PreprocessStep], signature: Signature) -> list[list[PreprocessStep]]:
    """The steps of each input, in their order; inputs in the signature's."""
    chains = ([step for step in steps if step.input == tensor.name] for tensor in signature.inputs)
    return [chain for chain in chains if chain]


def _source(chain: Sequence[PreprocessStep]) -> str:
    return next((step.source for step in chain if step.source is not None), chain[0].input)


def _sent(signature: Signature, steps: Sequence[PreprocessStep]) -> dict[str, TensorSpec]:
    """What clients send for each input of the model that no other input's step fills."""
    fed = {name for step in steps for name in feeds(step).values()}
    sent = {}
    for tensor in signature.inputs:
        if tensor.name in fed:
            continue
        chain = [step for step in steps if step.input == tensor.name]
        found = tensor
        for step in reversed(chain):
            found = find(step.op).raw(step, found)
        sent[tensor.name] = replace(found, name=_source(chain)) if chain else found
    return sent


def _problems_together(signature: Signature, steps: Sequence[PreprocessStep]) -> list[StepProblem]:
    """What is wrong between steps that hold on their own."""
    found = []
    place = {id(step): index for index, step in enumerate(steps)}
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    for chain in _chains(steps, signature):
        checked = find(chain[0].op).check_chain(chain, tensors[chain[0].input])
        found += [StepProblem(place[id(step)], key, message) for step, key, message in checked]
    by_name: dict[str, TensorSpec] = {}
    for name, raw in _sent(signature, steps).items():
        first = next((index for index, step in enumerate(steps) if step.input == name), None)
        other = by_name.setdefault(raw.name, raw)
        if other != raw and first is not None:
            shown = f"{other.dtype.value} of shape {list(other.shape)}"
            key = "source" if steps[first].source is not None else "input"
            found.append(StepProblem(first, key, f"{raw.name!r} is already sent as {shown}, here it is something else"))
        imputes = next((i for i, step in enumerate(steps) if (step.input, step.op) == (name, "impute")), None)
        if imputes is not None and not raw.dtype.is_float:
            found.append(StepProblem(imputes, "op", f"clients send {raw.dtype.value}, of which no value is missing"))
    return found


__all__ = [
    "OPERATIONS",
    "BadFile",
    "BadRow",
    "Operation",
    "Preprocessing",
    "StepProblem",
    "apply",
    "extras",
    "feeds",
    "file_problems",
    "find",
    "problems",
    "raw_signature",
    "step_files",
]
