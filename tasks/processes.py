"""Child processes that never outlive the process that needs them.

Exporters and exported models run in children, because native code may crash or hang. A child starts its own group
(`start_new_session=True`), asks the kernel to be killed with its parent (`die_with`), and is ended by it as a group
(`end_group`), so that neither Ctrl-C nor a kill leaves anything running.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """In the child: be killed when the process `parent` ends, however it ends. Linux only; elsewhere no effect."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)


def temporary_files_in(folder: Path) -> dict[str, str]:
    """In the parent: the part of a child's environment that has libraries put their temporary files below `folder`.

    Runtimes unpack models and write generated code there, and leave it when they are killed or left by `os._exit`.
    """
    place = folder.absolute() / "tmp"
    place.mkdir(exist_ok=True)
    return {"TMPDIR": str(place)}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """In the parent: end a child that leads its own group, and whatever it started; wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
