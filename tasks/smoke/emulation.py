"""An image's own self-test under another processor: by QEMU's user mode, or behind a mask (`tasks.smoke.masking`).

Either is a static binary of the host, mounted read-only; the image is not changed. It proves answers, never
times. What dies of an illegal instruction is run once more with a witness (`tasks.smoke.illegal`), which decides
nothing and says where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.golden import Margin
from tasks.image.engine import ContainerSpec, ContainerState, Engine, run
from tasks.smoke.illegal import WITNESS, witnessed
from tasks.smoke.masking import Mask
from tasks.smoke.observation import Exit, IllegalInstruction, InstructionSet, Proof

#: The interpreter inside an image: an emulator takes a path, not a name to look up.
PYTHON_IN_IMAGE = "/usr/bin/python3.11"

_EMULATOR_IN_IMAGE = "/slipway-emulator"
_PROCESSORS = "/sys/devices/system/cpu"
_SELFTEST = ("selftest", "--json")
_LINE = 300

#: Process 1 of a container, while the emulator is its child: a process 1 that the kernel does not let die of its own
#: signal (pid_namespaces(7)) would wait for ever after an illegal instruction. 128 + n is what Docker says of signals.
_PARENT = """
import subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
sys.exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True, slots=True)
class Emulator:
    """QEMU's user mode as one CPU model. `nothing` is an empty folder where the image is of another architecture: it is
    laid over the host's list of processors, which pytorch's cpuinfo, in onnxruntime, would take for its own and crash.
    Without it, libraries ask the kernel what the processor has (AT_HWCAP), which QEMU answers for the model."""

    path: Path
    model: str
    nothing: Path | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether the image's own programs do not run on this host."""
        return self.nothing is not None

    def runs(self, container: ContainerSpec, *program: str) -> ContainerSpec:
        """`container` with its Python, given `program` and the self-test's arguments, emulated."""
        python = (_EMULATOR_IN_IMAGE, "-cpu", self.model, PYTHON_IN_IMAGE)
        return replace(
            container,
            entrypoint=(*(python if self.is_foreign else (PYTHON_IN_IMAGE,)), "-c", _PARENT),
            command=(*python, *program, *_SELFTEST),
            mounts={self.path: _EMULATOR_IN_IMAGE, **({self.nothing: _PROCESSORS} if self.nothing else {})},
            environment={"SERVING_THREADS": "1"},  # more would only give the emulator races to get wrong
        )


def under(
    planned: InstructionSet, processor: Emulator | Mask, container: ContainerSpec, engine: Engine, within_s: float
) -> InstructionSet:
    """Run the self-test of `container`'s image under another processor, where that is what was planned.

    The result has no `exit` where it had to be stopped after `within_s`.
    """
    if planned.proof not in {Proof.EMULATED, Proof.MASKED}:
        return planned

    def selftest(*program: str) -> ContainerSpec:
        if isinstance(processor, Emulator):
            return processor.runs(container, *program)
        return processor.before(container, PYTHON_IN_IMAGE, *program, *_SELFTEST)

    completed = run(engine, selftest("-m", "serving"), within_s)
    if completed.timed_out:
        return planned
    tried = replace(planned, exit=as_exit(completed.state, completed.logs), margins=margins_said(completed.logs))
    is_foreign = isinstance(processor, Emulator) and processor.is_foreign
    if is_foreign or tried.exit is None or tried.exit.signal_name != "SIGILL":
        return tried  # the witness reads the registers of x86-64
    return replace(tried, illegal=witnessed(run(engine, selftest("-c", WITNESS), within_s).logs))


def witness(container: ContainerSpec, engine: Engine, within_s: float) -> IllegalInstruction | None:
    """Run the self-test of `container`'s image on this host's own processor, to see where it dies of SIGILL; None where
    it does not: what served requests may have died of something that golden samples do not come to."""
    spec = replace(container, entrypoint=(PYTHON_IN_IMAGE, "-c", WITNESS), command=_SELFTEST)
    return witnessed(run(engine, spec, within_s).logs)


def as_exit(ended: ContainerState, logs: str) -> Exit:
    """How a container ended, with the last thing it said. The server logs JSON, whose `error` is its sentence; what the
    emulator says at the end is only which signal it was."""
    lines = [line.strip() for line in logs.splitlines() if line.strip() and not line.startswith("qemu: ")]
    last = lines[-1] if lines else ""
    with suppress(ValueError):
        content = json.loads(last)
        if isinstance(content, dict) and "error" in content:
            last = str(content["error"])
    return Exit(-1 if ended.exit_code is None else ended.exit_code, ended.oom_killed, last[:_LINE])


def margins_said(logs: str) -> Mapping[str, Margin]:
    """By output, how far a self-test found the golden answers from the source's; none where it did not come to that."""
    for line in logs.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            outputs = json.loads(line)["outputs"]
            return {
                str(output["output"]): Margin(_number(output["difference"]), _number(output["of_allowed"]))
                for output in outputs
            }
    return {}


def _number(value: Any) -> float:
    """JSON has no infinity: null stands for it."""
    return math.inf if value is None else float(value)
