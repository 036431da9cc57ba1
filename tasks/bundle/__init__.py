"""A package as a plain bundle: model, contract, golden samples and a page that says how to use them. No server.

origin.py    what was asked for → a package that passed, and where its files are (the store, or an image)
golden.py    golden samples → arrays that any language can read
readme.py    a contract → README.txt
write.py     all of it → a folder or a tar, verified, whole or not at all
"""

from __future__ import annotations

from tasks.bundle.origin import Origin, find
from tasks.bundle.write import Written, write

__all__ = ["Origin", "Written", "find", "write"]
