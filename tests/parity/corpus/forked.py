"""The gate's workers, forked from one process that has imported the runtimes: the corpus asks for hundreds of them.

A worker is still a process of its own that loads the file under test and may crash; what it is spared is importing
torch and onnxruntime, which takes longer than answering. `python -m tests.parity.corpus.forked` is that one process:
it reads folders from its standard input, and writes how each worker ended.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from tasks.parity.exported import ENVIRONMENT
from tasks.parity.worker import REQUEST, Request, end


class ForkedWorkers:
    """A `tasks.parity.exported.Launch`. The process that forks is started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, log: Path, stalled_after_s: float) -> int | None:
        """A worker that takes longer than this altogether is stopped, which none of the corpus does."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{folder}\n{log}\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], stalled_after_s)[0]:
            self.close()
            return None
        return int(process.stdout.readline())

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.parity.corpus.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        return self._process

    def close(self) -> None:
        """End the process that forks, and a worker of it that still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> None:
    """Fork a worker for each folder that is asked for, one after the other."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch._export.serde.serialize  # noqa: F401

    import serving.runners.onnx
    import serving.runners.tensorflow
    import serving.runners.torch

    serving.runners.tensorflow._library()
    answers = os.fdopen(os.dup(1), "w")
    while folder := sys.stdin.readline().strip():
        log = sys.stdin.readline().strip()
        child = os.fork()
        if child == 0:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            request = Request.model_validate_json((Path(folder) / REQUEST).read_text())
            try:
                end(request, Path(folder))
            finally:
                os._exit(1)  # an exception of the worker's own
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
