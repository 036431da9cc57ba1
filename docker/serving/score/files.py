"""Names of files → readers and writers. An output appears under its name when it is complete, and not before."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, BinaryIO

from serving.contract import Signature
from serving.score.csv_file import CsvReader, CsvWriter
from serving.score.frames import FrameReader, FrameWriter
from serving.score.npz import NpzReader, NpzWriter
from serving.score.rows import Reader, Unscorable, Writer

#: The name of standard input or output.
PIPE = "-"
#: How a sentence about a row begins where both ends are pipes (`between`).
BETWEEN_PIPES = "standard input → standard output: "


class Form(StrEnum):
    """Forms of files, by their extension; tensors only on a pipe."""

    NPZ = "npz"
    CSV = "csv"
    PARQUET = "parquet"
    TENSORS = "tensors"


def form_of(name: str, given: str | None) -> Form:
    """The form of a file, by its extension unless given; a pipe is CSV.

    Raises:
        Unscorable: it is none that can be read and written, here.
    """
    extension = given or ("csv" if name == PIPE else Path(name).suffix.removeprefix(".").lower())
    if extension not in {"npz", "csv", "parquet"} and not (extension == Form.TENSORS and name == PIPE):
        raise Unscorable(f"{name}: expected a file that ends in .npz, .csv or .parquet")
    form = Form(extension)
    if name == PIPE and form in (Form.NPZ, Form.PARQUET):
        raise Unscorable(f"a .{form} file is not read or written in order: give its name instead of {PIPE}")
    if form is Form.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise Unscorable(
            f"{name}: this image has no reader of Parquet: `slipway score IMAGE INPUT OUTPUT` on the host converts it, "
            "or give .npz or .csv"
        )
    return form


def check_names(source: str, target: str) -> None:
    """What the names alone can tell, before a model is opened: the rows are there, and stay there.

    Raises:
        Unscorable: there is no such file of rows, or the answers would replace it, through whatever links.
    """
    if source == PIPE:
        return
    try:
        rows = Path(source).stat()
        if not os.access(source, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise Unscorable(f"{source} cannot be read: {error.strerror or error}") from error
    if target == PIPE:
        return
    with contextlib.suppress(OSError):  # nothing is there yet, or what is wrong with it is said when it is written
        if os.path.samestat(rows, Path(target).stat()):
            raise Unscorable(f"{target} is the file of the rows, which answers must not replace: give another name")


def open_reader(name: str, form: Form, raw: Signature) -> Reader:
    """Raises:
    Unscorable: the file is missing, unreadable, or lacks an input; the message begins with its name.
    """
    try:
        return _reader(name, form, raw)
    except OSError as error:
        raise Unscorable(f"{_said(name, 'input')} cannot be read: {error.strerror or error}") from error
    except Unscorable as error:
        raise Unscorable(f"{_said(name, 'input')}: {error}") from error


@contextlib.contextmanager
def between(source: str, target: str) -> Iterator[None]:
    """While rows of one file are answered into another: what is said of a row names both."""
    try:
        yield
    except Unscorable as error:
        raise Unscorable(f"{_said(source, 'input')} → {_said(target, 'output')}: {error}") from error


def _said(name: str, end: str) -> str:
    """How to call a file in a sentence; a pipe is standard `input` or `output`, its `end`."""
    return f"standard {end}" if name == PIPE else name


def _reader(name: str, form: Form, raw: Signature) -> Reader:
    path = Path(name)
    match form:
        case Form.NPZ:
            return NpzReader(path, raw)
        case Form.PARQUET:
            from serving.score.parquet import ParquetReader

            return ParquetReader(path, raw)
        case Form.CSV:
            return CsvReader(sys.stdin.buffer if name == PIPE else path.open("rb"), raw)
    return FrameReader(sys.stdin.buffer)


@contextlib.contextmanager
def writing(name: str, form: Form, signature: Signature, pipe: IO[bytes] | None = None) -> Iterator[Writer]:
    """A writer; its file replaces what is there once the block has ended well. Otherwise nothing changes.

    `pipe` is standard output, where that is another stream than the process's own.

    Raises:
        Unscorable: the file cannot be written.
    """
    if name == PIPE:
        stream = pipe or sys.stdout.buffer
        piped: Writer = FrameWriter(stream) if form is Form.TENSORS else CsvWriter(stream, signature)
        yield piped
        piped.finish()
        return
    path = Path(name).absolute()
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            aside = Path(folder) / path.name
            with contextlib.ExitStack() as stack:
                writer = _writer(aside, form, signature, stack)
                stack.callback(writer.close)
                yield writer
                writer.finish()
            with aside.open("rb+") as stream:
                os.fsync(stream.fileno())
            aside.replace(path)
    except OSError as error:
        raise Unscorable(f"{name} cannot be written: {error.strerror or error}") from error


def _writer(aside: Path, form: Form, signature: Signature, stack: contextlib.ExitStack) -> Writer:
    if form is Form.NPZ:
        return NpzWriter(aside, aside.parent)
    if form is Form.PARQUET:
        from serving.score.parquet import ParquetWriter

        return ParquetWriter(aside, signature)
    stream: BinaryIO = stack.enter_context(aside.open("wb"))
    return CsvWriter(stream, signature)
