"""The body of a request, whole and unpacked, never longer than any request that fits the contract.

In: ASGI's messages. Out: its bytes. What is longer is refused before it is read, or as soon as it shows; a compressed
body is unpacked no further than the limit, however much it promises.
"""

from __future__ import annotations

import reprlib
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from serving.front import ClientGone, Refused, beside
from serving.tensors import BadRequest

#: What a body may be, by the first part of its Content-Type. The last is what curl says of a body of `--data`.
_TYPES = frozenset({"", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"})
#: Content-Encoding → zlib's window bits: 16 more for gzip's frame (zlib's manual, inflateInit2).
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


#: By name in lower case; of several of one name, the last.
Headers: TypeAlias = Mapping[str, str]
#: Gives the messages of a request.
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]


class Room:
    """Bytes for bodies that are not whole yet, all requests together; without bound where `most_bytes` is None."""

    def __init__(self, most_bytes: int | None) -> None:
        self._most = most_bytes
        self._held = 0

    def take(self, size_bytes: int) -> None:
        """One request alone always has room: it is not longer than the contract allows.

        Raises:
            Refused: 503.
        """
        if self._most is not None and self._held and self._held + size_bytes > self._most:
            raise Refused(503, "overloaded", "too many requests are arriving at once", retry_after_s=1)
        self._held += size_bytes

    def leave(self, size_bytes: int) -> None:
        self._held -= size_bytes


async def read_body(headers: Headers, receive: Receive, limit: int | None, room: Room) -> bytes:
    """The request's body; `limit` is in bytes.

    Raises:
        Refused: 415 for a type or an encoding that is not read, 413 for a body that is longer than any that fits, 503
            where there is no room for it.
        ClientGone: before its end.
        BadRequest: it does not unpack.
    """
    kind = headers.get("content-type", "")
    if kind not in _TYPES and (kind := kind.partition(";")[0].strip().lower()) not in _TYPES and kind[-5:] != "+json":
        expected = "requests are application/json or application/octet-stream"
        raise Refused(415, "bad_request", f"{expected}, found Content-Type {reprlib.repr(kind)}")
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity" and encoding not in _WINDOWS:
        expected = "requests are encoded as gzip, deflate or not at all"
        raise Refused(415, "bad_request", f"{expected}, found Content-Encoding {reprlib.repr(encoding)}")
    body = await _received(headers, receive, limit, room)
    return body if encoding == "identity" else await beside(len(body), _unpacked, body, encoding, limit)


async def _received(headers: Headers, receive: Receive, limit: int | None, room: Room) -> bytes:
    length = headers.get("content-length", "")
    if limit is not None and length.isdigit() and int(length) > limit:
        raise too_long(limit)
    received = bytearray()
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece: bytes = message["body"]
            if not (message["more_body"] or received):
                if limit is not None and len(piece) > limit:
                    raise too_long(limit)
                return piece
            room.take(len(piece))
            received += piece
            if limit is not None and len(received) > limit:
                raise too_long(limit)
            if not message["more_body"]:
                return bytes(received)
    finally:
        room.leave(len(received))


def _unpacked(body: bytes, encoding: str, limit: int | None) -> bytes:
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    try:
        # Zero would be without limit; one more than the limit tells a body of just that length from a longer one.
        content = unpacker.decompress(body, 0 if limit is None else limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}, as its Content-Encoding says: {error}") from error
    if limit is not None and len(content) > limit:
        raise too_long(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest(f"the body is not one whole {encoding} stream, as its Content-Encoding says")
    return content


def too_long(limit: int) -> Refused:
    """A request is longer than any that fits."""
    return Refused(413, "too_large", f"a request that fits the contract is at most {limit} bytes long")
