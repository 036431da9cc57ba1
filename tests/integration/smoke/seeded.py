"""The seeded set: images with one thing wrong each, which smoke must block with the right finding, and good ones, which
it must let pass.

In: `Packages`. Out: for each `Case` the `Bench` and the image to smoke, on the type and under the budgets that the case
names. `benchmarks/smoke.py` runs all of them with the effort of the real stage, `test_seeded.py` the quick ones.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.contract import CONTRACT_FILE, GpuNeeds
from tasks.contracts import Image, SmokeReport, Verdict
from tasks.smoke.catalogue import InstanceType, instance_type
from tasks.spec import ServingSpec
from tests.integration.smoke.bench import MACHINE_CODE, MIB, Bench, around_run, contract_for_a_gpu, with_contract
from tests.integration.smoke.packages import Packages, this_processor

Make = Callable[[Packages], tuple[Bench, Image]]


def this() -> InstanceType:
    return this_processor()


def small() -> InstanceType:
    """This processor with little memory."""
    return this_processor().model_copy(update={"name": "test-type-160m", "memory_bytes": 160 * MIB})


def haswell() -> InstanceType:
    """The newest generation without AVX-512 and VNNI that providers still start."""
    return instance_type("c4.large")


def ivy_bridge() -> InstanceType:
    """The newest generation without AVX2."""
    return instance_type("c3.large")


def with_gpu() -> InstanceType:
    return instance_type("g5.xlarge")


@dataclass(frozen=True, slots=True)
class Case:
    """One image. `code` is the finding that must block it, None of a good one; `says` is in the finding's words.

    `serving` are the budgets that it is held to, where they are what is tried.
    """

    name: str
    wrong: str
    code: str | None
    kind: Callable[[], InstanceType]
    make: Make
    says: str = ""
    serving: ServingSpec | None = None

    @property
    def emulated(self) -> bool:
        """Whether it is tried under another processor than this host's."""
        return self.kind in {haswell, ivy_bridge}

    def is_right(self, report: SmokeReport) -> bool:
        """Whether smoke said what it has to: the good pass, the bad are blocked by the finding with their name."""
        blocking = [finding for finding in report.findings if finding.verdict is not Verdict.PASSED]
        if self.code is None:
            return report.verdict is Verdict.PASSED
        named = any(finding.code == self.code and self.says in finding.message for finding in blocking)
        return named and report.verdict is not Verdict.PASSED


# --- what is wrong ------------------------------------------------------------------------------------------------

#: `vpaddd zmm0, zmm0, zmm0` (AVX-512F) and `vpaddd ymm0, ymm0, ymm0` (AVX2), in the assembler's words and in bytes;
#: after each `vzeroupper`.
_AVX512 = ("vpaddd %zmm0, %zmm0, %zmm0", "62f17d48fec0c5f877")
_AVX2 = ("vpaddd %ymm0, %ymm0, %ymm0", "c5fdfec0c5f877")

_LIBRARY = "opt/serving/libkernels.so"
_CALL_LIBRARY = f"import ctypes\nkernel = ctypes.CDLL('/{_LIBRARY}').fused_add\n"


def trapped(instruction: tuple[str, str], body: Callable[[str], str]) -> Make:
    """The tiny model with a shared object in the image whose function executes the instruction when `body` calls
    `kernel()`; bytes that are executed from memory where there is no compiler."""

    def make(packages: Packages) -> tuple[Bench, Image]:
        bench, (assembler, code) = packages.tiny("onnx"), instruction
        library = _shared_object(assembler)
        if library is None:
            start = f"{MACHINE_CODE}\ndef kernel():\n    execute('{code}')\n"
            return bench, packages.spoiled(bench, body(start))
        return bench, packages.spoiled(bench, body(_CALL_LIBRARY), {_LIBRARY: library})

    return make


def at_start(start: str) -> str:
    return f"{start}\nkernel()\n"


def at_inference(start: str) -> str:
    return start + around_run("def change(inputs, run):\n    kernel()\n    return run(inputs)\n")


def _shared_object(instruction: str) -> bytes | None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    quoted = instruction.replace("%", "%%")
    source = f'void fused_add(void) {{ __asm__ volatile("{quoted}\\n\\tvzeroupper" ::: "memory"); }}\n'
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "libkernels.so"
        command = [compiler, "-x", "c", "-shared", "-fPIC", "-O1", "-o", str(made), "-"]
        subprocess.run(command, input=source, text=True, check=True, capture_output=True)
        return made.read_bytes()


def spoiled(code: str = "", gone: tuple[str, ...] = ()) -> Make:
    """The tiny model with something that is done before the server starts, or with files that are not there."""

    def make(packages: Packages) -> tuple[Bench, Image]:
        bench = packages.tiny("onnx")
        return bench, packages.spoiled(bench, code, gone=gone)

    return make


def whole(find: Callable[[Packages], Bench]) -> Make:
    """A package as it is."""

    def make(packages: Packages) -> tuple[Bench, Image]:
        bench = find(packages)
        return bench, bench.good

    return make


def built_for_a_gpu(needs: GpuNeeds) -> Make:
    """The tiny model with the contract that a build of onnxruntime-gpu would have, inside and in the store; no runtime
    of today is one, and none is started: versions that do not go together are known before."""

    def make(packages: Packages) -> tuple[Bench, Image]:
        bench = packages.tiny("onnx")
        contract = contract_for_a_gpu(bench, needs)
        image = packages.spoiled(bench, files={f"package/{CONTRACT_FILE}": contract})
        return bench, with_contract(bench, image, contract)

    return make


_HOG = around_run(
    """
    hog = []
    def change(inputs, run):
        hog.append(b"x" * (8 << 20))
        return run(inputs)
    """
)

#: The second of two at once waits for a lock that it holds itself.
DEADLOCK = around_run(
    """
    inside, one = [], threading.Lock()
    def change(inputs, run):
        inside.append(1)
        time.sleep(0.005)
        if len(inside) > 1:
            one.acquire(); one.acquire()
        inside.pop()
        return run(inputs)
    """
)

#: Inputs lie in one place for all requests: whoever comes second overwrites what the first has not read yet.
SHARED_STATE = around_run(
    """
    shared = {}
    def change(inputs, run):
        shared.update(inputs)
        time.sleep(0.002)
        size = len(inputs["x"])
        return {name: np.resize(array, (size, *array.shape[1:])) for name, array in run(shared).items()}
    """
)

#: More than all other phases ask for: only a load gets so far.
_AFTER_MANY = around_run(
    """
    served = []
    def change(inputs, run):
        served.append(1)
        answer = run(inputs)
        return answer | {"y": answer["y"] + (len(served) > 1500)}
    """
)

BAD = (
    Case(
        name="missing library",
        wrong="a shared library that NumPy and the runtime are linked to is not in the image",
        code="SMOKE_MISSING_LIBRARY",
        says="libstdc++.so.6",
        kind=this,
        make=spoiled(gone=("usr/lib/x86_64-linux-gnu/libstdc++.so.6",)),
    ),
    Case(
        name="wrong answer under load",
        wrong="requests share one buffer: right alone, wrong among others",
        code="SMOKE_WRONG_ANSWER_CONCURRENT",
        says="clients at once",
        kind=this,
        make=spoiled(SHARED_STATE),
    ),
    Case(
        name="wrong answer after many",
        wrong="something is used up: right for 1,500 answers, wrong from then on",
        code="SMOKE_WRONG_ANSWER_LOAD",
        says="many clients",
        kind=this,
        make=spoiled(_AFTER_MANY),
    ),
    Case(
        name="memory hog",
        wrong="8 MiB are kept of every request: it starts well, and outgrows the type under load",
        code="SMOKE_OUT_OF_MEMORY",
        says="golden samples",
        kind=small,
        make=spoiled(_HOG),
    ),
    Case(
        name="AVX-512 trap",
        wrong="a shared object executes an AVX-512 instruction at every inference",
        code="SMOKE_ILLEGAL_INSTRUCTION",
        says="haswell",
        kind=haswell,
        make=trapped(_AVX512, at_inference),
    ),
    Case(
        name="AVX2 trap",
        wrong="a shared object executes an AVX2 instruction when it is loaded",
        code="SMOKE_ILLEGAL_INSTRUCTION",
        says="ivy-bridge",
        kind=ivy_bridge,
        make=trapped(_AVX2, at_start),
    ),
    Case(
        name="slow start",
        wrong="the server is ready four seconds late",
        code="SMOKE_SLOW_START",
        kind=this,
        make=spoiled("import time\ntime.sleep(4)\n"),
        serving=ServingSpec(max_batch=8, p99_ms=20_000, cold_start_s=3),
    ),
    Case(
        name="deadlock under concurrency",
        wrong="two requests at once wait for each other for ever",
        code="SMOKE_DEADLOCK",
        says="several clients",
        kind=this,
        make=spoiled(DEADLOCK),
    ),
    Case(
        name="int8 without VNNI",
        wrong="eight-bit weights, exact with VNNI, saturate without",
        code="SMOKE_WRONG_ANSWER",
        kind=haswell,
        make=whole(Packages.eight_bits),
    ),
    Case(
        name="AOTInductor of an AVX-512 host",
        wrong="torch compiled the model for the processor of the machine that built it",
        code="SMOKE_ILLEGAL_INSTRUCTION",
        says="SIGILL",
        kind=haswell,
        make=whole(lambda packages: packages.compiled("x86-64-v4", 512)),
    ),
    Case(
        name="CUDA version skew",
        wrong="the contract says CUDA 12.4, and cuDNN 8.9, which no maker's table puts together",
        code="SMOKE_GPU_CUDA_SKEW",
        says="8.9",
        kind=with_gpu,
        make=built_for_a_gpu(GpuNeeds(cuda="12.4", cudnn="8.9")),
    ),
)

_GOOD = {
    "digits, convolutions": ("digits_cnn", "onnx"),
    "digits, convolutions in int8": ("digits_cnn", "onnx-int8"),
    "photographs, decoded and resized": ("digit_photos", "onnx"),
    "texts, tokenized": ("reviews", "onnx"),
    "table with categories and gaps": ("orders", "onnx"),
    "regression": ("diabetes", "onnx"),
}

GOOD = tuple(
    Case(
        name=name,
        wrong="",
        code=None,
        kind=kind,
        make=whole(functools.partial(Packages.trained, model=which[0], format=which[1])),
    )
    for name, which in _GOOD.items()
    for kind in (this, haswell)
)
