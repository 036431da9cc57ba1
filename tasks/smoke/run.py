"""Running an image under one instance type's limits and writing down what is seen; nothing is judged here.

The container is started by the image's digest, locked down as in production, with the type's vCPUs and memory as far
as this host has them. First it must become ready, then answer golden samples one after the other, then from several
clients at once, then its latency is measured. The first phase in which it ends, or stops answering, is the last.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tasks.contracts import Image
from tasks.errors import PlatformError
from tasks.image.engine import ISOLATED, ContainerSpec, ContainerState, Engine, run, running
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.client import Address, Broken, Connection, Unanswered, get
from tasks.smoke.golden import GoldenSamples, Sample
from tasks.smoke.instruction_set import Host, plan
from tasks.smoke.load import Answers, ask, ask_at_once, measure
from tasks.smoke.observation import Exit, InstructionSet, Limits, Observation, Phase, Proof
from tasks.spec import ServingSpec

COMPONENT = "smoke"

#: Where the server in an image listens.
SERVER_PORT = 8000

#: The interpreter inside an image: an emulator takes a path, not a name to look up.
PYTHON_IN_IMAGE = "/usr/bin/python3.11"

_POLL_S = 0.01
_READY_ANSWER_S = 1.0
_LOOK_S = 0.25  # asking the engine costs more than asking the server
_ROWS = 32
_LINE = 300
_EMULATOR_IN_IMAGE = "/slipway-emulator"

#: Process 1 of a container, while the emulator is its child: a process 1 that the kernel does not let die of its own
#: signal (pid_namespaces(7)) would wait for ever after an illegal instruction. 128 + n is what Docker says of signals.
_PARENT = """
import subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
sys.exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to wait and how much to ask. More only makes the figures steadier."""

    ready_within_s: float
    request_within_s: float
    clients: int = 8
    rounds: int = 5
    concurrent_within_s: float = 5
    warmup: int = 30
    requests: int = 400
    at_least: int = 50
    latency_within_s: float = 4
    emulation_within_s: float = 180

    @classmethod
    def of(cls, serving: ServingSpec) -> Effort:
        """Time limits far beyond the budgets: what is late gets a figure, only what hangs is cut off."""
        return cls(
            ready_within_s=max(30, 5 * serving.cold_start_s),
            request_within_s=max(10, 2 * serving.max_batch * serving.p99_ms / 1000),
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run, and what it is asked."""

    image: Image
    kind: InstanceType
    golden: GoldenSamples
    batches: tuple[int, ...]
    infer_path: str


def observe(subject: Subject, host: Host, effort: Effort, engine: Engine) -> Observation:
    """Run the image natively under the type's limits, then each emulated instruction set; all containers are removed.

    Raises:
        EngineUnavailable: the engine stopped answering.
        PlatformError: the container could not be started at all.
    """
    limits = Limits(
        vcpus=min(subject.kind.vcpus, host.vcpus),
        memory_bytes=min(subject.kind.memory_bytes, host.memory_bytes),
        type_vcpus=subject.kind.vcpus,
        type_memory_bytes=subject.kind.memory_bytes,
    )
    spec = ContainerSpec(
        image=subject.image.digest,
        name=_name(subject),
        component=COMPONENT,
        network=ISOLATED,
        ports=(SERVER_PORT,),
        cpus=limits.vcpus,
        memory_bytes=limits.memory_bytes,
    )
    started = time.monotonic()
    with running(engine, spec) as container:
        seen = _natively(
            subject,
            effort,
            engine,
            container,
            started,
            Observation(limits, waited_s=0, golden_rows=subject.golden.rows),
        )
    if seen.ready_after_s is None:
        return seen
    tried = tuple(_under(planned, subject, host, effort, engine) for planned in plan(subject.kind, host))
    return replace(seen, instruction_sets=tried)


def _natively(
    subject: Subject, effort: Effort, engine: Engine, container: str, started: float, seen: Observation
) -> Observation:
    """All phases in order, up to the first in which the container ended or requests stayed without an answer."""
    address = _address(engine, container)
    seen = _until_ready(address, effort, engine, container, started, seen)
    if address is None or seen.ready_after_s is None:
        return seen
    path, golden, timeout_s = subject.infer_path, subject.golden, effort.request_within_s

    def one_by_one(seen: Observation) -> tuple[Observation, Answers]:
        answers, _ = ask(address, path, golden, _singles(golden, subject.batches), timeout_s=timeout_s)
        return replace(seen, golden=answers), answers

    def at_once(seen: Observation) -> tuple[Observation, Answers]:
        answers = ask_at_once(
            address,
            path,
            golden,
            subject.batches,
            clients=effort.clients,
            rounds=effort.rounds,
            within_s=effort.concurrent_within_s,
            timeout_s=timeout_s,
        )
        return replace(seen, concurrent=answers), answers

    def timed(seen: Observation) -> tuple[Observation, Answers]:
        answers, latency = measure(
            address,
            path,
            golden,
            subject.batches[0],
            warmup=effort.warmup,
            requests=effort.requests,
            at_least=effort.at_least,
            within_s=effort.latency_within_s,
            timeout_s=timeout_s,
        )
        return replace(seen, timed=answers, latency=latency), answers

    for phase, work in ((Phase.GOLDEN, one_by_one), (Phase.CONCURRENT, at_once), (Phase.LATENCY, timed)):
        seen, answers = work(replace(seen, last_phase=phase))
        # What broke a connection shows as the container's end only a moment later.
        ended = engine.wait(container, 2) if answers.failed else _ended(engine, container)
        peak = engine.peak_memory_bytes(container) if ended is None else None
        seen = replace(seen, peak_memory_bytes=peak or seen.peak_memory_bytes)
        if ended is not None:
            return replace(seen, exit=_exit(engine, ended))
        if answers.failed:
            return seen
    return seen


def _until_ready(
    address: Address | None, effort: Effort, engine: Engine, container: str, started: float, seen: Observation
) -> Observation:
    """Ask for readiness until it is there, the container has ended, or the time is over."""
    ready = get("/v2/health/ready")
    next_look = started
    while True:
        if address is not None:
            with Connection(address, _READY_ANSWER_S) as connection, suppress(Unanswered, Broken):
                if connection.request(ready).status == 200:
                    waited, now = time.monotonic() - started, time.time()
                    return replace(seen, ready_after_s=_since_start(engine, container, waited, now), waited_s=waited)
        waited = time.monotonic() - started
        if time.monotonic() >= next_look:
            if ended := _ended(engine, container):
                return replace(seen, waited_s=waited, exit=_exit(engine, ended))
            next_look = time.monotonic() + _LOOK_S
        if waited > effort.ready_within_s:
            return replace(seen, waited_s=waited)
        time.sleep(_POLL_S)


def _since_start(engine: Engine, container: str, waited: float, now: float) -> float:
    """Seconds from the start of the container's process to `now`, where the engine's clock agrees with ours; else from
    when it was asked for, which is longer by what the engine took to set the container up."""
    started_at = engine.state(container).started_at
    since = waited if started_at is None else now - started_at
    return since if 0 < since <= waited else waited


def _address(engine: Engine, container: str) -> Address | None:
    """Where the server listens; None where the container ended before it could be asked."""
    try:
        return Address("127.0.0.1", engine.host_port(container, SERVER_PORT))
    except PlatformError:
        if _ended(engine, container) is None:
            raise
        return None


def _singles(golden: GoldenSamples, batches: Sequence[int]) -> Iterator[Sample]:
    """Each golden row by itself (at most `_ROWS`), then every other batch size twice, from different rows."""
    smallest, *larger = batches
    for row in range(0, min(golden.rows, _ROWS), smallest):
        yield golden.sample(row, smallest)
    for batch in larger:
        yield golden.sample(0, batch)
        yield golden.sample(batch, batch)


def _under(planned: InstructionSet, subject: Subject, host: Host, effort: Effort, engine: Engine) -> InstructionSet:
    """Run the image's own self-test under an emulated processor, where that is what was planned."""
    emulation = {cpu.name: cpu.emulation for cpu in subject.kind.cpus}[planned.cpu]
    if planned.proof is not Proof.EMULATED or host.emulator is None or emulation is None:
        return planned
    spec = ContainerSpec(
        image=subject.image.digest,
        name=f"{_name(subject)}-{planned.cpu}",
        component=COMPONENT,
        entrypoint=(PYTHON_IN_IMAGE, "-c", _PARENT),
        command=(_EMULATOR_IN_IMAGE, "-cpu", emulation, PYTHON_IN_IMAGE, "-m", "serving", "selftest"),
        mounts={host.emulator: _EMULATOR_IN_IMAGE},
    )
    completed = run(engine, spec, effort.emulation_within_s)
    if completed.timed_out:
        return planned
    return replace(planned, exit=_as_exit(completed.state, completed.logs))


def _ended(engine: Engine, container: str) -> ContainerState | None:
    state = engine.state(container)
    return None if state.running else state


def _exit(engine: Engine, ended: ContainerState) -> Exit:
    return _as_exit(ended, engine.logs(ended.id))


def _as_exit(ended: ContainerState, logs: str) -> Exit:
    """The server logs JSON; what it says of an error is its sentence. Anything else is taken as it is."""
    lines = [line.strip() for line in logs.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    with suppress(ValueError):
        content = json.loads(last)
        if isinstance(content, dict) and "error" in content:
            last = str(content["error"])
    return Exit(-1 if ended.exit_code is None else ended.exit_code, ended.oom_killed, last[:_LINE])


def _name(subject: Subject) -> str:
    """The same image on the same type has the same container name, so that leftovers are found."""
    digest = subject.image.digest.removeprefix("sha256:")[:12]
    return f"slipway-smoke-{digest}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', subject.kind.name)}"
