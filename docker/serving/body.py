"""The body of a request, whole and unpacked, never longer than any request that fits the contract.

In: ASGI's messages. Out: its bytes. What is longer is refused before it is read, or as soon as it shows; a compressed
body is unpacked no further than the limit, however much it promises.
"""

from __future__ import annotations

import reprlib
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from serving.front import Refused, beside, client_gone
from serving.tensors import BadRequest

#: What a body may be, by the first part of its Content-Type. The last is what curl says of a body of `--data`.
_TYPES = frozenset({"", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"})
#: Content-Encoding → zlib's window bits: 16 more for gzip's frame (zlib's manual, inflateInit2).
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


#: By name in lower case; of several of one name, the last.
Headers: TypeAlias = Mapping[str, str]
#: Gives the messages of a request.
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]


async def read_body(headers: Headers, receive: Receive, limit: int | None) -> bytes:
    """The request's body; `limit` is in bytes.

    Raises:
        Refused: 415 for a type or an encoding that is not read, 413 for a body that is longer than any that fits; when
            the client goes away before its end.
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
    body = await _received(headers, receive, limit)
    return body if encoding == "identity" else await beside(len(body), _unpacked, body, encoding, limit)


async def _received(headers: Headers, receive: Receive, limit: int | None) -> bytes:
    length = headers.get("content-length", "")
    if limit is not None and length.isdigit() and int(length) > limit:
        raise _too_long(limit)
    pieces, total = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise client_gone()
        pieces.append(message["body"])
        total += len(pieces[-1])
        if limit is not None and total > limit:
            raise _too_long(limit)
        if not message["more_body"]:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


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
