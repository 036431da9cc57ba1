"""Named arrays in `.npz` files, without pickles and with the same bytes for the same content.

Strings are object arrays of `str` in memory (`serving.contract.DType.STRING`). In golden samples they become NumPy's
own unicode arrays, which every reader opens with `allow_pickle=False`; between parity's own processes they travel as
JSON, which keeps trailing NULs and the lengths apart.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What a zip entry is dated: the earliest moment that the format can express, so that bytes follow from content only.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_STRINGS = "strings.json"


def is_text(array: NDArray[Any]) -> bool:
    """Whether every element is a `str`."""
    return array.dtype.kind == "U" or (array.dtype == object and all(isinstance(item, str) for item in array.ravel()))


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An `.npz` of plain arrays, entries in the order of their names; objects of `str` become unicode arrays, and of
    `bytes` (encoded images) arrays of bytes, which keep all but zeros at the very end: no image ends with them.

    Raises:
        ValueError: an array holds other objects.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            array = arrays[name]
            if array.dtype == object and array.size and all(isinstance(item, bytes) for item in array.ravel()):
                array = array.astype(np.bytes_)
            elif array.dtype == object:
                if not is_text(array):
                    raise ValueError(f"{name} holds objects that are neither strings nor bytes")
                array = array.astype(np.str_)
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(_entry(f"{name}.npy"), entry.getvalue())
    return content.getvalue()


def save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays for `load`. Uncompressed: they are read once, by a process on this machine.

    Raises:
        ValueError: an array holds objects that are not `str`.
    """
    strings: dict[str, Any] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            if array.dtype.kind in "OUS":
                if not is_text(array):
                    raise ValueError(f"{name} holds {array.dtype} that are not strings")
                strings[name] = {"shape": array.shape, "values": [str(item) for item in array.ravel()]}
                continue
            with archive.open(_entry(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        archive.writestr(_entry(_STRINGS), json.dumps(strings))


def load(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save` wrote."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename != _STRINGS:
                with archive.open(info) as entry:
                    arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(entry, allow_pickle=False)
        for name, text in json.loads(archive.read(_STRINGS)).items():
            array = np.empty(len(text["values"]), dtype=object)
            array[:] = text["values"]
            arrays[name] = array.reshape(text["shape"])
    return arrays


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
