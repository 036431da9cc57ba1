"""What a pickle would import and call, read without opening it (`pickletools`), for messages about why it is refused.

Never used to decide that a pickle is safe: only readers that open no pickles, or PyTorch's with its own list, do that.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path

#: What PyTorch's own state dicts name.
_TENSORS = re.compile(
    r"collections\.OrderedDict|torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_\w+|\w+Storage|storage\.\w+|Size|device"
    r"|serialization\.\w+|nn\.parameter\.(Parameter|Buffer))"
)


def called_by(path: Path) -> tuple[str, ...]:
    """The objects (`posix.system`) that pickles in a file name, beyond those of tensors; empty where none is found."""
    names: dict[str, None] = {}
    for stream in _streams(path):
        names.update(dict.fromkeys(_globals(stream)))
    return tuple(name for name in names if not _TENSORS.fullmatch(name))


def _streams(path: Path) -> list[bytes]:
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]


def _globals(content: bytes) -> list[str]:
    """Names in one or more pickles after each other, as far as they can be read."""
    names: list[str] = []
    texts: list[str] = []  # what was pushed last: the module and name that STACK_GLOBAL takes
    stream = io.BytesIO(content)
    try:
        while stream.tell() < len(content):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    names.append(f"{texts[-2]}.{texts[-1]}")
                elif isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # noqa: BLE001, S110 - a broken pickle raises nearly anything; what was read so far still counts
        pass
    return names
