"""`.npz`: one array per input or output, rows along the first axis. Read and written a batch at a time.

NumPy itself reads and writes whole arrays; here a member of the archive is a stream behind its header. What was saved
in Fortran's order has no rows to read one after the other, and is the exception: it is loaded whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import EncodedImages, Signature, TensorSpec
from serving.score.rows import Rows, Unscorable

_SUFFIX = ".npy"
#: Items of a string output that are converted at once.
_AT_ONCE = 1 << 14


class NpzReader:
    """See `serving.score.rows.Reader`."""

    def __init__(self, path: Path, raw: Signature) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise Unscorable(f"it is no .npz file: {error}") from error
        there = {name.removesuffix(_SUFFIX) for name in self._archive.namelist()}
        if missing := [spec.name for spec in raw.inputs if spec.name not in there]:
            raise Unscorable(f"no array {', '.join(missing)}; there are {', '.join(sorted(there)) or 'none at all'}")
        self._members = {spec.name: _Member(self._archive, spec) for spec in raw.inputs}
        totals = {name: member.total for name, member in self._members.items()}
        if len(set(totals.values())) > 1:
            counts = ", ".join(f"{name} {total}" for name, total in totals.items())
            raise Unscorable(f"all arrays must have the same number of rows; found {counts}")
        self.total: int | None = next(iter(totals.values()))

    def batches(self, rows: int) -> Iterator[Rows]:
        total = self.total or 0
        for start in range(0, total, rows):
            size = min(rows, total - start)
            yield {name: member.read(size) for name, member in self._members.items()}

    def close(self) -> None:
        self._archive.close()


class _Member:
    """One array of the archive, read from its beginning to its end."""

    def __init__(self, archive: zipfile.ZipFile, spec: TensorSpec) -> None:
        self._name = name = spec.name
        kinds = "S" if isinstance(spec, EncodedImages) else "biufU"
        self._stream = archive.open(f"{name}{_SUFFIX}")
        self._whole: NDArray[Any] | None = None
        self._position = 0
        try:
            shape, fortran, self._dtype = _header(self._stream)
        except ValueError as error:
            raise Unscorable(f"array {name!r} cannot be read: {error}") from error
        if self._dtype.kind not in kinds:
            what = "pickled objects, which are not opened" if self._dtype.hasobject else f"of dtype {self._dtype}"
            advice = "the bytes of images with astype('S')" if kinds == "S" else "numbers, or strings with astype('U')"
            raise Unscorable(f"array {name!r} is {what}: save {advice}")
        if not shape:
            raise Unscorable(f"array {name!r} has no rows: it is a single value")
        self.total, self._rest = shape[0], shape[1:]
        if fortran and len(shape) > 1:
            values = np.frombuffer(self._bytes(prod(shape) * self._dtype.itemsize), self._dtype)
            self._whole = values.reshape(shape, order="F")

    def read(self, rows: int) -> NDArray[Any]:
        """The next rows, in the machine's byte order; strings as `str`, images as `bytes`."""
        if self._whole is not None:
            array = np.ascontiguousarray(self._whole[self._position : self._position + rows])
            self._position += rows
        else:
            data = self._bytes(rows * prod(self._rest) * self._dtype.itemsize)
            array = np.frombuffer(data, self._dtype).reshape(rows, *self._rest)
        if array.dtype.kind in "US":
            return array.astype(object)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _bytes(self, count: int) -> bytes:
        try:
            data = self._stream.read(count)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise Unscorable(f"array {self._name!r} is damaged: {error}") from error
        if len(data) != count:
            raise Unscorable(f"array {self._name!r} is cut short: {count - len(data)} bytes are missing")
        return data


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"its format {version[0]}.{version[1]} is for structured arrays")


class NpzWriter:
    """See `serving.score.rows.Writer`. Each output is spooled beside the file, and packed into it at the end: a zip
    archive takes one member after the other, and the number of rows stands in front of them."""

    def __init__(self, path: Path, spool: Path) -> None:
        self._path = path
        self._folder = spool
        self._spooled: dict[str, _Numbers | _Strings] = {}

    def append(self, answers: Rows) -> None:
        for name, array in answers.items():
            if name not in self._spooled:
                kind = _Strings if array.dtype == object else _Numbers
                self._spooled[name] = kind(self._folder / f"{len(self._spooled)}{_SUFFIX}", array)
            spooled = self._spooled[name]
            if array.shape[1:] != spooled.rest:
                raise Unscorable(
                    f"output {name!r} has rows of shape {list(spooled.rest)} and of {list(array.shape[1:])}, which one "
                    "array of an .npz cannot hold: give a .parquet file for the output, or score them apart"
                )
            spooled.append(array)

    def finish(self) -> None:
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, spooled in self._spooled.items():
                archive.write(spooled.finished(), f"{name}{_SUFFIX}")

    def close(self) -> None:
        for spooled in self._spooled.values():
            spooled.close()


class _Numbers:
    """An `.npy` file that grows; NumPy leaves room in the header for the number of rows."""

    def __init__(self, path: Path, first: NDArray[Any]) -> None:
        self._path = path
        self._stream = path.open("w+b")
        self.rest = first.shape[1:]
        self._dtype = first.dtype
        self._rows = 0
        self._write_header()

    def append(self, array: NDArray[Any]) -> None:
        self._stream.write(np.ascontiguousarray(array).tobytes())
        self._rows += len(array)

    def finished(self) -> Path:
        self._stream.seek(0)
        self._write_header()
        self.close()
        return self._path

    def close(self) -> None:
        self._stream.close()

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": description, "fortran_order": False, "shape": (self._rows, *self.rest)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class _Strings:
    """Strings wait as lines of JSON until the longest is known, which NumPy's array of them needs to begin with."""

    def __init__(self, path: Path, first: NDArray[Any]) -> None:
        self._path = path
        self._stream = path.with_suffix(".jsonl").open("w+b")
        self.rest = first.shape[1:]
        self._rows = 0
        self._longest = 1

    def append(self, array: NDArray[Any]) -> None:
        import orjson

        items = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
        self._stream.writelines(orjson.dumps(item) + b"\n" for item in items)
        self._longest = max([self._longest, *map(len, items)])
        self._rows += len(array)

    def finished(self) -> Path:
        import orjson

        numbers = _Numbers(self._path, np.empty((0, *self.rest), f"<U{self._longest}"))
        self._stream.seek(0)
        waiting = self._rows * prod(self.rest)
        numbers._rows = self._rows
        while waiting:
            lines = [self._stream.readline() for _ in range(min(_AT_ONCE, waiting))]
            waiting -= len(lines)
            items = np.array([orjson.loads(line) for line in lines], f"<U{self._longest}")
            numbers._stream.write(items.tobytes())
        self.close()
        return numbers.finished()

    def close(self) -> None:
        self._stream.close()
