"""Long lists of JSON numbers, read in pieces.

In: the JSON part of a request. Out: what orjson makes of it, but for long flat lists of numbers under the key `data`,
which stay text until they are asked for, piece by piece. Reading one holds the interpreter's lock from end to end:
14 ms for 2,048 rows of 64 numbers, in which no other request moves. A piece holds it for a tenth of a millisecond.

What is read so is what reading it whole gives, or there is an error; then it is to be read whole, which says what is
wrong.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

#: Lists from this many bytes on are worth it: some thousands of numbers, half a millisecond.
LONG_BYTES = 1 << 15
#: A piece's bytes, but for its last number: about a thousand numbers, a tenth of a millisecond.
_PIECE_BYTES = 1 << 13
_KEY = b'"data"'
_OPENS = re.compile(rb"\s*:\s*\[").match
#: What stands in a list's place is a string that no client can know.
_MARK = secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What lies between the brackets of one list."""

    text: bytes

    def read(self, convert: Callable[[list[Any]], NDArray[Any]]) -> NDArray[Any]:
        """The list's array; `convert` makes one of some of its values.

        Raises:
            ValueError: it is no list of values; so does `convert`, or what else it raises.
        """
        parts = [convert(values) for values in self._pieces()]
        if sum(map(len, parts)) != self.text.count(b",") + 1:
            raise ValueError("between two commas there is nothing")
        return np.concatenate(parts)

    def _pieces(self) -> Iterator[list[Any]]:
        start = 0
        while start <= len(self.text):
            end = self.text.find(b",", start + _PIECE_BYTES)
            end = len(self.text) if end < 0 else end
            yield orjson.loads(b"[%b]" % self.text[start:end])
            start = end + 1


@dataclass(frozen=True, slots=True)
class Outline:
    """A JSON document. Where `content` has a string of `lists`, the document has that list."""

    content: object
    lists: dict[str, Numbers]


def outline(text: bytes) -> Outline:
    """Read a JSON document but for its long lists of numbers.

    Raises:
        orjson.JSONDecodeError
    """
    lists: dict[str, Numbers] = {}
    rest: list[bytes] = []
    copied, found = 0, text.find(_KEY)
    while found >= 0:
        if opens := _OPENS(text, found + len(_KEY)):
            start, end = opens.end(), text.find(b"]", opens.end())
            inside = text[start:end] if end - start >= LONG_BYTES else b""
            if inside and not any(other in inside for other in (b"[", b"{", b'"')):
                name = f"{_MARK}-{len(lists)}"
                lists[name] = Numbers(inside)
                rest += [text[copied : start - 1], b'"%b"' % name.encode()]
                copied = end + 1
        found = text.find(_KEY, max(copied, found + len(_KEY)))
    return Outline(orjson.loads(b"".join([*rest, text[copied:]])), lists)
