"""What stands in a `torch.export` archive, read as data: JSON and raw tensors (torch/_export/serde/schema.py, 8.x).

In: a `.pt2` file. Out: its program as JSON has it, its tensors by name, and what its inputs' sizes may be.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SCHEMA_MAJOR = 8
#: `schema.ScalarType` → torch's dtypes.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    34: torch.uint32,
    35: torch.uint64,
}
#: `schema.Layout.Strided`
STRIDED = 7
#: A dimension's symbol, as sympy prints it; anything else is computed from symbols.
_SYMBOL = re.compile(r"Symbol\('(\w+)'(?:, \w+=\w+)*\)")


class Unsupported(Exception):
    """The archive holds more than operator calls, or is of another schema."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's content. `program` is `schema.ExportedProgram`; `tensors` are parameters, buffers and constants."""

    program: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Size:
    """What one dimension of an input may be: fixed when both ends are equal, the same wherever `symbol` stands."""

    least: int
    most: int | None
    symbol: str | None


def read_archive(path: Path) -> Archive:
    """Read an archive.

    Raises:
        Unsupported: it is of another schema, or holds something else than plain tensors.
    """
    with zipfile.ZipFile(path) as archive:
        files = {name.partition("/")[2]: name for name in archive.namelist()}
        if "models/model.json" not in files:
            raise Unsupported("the archive has no models/model.json")
        program = json.loads(archive.read(files["models/model.json"]))
        if program["schema_version"]["major"] != SCHEMA_MAJOR:
            raise Unsupported(f"the archive is of schema {program['schema_version']}, not {SCHEMA_MAJOR}")
        if archive.read(files["byteorder"]) != b"little":
            raise Unsupported("the archive is not little-endian")
        tensors = {
            **_tensors(archive, files, "data/weights/", "model_weights_config.json"),
            **_tensors(archive, files, "data/constants/", "model_constants_config.json"),
        }
    return Archive(program, tensors)


def sizes_of(meta: Mapping[str, Any], ranges: Mapping[str, Any]) -> tuple[Size, ...]:
    """What each dimension of an input may be; sizes that are computed from others are not checked."""
    sizes = []
    for size in meta["sizes"]:
        if "as_int" in size:
            sizes.append(Size(size["as_int"], size["as_int"], None))
            continue
        plain = _SYMBOL.fullmatch(size["as_expr"]["expr_str"])
        limits = ranges.get(plain[1]) if plain else None
        if plain is None or limits is None:
            sizes.append(Size(0, None, None))
        else:
            sizes.append(Size(limits["min_val"] or 0, limits["max_val"], plain[1]))
    return tuple(sizes)


def _tensors(archive: zipfile.ZipFile, files: Mapping[str, str], folder: str, listing: str) -> dict[str, torch.Tensor]:
    """Name → tensor, of the archive's raw tensors."""
    storages: dict[str, torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    if folder + listing not in files:
        return found
    for name, entry in json.loads(archive.read(files[folder + listing]))["config"].items():
        meta, path = entry["tensor_meta"], entry["path_name"]
        if entry["use_pickle"] or meta is None or meta["layout"] != STRIDED or meta["device"]["type"] != "cpu":
            raise Unsupported(f"{name} is not stored as a plain tensor")
        if path not in storages:
            member = archive.getinfo(files[folder + path])
            storages[path] = torch.empty(member.file_size, dtype=torch.uint8)
            with archive.open(member) as stream:
                # the tensor's own memory, which is aligned as kernels like it
                read = stream.readinto(storages[path].numpy().data)  # type: ignore[attr-defined]
                if read != member.file_size:
                    raise Unsupported(f"{name} is cut short")
        sizes, strides = ([_integer(size) for size in meta[key]] for key in ("sizes", "strides"))
        dtype = DTYPES.get(meta["dtype"])
        if dtype is None:
            raise Unsupported(f"{name} has the archive's dtype {meta['dtype']}")
        flat = storages[path].view(dtype) if len(storages[path]) else torch.empty(0, dtype=dtype)
        tensor = torch.as_strided(flat, sizes, strides, _integer(meta["storage_offset"]))
        # No gradient is ever asked for, but torch chooses kernels by whether one could be (matmul does), and so the
        # last bits of its answers; a view of the storage would not count.
        found[name] = torch.nn.Parameter(tensor) if meta["requires_grad"] else tensor
    return found


def _integer(size: Mapping[str, Any]) -> int:
    if "as_int" not in size:
        raise Unsupported("a stored tensor has a symbolic size")
    return int(size["as_int"])
