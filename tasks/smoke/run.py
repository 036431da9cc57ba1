"""Running an image under one instance type's limits and writing down what is seen; nothing is judged here.

The container is started by the image's digest, locked down as in production, with the type's vCPUs and memory as far
as this host has them. First it must become ready, then answer golden samples one after the other, then from several
clients at once, then its latency is measured, then it is put under load (`tasks.smoke.trial`). What lived is started
again with less and less memory, until it is too little, and tried under the type's other instruction sets
(`tasks.smoke.emulation`, `tasks.smoke.masking`).
"""

from __future__ import annotations

import time
from dataclasses import replace

from serving.golden import merge
from tasks.errors import EngineUnavailable, PlatformError
from tasks.image.engine import ISOLATED, ContainerSpec, Engine, running
from tasks.smoke.bisection import Bracket, smallest
from tasks.smoke.earlier import Earlier
from tasks.smoke.emulation import Emulator, under, witness
from tasks.smoke.host import Host
from tasks.smoke.instruction_set import plan
from tasks.smoke.masking import Mask
from tasks.smoke.observation import InstructionSet, Limits, Observation, Phase, Proof
from tasks.smoke.quiet import CpuTimes, Turn, wait_until_quiet
from tasks.smoke.trial import SERVER_PORT, Effort, Subject, Trial, container_name, is_capacity_asked

COMPONENT = "smoke"

#: With little memory everything is slower before it fails: code is read again and again. What needs this many times as
#: long as with all memory, and longer than the second, is not enough.
_SLOWER, _SLOW_S = 5, 10.0
#: Each probe halves what is left of the range: six or seven of them come within 2.5 % of the need.
_MEMORY_PROBES = 8


def observe(subject: Subject, host: Host, effort: Effort, engine: Engine, turn: Turn, earlier: Earlier) -> Observation:
    """Run the image natively under the type's limits, then each other instruction set; all containers are removed.

    `turn` is ours alone until only answers count. What `earlier` knows is not measured again, and what is measured is
    kept there.

    Raises:
        EngineUnavailable: the engine stopped answering.
        PlatformError: the container could not be started at all.
    """
    limits = Limits.of(subject.kind, host)
    rate = earlier.rate() if effort.load_within_s else None
    spec = ContainerSpec(
        image=subject.image.digest,
        name=subject.container,
        component=COMPONENT,
        network=ISOLATED,
        ports=(SERVER_PORT,),
        cpus=limits.vcpus,
        memory_bytes=limits.memory_bytes,
    )
    seen = Observation(limits, waited_s=0, golden_rows=subject.golden.rows)
    wait_until_quiet(host.vcpus, effort.quiet_within_s)
    before = CpuTimes.now()
    with running(engine, spec) as container:
        seen = Trial(subject, host, effort, engine, container).through(seen, before, rate)
    if seen.exit is not None and seen.exit.signal_name == "SIGILL":
        again = replace(spec, name=f"{subject.container}-witness", network="none", ports=())
        seen = replace(seen, illegal=witness(again, engine, effort.ready_within_s))
    if seen.ready_after_s is None:
        return seen
    if seen.pressed is not None and seen.exit is None and not seen.went_wrong and effort.memory_within_s:
        if known := earlier.memory(limits):
            seen = replace(seen, memory=known[0], memory_on=known[1])
        else:
            seen = replace(seen, memory=_smallest_memory(subject, host, effort, engine, spec, seen))
    if seen.exit is None and not seen.went_wrong:
        earlier.keep(
            subject.kind.name,
            rate=None if seen.borne_on else seen.borne,
            memory=None if seen.memory_on else seen.memory,
        )
    turn.share()
    return replace(seen, instruction_sets=_instruction_sets(subject, seen, host, effort, engine))


def _instruction_sets(
    subject: Subject, seen: Observation, host: Host, effort: Effort, engine: Engine
) -> tuple[InstructionSet, ...]:
    """How each of the type's instruction sets was tried: natively is what was `seen`, the rest is tried now."""
    container = ContainerSpec(image=subject.image.digest, name=f"{subject.container}-selftest", component=COMPONENT)
    models = {cpu.name: cpu.emulation for cpu in subject.kind.cpus}
    tried = []
    for planned in plan(subject.kind, host):
        if planned.proof is Proof.NATIVE:
            margins = merge(*(answers.margins for answers in seen.phases.values()))
            tried.append(replace(planned, margins=margins))
        elif (processor := _stand_in(planned, models[planned.cpu], host)) is not None:
            tried.append(under(planned, processor, container, engine, effort.emulation_within_s))
        else:
            tried.append(planned)
    return tuple(tried)


def _stand_in(planned: InstructionSet, model: str | None, host: Host) -> Emulator | Mask | None:
    """What makes this host another processor; nothing where it can be none."""
    if planned.proof is Proof.EMULATED and model is not None and host.emulator is not None:
        return Emulator(host.emulator, model)
    if planned.proof is Proof.MASKED and host.cpumask is not None:
        return Mask(host.cpumask, planned.surplus)
    return None


def _smallest_memory(
    subject: Subject, host: Host, effort: Effort, engine: Engine, spec: ContainerSpec, lived: Observation
) -> Bracket:
    """Start the container again with less memory, and press it each time as it was pressed before.

    A limit is enough where the server becomes ready, answers the whole crowd's samples rightly, and still runs.
    """
    until = time.monotonic() + effort.memory_within_s
    everybody_s = lived.crowd.clients * lived.crowd.alone_s if lived.crowd else 0.0
    brief = replace(
        effort,
        ready_within_s=max(_SLOW_S, _SLOWER * (lived.ready_after_s or 0)),
        request_within_s=min(effort.request_within_s, max(_SLOW_S, _SLOWER * everybody_s)),
    )

    def survives(limit: int) -> bool:
        smaller = replace(spec, name=f"{subject.container}-memory", memory_bytes=limit)
        blank = replace(
            lived, limits=replace(lived.limits, memory_bytes=limit), ready_after_s=None, pressed=None, exit=None
        )
        try:
            with running(engine, smaller) as container:
                trial = Trial(subject, host, brief, engine, container)
                seen = trial.through(blank, CpuTimes.now(), only=(Phase.PEAK,))
        except EngineUnavailable:
            raise
        except PlatformError:  # the same image has started before: so little that not even a process begins
            return False
        return seen.exit is None and seen.pressed is not None and not seen.went_wrong

    known = spec.memory_bytes or host.memory_bytes
    guess = min(lived.peak_memory_bytes or known, known - 1)
    return smallest(survives, known, guess, _MEMORY_PROBES, lambda: time.monotonic() > until)


__all__ = ["COMPONENT", "SERVER_PORT", "Effort", "Subject", "container_name", "is_capacity_asked", "observe"]
