"""The C++ compiler that compiled formats are made with: a program of this machine, not a Python distribution."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

COMPILER = "g++"
ABSENT = "absent"


def find_compiler() -> Path | None:
    """Where it is; None where there is none."""
    found = shutil.which(COMPILER)
    return None if found is None else Path(found)


@functools.cache
def compiler_version() -> str:
    """Its version, such as 12.2.0; `absent` where there is none."""
    found = find_compiler()
    if found is None:
        return ABSENT
    done = subprocess.run([found, "-dumpfullversion"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or ABSENT
