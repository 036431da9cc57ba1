"""Batches on a pipe, between `slipway score` and a container: each a length in four bytes and MessagePack.

A frame of length 0 is the end: a pipe that closes without one was cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import msgspec

from serving.score.rows import Rows, Unscorable
from serving.tensor_record import TensorRecord, pack, unpack

_LENGTH = struct.Struct("<I")
_Frame = dict[str, TensorRecord]


class FrameReader:
    """See `serving.score.rows.Reader`: batches are as large as they were written, or cut to fit."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.total: int | None = None

    def batches(self, rows: int) -> Iterator[Rows]:
        decoder = msgspec.msgpack.Decoder(_Frame)
        while size := _LENGTH.unpack(self._exactly(_LENGTH.size))[0]:
            try:
                batch = {name: unpack(record) for name, record in decoder.decode(self._exactly(size)).items()}
            except (msgspec.DecodeError, ValueError) as error:
                raise Unscorable(f"what came over the pipe is no batch of rows: {error}") from error
            total = len(next(iter(batch.values()), ()))
            for start in range(0, total, rows):
                yield {name: array[start : start + rows] for name, array in batch.items()}

    def close(self) -> None:
        self._stream.close()

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise Unscorable("the pipe ended in the middle: whoever writes to it has stopped")
        return data


class FrameWriter:
    """See `serving.score.rows.Writer`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def append(self, answers: Rows) -> None:
        content = msgspec.msgpack.encode({name: pack(array) for name, array in answers.items()})
        self._stream.write(_LENGTH.pack(len(content)) + content)
        self._stream.flush()

    def finish(self) -> None:
        self._stream.write(_LENGTH.pack(0))
        self._stream.flush()

    def close(self) -> None:
        pass  # the stream is the caller's
