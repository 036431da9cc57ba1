"""The body of a request, whole and unpacked, never longer than any request that fits the contract.

In: Granian's request. Out: its bytes. What is longer is refused before it is read, or as soon as it shows; a compressed
body is unpacked no further than the limit, however much it promises.
"""

from __future__ import annotations

import reprlib
import zlib
from typing import Any, Protocol

from serving.front import Refused, beside
from serving.tensors import BadRequest

#: What a body may be, by the first part of its Content-Type. The last is what curl says of a body of `--data`.
_TYPES = frozenset({"", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"})
#: Content-Encoding → zlib's window bits: 16 more for gzip's frame (zlib's manual, inflateInit2).
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class Headers(Protocol):
    def get(self, key: str, default: Any = None) -> Any: ...


async def read_body(headers: Headers, proto: Any, limit: int | None) -> bytes:
    """The request's body; `limit` is in bytes.

    Raises:
        Refused: 415 for a type or an encoding that is not read, 413 for a body that is longer than any that fits.
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
    body = await _received(headers, proto, limit)
    return body if encoding == "identity" else await beside(len(body), _unpacked, body, encoding, limit)


async def _received(headers: Headers, proto: Any, limit: int | None) -> bytes:
    if limit is None:
        return bytes(await proto())
    length = headers.get("content-length")
    if length is not None and length.isdigit():
        if int(length) > limit:
            raise _too_long(limit)
        return bytes(await proto())
    received = bytearray()
    async for piece in proto:
        received += piece
        if len(received) > limit:
            raise _too_long(limit)
    return bytes(received)


def _unpacked(body: bytes, encoding: str, limit: int | None) -> bytes:
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    try:
        # Zero would be without limit; one more than the limit tells a body of just that length from a longer one.
        content = unpacker.decompress(body, 0 if limit is None else limit + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}, as its Content-Encoding says: {error}") from error
    if limit is not None and len(content) > limit:
        raise _too_long(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest(f"the body is not one whole {encoding} stream, as its Content-Encoding says")
    return content


def _too_long(limit: int) -> Refused:
    return Refused(413, "too_large", f"a request that fits the contract is at most {limit} bytes long")
