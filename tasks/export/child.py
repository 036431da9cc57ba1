"""Run an exporter in a process of its own, so that its crash, hang or noise is a finding and not the pipeline's end.

docs/adr/0002 says why. The child dies with its parent, whatever kills that: the kernel is asked to see to it
(`tasks.export.worker`), and an exception here, Ctrl-C included, ends the child's whole process group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from serving.contract import PreprocessStep
from tasks.contracts import Artifact, Owner
from tasks.export.outcome import Outcome, Raised, Refused, Request, Written
from tasks.spec import ExportSpec

#: An exporter that takes longer hangs; the largest models of the catalogue take minutes.
TIME_LIMIT_S = 1800
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # sets are walked in one order, so that the same model gives the same bytes
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one exporter's run. `log` is all that it printed; `folder` holds the files where it wrote any."""

    result: Written | Refused | Raised
    log: str
    folder: Path


def run(
    artifact: Artifact,
    format: str,
    store_uri: str,
    work: Path,
    *,
    preprocess: tuple[PreprocessStep, ...] = (),
    options: ExportSpec | None = None,
    external_data: bool = False,
    time_limit_s: float = TIME_LIMIT_S,
) -> Attempt:
    """Export in a child process. Everything that it writes is below `work`."""
    folder, scratch = work / "files", work / "scratch"
    for path in (folder, scratch):
        path.mkdir(parents=True)
    request_file, outcome_file, log_file = work / "request.json", work / "outcome.json", work / "log.txt"
    request = Request(
        artifact=artifact,
        format=format,
        store_uri=store_uri,
        folder=folder,
        work=scratch,
        parent=os.getpid(),
        preprocess=preprocess,
        options=options or ExportSpec(),
        external_data=external_data,
    )
    request_file.write_text(request.model_dump_json())
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.export.worker", str(request_file), str(outcome_file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRONMENT, "TMPDIR": str(scratch)},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    text = log_file.read_text(errors="replace")
    if outcome_file.is_file():
        outcome = Outcome.model_validate_json(outcome_file.read_text())
        return Attempt(outcome.result, text, folder)
    return Attempt(_timed_out(format, time_limit_s) if code is None else _crashed(format, code, text), text, folder)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _timed_out(format: str, limit_s: float) -> Refused:
    return Refused(
        code="EXPORT_TIMED_OUT",
        message=f"the {format} exporter did not finish within {limit_s:.0f} s and was ended",
        advice="export a smaller part of the model to find what it hangs on, or serve another format",
        owner=Owner.PLATFORM,
        evidence={"time_limit_s": limit_s},
        other_formats=True,
        details="",
    )


def _crashed(format: str, code: int, log: str) -> Refused:
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was killed by {name}" + (" (out of memory, most likely)" if -code == signal.SIGKILL else "")
    else:
        how = f"ended with exit code {code}"
    return Refused(
        code="EXPORT_CRASHED",
        message=f"the {format} exporter {how} without an answer",
        advice="its output is kept as evidence; give the machine more memory if it was killed, "
        "or serve another format and report the crash to the exporter's maintainers",
        owner=Owner.PLATFORM,
        evidence={"exit_code": code},
        other_formats=True,
        details=log[-20_000:],
    )
