"""What the tests of this folder share: a packaged model, how to try an image of it, and code that spoils one."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.contract import CONTRACT_FILE, GpuNeeds
from serving.package import read_contract
from tasks.contracts import Image, ParityReport, SmokeReport, Verdict
from tasks.image import Engine
from tasks.image.build import contract_bytes
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.host import Host
from tasks.smoke.run import Effort
from tasks.smoke.stage import prove
from tasks.spec import ModelSpec, ServingSpec
from tasks.store import LocalStore, fetch, put_file

MIB = 2**20

#: Little, so that the suite is quick: what is wrong shows in the first requests.
QUICK = Effort(
    ready_within_s=60,
    request_within_s=20,
    quiet_within_s=0,
    clients=4,
    rounds=4,
    concurrent_within_s=20,
    warmup=3,
    requests=20,
    at_least=10,
    latency_within_s=20,
)
#: No test of this suite is about speed unless it says so, and the machine may be busy.
PATIENT = ServingSpec(max_batch=8, p99_ms=20_000, cold_start_s=60)


@dataclass(frozen=True)
class Bench:
    """The good package with everything that smoke needs, and how to try an image of it."""

    spec: ModelSpec
    good: Image
    parity: ParityReport
    store: LocalStore
    engine: Engine
    kind: InstanceType
    host: Host
    work: Path

    def smoke(self, image: Image, **changes: Any) -> SmokeReport:
        """Smoke `image`; `changes` are of the spec's budgets (`serving`), the `kind`, the `host`, the `effort`, or
        what is known `earlier`."""
        return prove(
            self.spec.model_copy(update={"serving": changes.get("serving", PATIENT)}),
            image,
            changes.get("parity", self.parity),
            changes.get("kind", self.kind),
            self.store,
            self.engine,
            self.work,
            host=changes.get("host", self.host),
            effort=changes.get("effort", QUICK),
            earlier=changes.get("earlier"),
        )


#: `spoil(code, files)`: the good image with `code` run before the server, and files laid over it.
Spoil = Callable[..., Image]

#: Replaces what the runner answers: `change(inputs, run)` is called for every inference.
_AROUND_RUN = """
import serving.runners
real = serving.runners.load

def load(*arguments, **options):
    runner = real(*arguments, **options)
    class Changed:
        def run(self, inputs):
            return change(inputs, runner.run)
        def close(self):
            runner.close()
    return Changed()

serving.runners.load = load
"""

#: `execute(code)` runs machine code, given in hexadecimal.
MACHINE_CODE = """
import ctypes, mmap

def execute(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(code) + b"\\xc3")
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""


def around_run(body: str) -> str:
    """Code that defines `change(inputs, run)` and puts it around every inference."""
    return "import threading, time\nimport numpy as np\n" + textwrap.dedent(body) + _AROUND_RUN


#: From the first inference on (the server's own, at its start), keeps the container at NEED bytes that it cannot do
#: without: all that is charged to it, by its own control group (version 1 or 2), but files in the page cache that no
#: process maps. What the server itself comes to need, a hog gives back.
_HOG = """
import mmap

CHUNK, hog = 1 << 20, []

def own():
    try:
        place, used, kinds = "/sys/fs/cgroup/memory", "memory.usage_in_bytes", ("total_cache", "total_mapped_file")
        with open(f"{place}/{used}") as usage:
            charged = int(usage.read())
    except OSError:
        place, kinds = "/sys/fs/cgroup", ("file", "file_mapped")
        with open(f"{place}/memory.current") as usage:
            charged = int(usage.read())
    with open(f"{place}/memory.stat") as statistics:
        found = dict(line.split() for line in statistics)
    files, mapped = (int(found[kind]) for kind in kinds)
    return charged - files + mapped

def keep():
    while True:
        while (missing := (NEED - own()) // CHUNK) > 0:
            for _ in range(-(-missing // 2)):  # no more than half at a time: the server grows meanwhile
                hog.append(mmap.mmap(-1, CHUNK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
                hog[-1].write(b"x" * CHUNK)
        filled.set()
        while hog and own() > NEED:
            hog.pop().close()
        time.sleep(0.005)

keeper, one, filled = threading.Thread(target=keep, daemon=True), threading.Lock(), threading.Event()

def change(inputs, run):
    with one:
        if keeper.ident is None:
            keeper.start()
    filled.wait()  # whoever was answered has seen the whole need
    return run(inputs)
"""


def needing(bytes_: int) -> str:
    """Code by which an image needs exactly so much memory."""
    return around_run(f"NEED = {bytes_}\n{_HOG}")


def contract_for_a_gpu(bench: Bench, needs: GpuNeeds) -> bytes:
    """The good image's contract as a build of onnxruntime-gpu would have it; no runtime of today is one."""
    assert bench.good.contract is not None
    with tempfile.TemporaryDirectory() as folder:
        fetch(bench.store, bench.good.contract, Path(folder) / CONTRACT_FILE)
        contract = read_contract(Path(folder))
    versions = {"onnxruntime-gpu": "1.20.1"}
    return contract_bytes(replace(contract, runtime_versions=versions, needs=replace(contract.needs, gpu=needs)))


def with_contract(bench: Bench, image: Image, contract: bytes) -> Image:
    """The image, as if `contract` had been stored when it was built."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONTRACT_FILE).write_bytes(contract)
        stored = put_file(bench.store, Path(folder) / CONTRACT_FILE)
    return image.model_copy(update={"contract": stored, "contract_digest": stored.digest})


def only(report: SmokeReport) -> str:
    """The code of the one finding that a report has, and that blocks."""
    (finding,) = report.findings
    assert report.verdict is not Verdict.PASSED
    assert finding.verdict is report.verdict
    return finding.code
