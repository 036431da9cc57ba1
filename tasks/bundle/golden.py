"""Golden samples for programs that have no NumPy: one file per tensor, and an index that says what is where.

In: a package folder. Out, below its `golden/`:

    index.json            the tensors by name: file, type, shape, where its values begin, tolerances; and which rows
                          may be asked at once
    inputs/…              raw inputs, as clients of a server send them
    prepared/…            the same after the contract's preprocessing: what the model itself takes
    outputs/…             what the source model answered

Numbers are `.npy` files of the plainest form (version 1.0, C order, little endian): whoever has no reader for them
skips `offset` bytes and has the values. Strings are `.json` files with a flat list, in the same order; bytes (encoded
images) are such strings in base64.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serving.contract import PREPROCESS_FOLDER, DType, ServingContract, Signature, Tolerance
from serving.golden import Golden, read_golden
from serving.preprocess import apply, raw_signature
from tasks.contracts import Contract

FOLDER = "golden"
INDEX = f"{FOLDER}/index.json"


class GoldenTensor(Contract):
    """One tensor's file. `offset` is where its values begin, in bytes; none for strings, which are JSON."""

    name: str
    file: str = Field(description="relative to the bundle")
    dtype: DType
    datatype: str = Field(description="the Open Inference Protocol's name of the type, e.g. FP32")
    shape: tuple[int, ...]
    offset: int | None = None
    base64: bool = Field(False, description="the strings are bytes, in base64")
    tolerance: Tolerance | None = Field(None, description="of outputs: |answer - expected| <= atol + rtol * |expected|")


class GoldenIndex(Contract):
    """`golden/index.json`. `batches` are the rows `[from, to)` that may be asked at once; none without a batch."""

    inputs: tuple[GoldenTensor, ...]
    prepared: tuple[GoldenTensor, ...]
    outputs: tuple[GoldenTensor, ...]
    batches: tuple[tuple[int, int], ...] | None


def write_golden(folder: Path, contract: ServingContract) -> GoldenIndex:
    """Write the golden samples of the package in `folder` once more, for everybody."""
    golden = read_golden(folder / contract.golden)
    raw = raw_signature(contract.signature, contract.preprocess)
    prepared = apply(contract.preprocess, golden.inputs, contract.signature, folder / PREPROCESS_FOLDER)
    index = GoldenIndex(
        inputs=_tensors(folder, "inputs", golden.inputs),
        prepared=_tensors(folder, "prepared", prepared),
        outputs=tuple(
            tensor.model_copy(update={"tolerance": contract.tolerances.get(tensor.name, Tolerance(0.0, 0.0))})
            for tensor in _tensors(folder, "outputs", golden.outputs)
        ),
        batches=_batches(golden, raw),
    )
    (folder / INDEX).write_text(index.model_dump_json(indent=1) + "\n")
    return index


def _tensors(folder: Path, kind: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[GoldenTensor, ...]:
    (folder / FOLDER / kind).mkdir(parents=True)
    return tuple(
        _tensor(folder, f"{FOLDER}/{kind}/{_stem(name, position)}", name, array)
        for position, (name, array) in enumerate(arrays.items())
    )


def _tensor(folder: Path, stem: str, name: str, array: NDArray[Any]) -> GoldenTensor:
    encoded = array.dtype == object and any(isinstance(item, bytes) for item in array.flat)
    if array.dtype == object:
        file, offset = f"{stem}.json", None
        texts = [b64encode(item).decode() if isinstance(item, bytes) else str(item) for item in array.flat]
        (folder / file).write_text(json.dumps(texts, ensure_ascii=False) + "\n")
    else:
        file = f"{stem}.npy"
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        with (folder / file).open("xb") as out:
            np.lib.format.write_array(out, plain, version=(1, 0), allow_pickle=False)
        offset = (folder / file).stat().st_size - plain.nbytes
    dtype = DType.STRING if array.dtype == object else DType(array.dtype.name)
    return GoldenTensor(
        name=name,
        file=file,
        dtype=dtype,
        datatype=dtype.protocol_name,
        shape=array.shape,
        offset=offset,
        base64=encoded,
    )


def _stem(name: str, position: int) -> str:
    """The tensor's name where it can be a file's on every system, its position where not."""
    return name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name) else f"{position}"


def _batches(golden: Golden, raw: Signature) -> tuple[tuple[int, int], ...] | None:
    if raw.batch is None:
        return None
    rows = np.arange(min(len(array) for array in (*golden.inputs.values(), *golden.outputs.values())))
    numbered = Golden({"row": rows}, {"row": rows})
    return tuple(
        (int(batch.inputs["row"][0]), int(batch.inputs["row"][-1]) + 1) for batch in numbered.batches(raw, len(rows))
    )
