"""What was seen while an image ran: values only, so that judging is a function of them (`tasks.smoke.judge`)."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serving.golden import Margin
from tasks.smoke.bisection import Bracket
from tasks.smoke.hardware import InstanceType
from tasks.smoke.host import Host
from tasks.smoke.load import Answers, Latency
from tasks.smoke.spent import Spent


class Phase(StrEnum):
    """What smoke was doing. The value completes the sentence "it happened …"."""

    START = "before it was ready"
    GOLDEN = "while it answered golden samples one after the other"
    CONCURRENT = "while it answered golden samples from several clients at once"
    LATENCY = "while its latency was measured"
    LOAD = "while requests came as from many clients that do not wait for each other"
    PEAK = "under peak load, as many full batches at once as it takes in"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the container was given. Less than the type has, where this host has less."""

    vcpus: float
    memory_bytes: int
    type_vcpus: float
    type_memory_bytes: int

    @classmethod
    def of(cls, kind: InstanceType, host: Host) -> Limits:
        return cls(
            vcpus=min(kind.vcpus, host.vcpus),
            memory_bytes=min(kind.memory_bytes, host.memory_bytes),
            type_vcpus=kind.vcpus,
            type_memory_bytes=kind.memory_bytes,
        )

    @property
    def fewer_vcpus(self) -> bool:
        return self.vcpus < self.type_vcpus

    @property
    def less_memory(self) -> bool:
        return self.memory_bytes < self.type_memory_bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended by itself. `code` is above 128 where a signal ended it (128 + the signal's number)."""

    code: int
    out_of_memory: bool
    last_line: str

    @property
    def signal_name(self) -> str | None:
        """SIGSEGV, SIGILL, …; None where the process ended by its own will."""
        if self.code <= 128:
            return None
        try:
            return signal.Signals(self.code - 128).name
        except ValueError:
            return None


class Proof(StrEnum):
    """How an instruction set was tried."""

    NATIVE = "native"
    EMULATED = "emulated"
    MASKED = "masked"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class IllegalInstruction:
    """Where a program came to an instruction that its processor does not execute.

    `library` is a path in the image, empty for code that was made at run time; `offset` is the address in it, as
    disassemblers show it; `symbol` is empty where the library does not export one there. `code` are the instruction's
    bytes, `text` is Intel's syntax, `extensions` are the kernel's names of what it needs.
    """

    library: str
    offset: int
    symbol: str
    symbol_offset: int
    code: str
    text: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One CPU generation of the type: how it was tried, and how that ended.

    `exit` is there for emulated and masked runs that ended; one without had to be stopped. `reason` says why it is
    unproven, as a clause. `missing` and `surplus` are features that the generation has and this host has not, and the
    reverse. `margins` are by output how far the golden answers lie from the source's under it, as far as it answered.
    """

    cpu: str
    proof: Proof
    exit: Exit | None = None
    reason: str = ""
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()
    margins: Mapping[str, Margin] = field(default_factory=dict)
    illegal: IllegalInstruction | None = None
    level: str = ""

    @property
    def name(self) -> str:
        """For people: the generation, and its level where that is known."""
        return f"{self.cpu} ({self.level})" if self.level else self.cpu


@dataclass(frozen=True, slots=True)
class Borne:
    """The highest rate that kept the objective, and what was seen at it. `mean_ms` and `p99_ms` are from the intended
    start; `late_send_ms` is how late the client itself was, at the 99th percentile; `cpus` are what the container used.
    """

    rate: float
    asked: int
    mean_ms: float
    p99_ms: float | None
    late_send_ms: float
    cpus: float | None = None
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class Crowd:
    """A server's fullest moment: so many clients that are always there, each with a full batch, which takes `alone_s`
    where nobody else asks."""

    clients: int
    batch: int
    alone_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """All that was seen of one image under one instance type's limits. None: it was not reached or not measured.

    `start_disturbed` and `latency_disturbed` are the shares of this host's CPUs that others took meanwhile.
    `stands_still` says that a server which owed answers did not use its CPUs. `memory` is in bytes. `borne_on` and
    `memory_on` name the type that these were measured on, where it was another one with as many vCPUs.
    """

    limits: Limits
    waited_s: float
    ready_after_s: float | None = None
    golden: Answers | None = None
    concurrent: Answers | None = None
    timed: Answers | None = None
    latency: Latency | None = None
    loaded: Answers | None = None
    borne: Borne | None = None
    borne_on: str | None = None
    pressed: Answers | None = None
    crowd: Crowd | None = None
    memory: Bracket | None = None
    memory_on: str | None = None
    golden_rows: int = 0
    stands_still: bool = False
    start_disturbed: float | None = None
    latency_disturbed: float | None = None
    peak_memory_bytes: int | None = None
    exit: Exit | None = None
    illegal: IllegalInstruction | None = None
    last_phase: Phase = Phase.START
    instruction_sets: tuple[InstructionSet, ...] = ()

    @property
    def phases(self) -> Mapping[Phase, Answers]:
        """The phases in which requests were sent, in order."""
        found = {
            Phase.GOLDEN: self.golden,
            Phase.CONCURRENT: self.concurrent,
            Phase.LATENCY: self.timed,
            Phase.LOAD: self.loaded,
            Phase.PEAK: self.pressed,
        }
        return {phase: answers for phase, answers in found.items() if answers is not None}

    @property
    def went_wrong(self) -> bool:
        """Whether any request so far was not answered as the source model would."""
        return any(answers.asked != answers.right for answers in self.phases.values())
