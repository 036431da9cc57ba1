"""Categories: `vocabulary`, from strings to the ids that a model was trained with.

    {op: vocabulary, input: colour, values: [red, green, blue], unknown: 3}
    {op: vocabulary, input: city, file: cities.txt, first: 1, unknown: 0}

Ids count from `first` (0 unless given) in the order of the values. A file holds one value per line, or as `.json` a
list of values, or an object of value → id, which is then taken as it is. A value that is not among them becomes
`unknown`; where that is not declared, the request is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import DType, PreprocessStep, Signature, TensorSpec
from serving.preprocess.operation import BadFile, BadRow, Found, Operation, Run, read_file

#: Of an unknown value, what is shown of it.
_SHOWN = 40


def _check(step: PreprocessStep, tensor: TensorSpec, _signature: Signature) -> Found:
    if tensor.dtype.numpy.kind not in "iu":
        yield "input", f"a vocabulary gives whole numbers, {tensor.name!r} is declared {tensor.dtype.value}"
        return
    if (step.values is None) == (step.file is None):
        yield "values", "a vocabulary needs either values, a list of strings, or file, the path of one"
        return
    limits = np.iinfo(tensor.dtype.numpy)
    if step.unknown is not None and not limits.min <= step.unknown <= limits.max:
        yield "unknown", f"{step.unknown} does not fit into {tensor.dtype.value}"
    if step.values is not None:
        yield from (("values", problem) for problem in _problems(_numbered(step.values, step), step.values, tensor))


def _vocabulary(step: PreprocessStep, tensor: TensorSpec, _signature: Signature, folder: Path | None) -> Run:
    table = ids(step, tensor, folder)
    dtype, unknown, name = tensor.dtype.numpy, step.unknown, step.source or step.input

    def run(array: NDArray[Any], _others: dict[str, Any]) -> NDArray[Any]:
        found = [table.get(value, unknown) for value in array.ravel().tolist()]
        if unknown is None and None in found:
            place = found.index(None)
            value, row = str(array.ravel()[place])[:_SHOWN], place // max(array[0:1].size, 1)
            raise BadRow(name, row, f"{value!r} is none of the {len(table)} known values")
        return np.array(found, dtype=dtype).reshape(array.shape)

    return run


def ids(step: PreprocessStep, tensor: TensorSpec, folder: Path | None) -> dict[str, int]:
    """Value → id, as the step has them.

    Raises:
        BadFile: the file holds no vocabulary.
    """
    if step.values is not None:
        return _numbered(step.values, step)
    values = _read(step, folder)
    table = _numbered(values, step) if isinstance(values, list) else values
    if problems := _problems(table, list(values), tensor):
        raise BadFile(f"{step.file}: {problems[0]}")
    return table


def _numbered(values: tuple[str, ...] | list[str], step: PreprocessStep) -> dict[str, int]:
    return {value: index for index, value in enumerate(values, step.first or 0)}


def _read(step: PreprocessStep, folder: Path | None) -> list[str] | dict[str, int]:
    content = read_file(step, folder)
    try:
        text = content.decode("utf-8-sig")
        if not str(step.file).lower().endswith(".json"):
            return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        values = json.loads(text)
    except ValueError as error:
        raise BadFile(f"{step.file} is not UTF-8 text or JSON: {error}") from error
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    if isinstance(values, dict) and all(type(value) is int for value in values.values()):
        if step.first is not None:
            raise BadFile(f"{step.file} gives each value its id, so that `first` has no meaning; remove it")
        return values
    raise BadFile(f"{step.file}: expected a list of strings, or an object of strings and their ids")


def _problems(table: dict[str, int], values: tuple[str, ...] | list[str], tensor: TensorSpec) -> list[str]:
    """What is wrong with a vocabulary, in sentences."""
    if not table:
        return ["holds no values"]
    found = []
    if len(table) < len(values):
        twice = next(value for index, value in enumerate(values) if value in values[:index])
        found.append(f"holds {twice!r} twice")
    limits = np.iinfo(tensor.dtype.numpy)
    if min(table.values()) < limits.min or max(table.values()) > limits.max:
        spread = f"{min(table.values())} to {max(table.values())}"
        found.append(f"has ids from {spread}, which do not fit into {tensor.dtype.value}")
    return found


def _raw(_step: PreprocessStep, tensor: TensorSpec) -> TensorSpec:
    return TensorSpec(tensor.name, DType.STRING, tensor.shape)


VOCABULARY = Operation(
    frozenset({"values", "file", "first", "unknown", "source"}), _check, _vocabulary, raw=_raw, first=True
)
