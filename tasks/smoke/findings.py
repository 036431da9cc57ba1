"""One finding for each thing that can be seen of a running image: who must act, what happened, what to do.

Each function looks at one aspect of an `Observation` and answers with findings, or nothing; what was answered wrongly
or not at all is `tasks.smoke.misanswered`'s. How they add up to a verdict is `tasks.smoke.judge`'s.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from serving.package import Refusal
from tasks.contracts import Finding, Owner, Verdict
from tasks.smoke import illegal
from tasks.smoke.observation import Exit, Observation, Phase
from tasks.smoke.quiet import DISTURBING

Evidence = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Budgets:
    """What the spec says serving must hold."""

    cold_start_s: float
    p99_ms: float


# --- it died ------------------------------------------------------------------------------------------------------


def death(seen: Observation) -> Finding | None:
    if seen.exit is None:
        return None
    if seen.exit.out_of_memory:
        said = f"the kernel killed the server for memory {seen.last_phase.value}"
        return _too_little_memory(seen, said, {})
    ended, when = seen.exit, seen.last_phase.value
    evidence = exit_evidence(ended)
    if seen.last_phase is Phase.START and ended.code == Refusal.MEMORY:
        said = f"the server refused to start for memory: {ended.last_line or 'it did not say why'}"
        return _too_little_memory(seen, said, evidence | {"refusal": Refusal.MEMORY.name.lower()})
    if seen.last_phase is Phase.START and ended.code in set(Refusal):
        return _refusal(Refusal(ended.code), ended, evidence)
    if ended.signal_name == "SIGILL":
        return Finding(
            code="SMOKE_ILLEGAL_INSTRUCTION",
            owner=Owner.PLATFORM,
            message=f"the container died of an illegal instruction (SIGILL) {when}, on this host's own processor"
            + illegal.attribution(seen.illegal),
            advice="a library in the image is compiled for a newer processor than this one: use a build for a lower "
            "instruction-set level",
            evidence=evidence | illegal.evidence(seen.illegal),
        )
    library = _missing_library(ended)
    return _crashed(ended, when, evidence) if library is None else _lacking(library, when, evidence)


def _crashed(ended: Exit, when: str, evidence: Evidence) -> Finding:
    how = f"was killed by {ended.signal_name}" if ended.signal_name else f"ended with exit code {ended.code}"
    return Finding(
        code="SMOKE_CRASHED",
        owner=Owner.MODEL,
        message=f"the container {how} {when}" + (f"; its last line: {ended.last_line}" if ended.last_line else ""),
        advice="run the image by hand with the same limits and the golden samples (docker run … then POST them); "
        "a signal points at native code of the runtime or of the model's operators",
        evidence=evidence,
    )


def _lacking(library: str, when: str, evidence: Evidence) -> Finding:
    return Finding(
        code="SMOKE_MISSING_LIBRARY",
        owner=Owner.PLATFORM,
        message=f"the image lacks a shared library: {library} could not be loaded {when}",
        advice="something in the image is linked to it: add it to the runtime image (docker/runtimes), or use a "
        "build that brings its own",
        evidence=evidence | {"library": library},
    )


#: What the dynamic loader says of a library that it does not find (glibc, elf/dl-load.c).
_NOT_FOUND = re.compile(r"([\w.+-]+\.so[\w.]*): cannot open shared object file")


def _missing_library(ended: Exit) -> str | None:
    found = _NOT_FOUND.search(ended.last_line)
    return found and found.group(1)


#: Refusal → the finding's code and what to do, where it is not about the package's own files.
_REFUSALS = {
    Refusal.ANSWERS: (
        "SMOKE_WRONG_ANSWER",
        "the export passed parity, so it is the image or this processor that answers differently: compare its "
        "runtime's versions with the contract's, or serve another format here",
    ),
    Refusal.INSTRUCTIONS: (
        "SMOKE_ILLEGAL_INSTRUCTION",
        "compile it for a lower instruction-set level, serve another format, or take this instance type out of "
        "smoke.instance_types",
    ),
    Refusal.PLATFORM: (
        "SMOKE_REFUSED_PLATFORM",
        "run smoke on a host of the architecture that the image was built for",
    ),
    Refusal.ADDRESS: (
        "SMOKE_REFUSED_ADDRESS",
        "something else in the container listens on the server's port: look at its log, and at what the image starts",
    ),
    Refusal.SETTINGS: (
        "SMOKE_REFUSED_SETTINGS",
        "smoke sets none, so the image itself does: build it again without the environment variable that is named",
    ),
}


def _refusal(refusal: Refusal, ended: Exit, evidence: Evidence) -> Finding:
    """The server's own word, by its exit code (`serving.package.Refusal`) and its last line."""
    code, advice = _REFUSALS.get(
        refusal,
        (
            "SMOKE_REFUSED_CONTRACT",
            "build the image again from the stored export; if it refuses again, its files were changed after the "
            "contract was written, or its runtime is not the version that the contract names",
        ),
    )
    return Finding(
        code=code,
        owner=Owner.PLATFORM,
        message=f"the server refused its own package: {ended.last_line or 'it did not say why'}",
        advice=advice,
        evidence=evidence | {"refusal": refusal.name.lower()},
    )


def _too_little_memory(seen: Observation, said: str, evidence: Evidence) -> Finding:
    """The kernel's word, or the server's own before it came to that."""
    given = f"{mib(seen.limits.memory_bytes)} MiB"
    evidence = evidence | {"limit_bytes": seen.limits.memory_bytes}
    if seen.peak_memory_bytes is not None:
        evidence["peak_memory_bytes"] = seen.peak_memory_bytes
    if seen.limits.less_memory:
        return Finding(
            code="SMOKE_OUT_OF_MEMORY",
            owner=Owner.PLATFORM,
            verdict=Verdict.INCONCLUSIVE,
            message=f"{said}; but this host could give it only {given} of the type's "
            f"{mib(seen.limits.type_memory_bytes)} MiB",
            advice="run smoke for this type on a host with at least as much memory as the type has",
            evidence=evidence,
        )
    return Finding(
        code="SMOKE_OUT_OF_MEMORY",
        owner=Owner.MODEL,
        message=f"{said}; it needs more than the type's {given}",
        advice="choose an instance type with more memory, a smaller format (onnx-int8) or a smaller serving.max_batch",
        evidence=evidence,
    )


# --- it lived -----------------------------------------------------------------------------------------------------


def start(seen: Observation, budgets: Budgets) -> list[Finding]:
    if seen.ready_after_s is None:
        return [
            Finding(
                code="SMOKE_NOT_READY",
                owner=Owner.PLATFORM,
                message=f"the server was not ready after {seen.waited_s:.1f} s, "
                f"where {budgets.cold_start_s:g} s are allowed; it is still running",
                advice="look at the container's log for what it waits for: a model that loads this long needs a "
                "smaller format, anything else is a fault of the server",
                evidence={"waited_s": round(seen.waited_s, 3), "cold_start_s": budgets.cold_start_s},
            )
        ]
    if seen.ready_after_s <= budgets.cold_start_s:
        return []
    slow = Finding(
        code="SMOKE_SLOW_START",
        owner=Owner.MODEL,
        message=f"the server was ready after {seen.ready_after_s:.2f} s, "
        f"where serving.cold_start_s allows {budgets.cold_start_s:g} s",
        advice="serve a format that loads faster (onnx starts in about a second), or raise serving.cold_start_s "
        "if the platform can wait that long for another replica",
        evidence={"ready_after_s": round(seen.ready_after_s, 3), "cold_start_s": budgets.cold_start_s},
    )
    return [_unless_disturbed(slow, seen.start_disturbed)]


def latency(seen: Observation, budgets: Budgets) -> list[Finding]:
    p99 = seen.latency.percentile(0.99) if seen.latency else None
    if seen.latency is None or p99 is None or math.isnan(p99) or p99 <= budgets.p99_ms:
        return []  # what was not measured is a gap
    limits = seen.limits
    evidence: Evidence = {
        "p99_ms": round(p99, 3),
        "budget_ms": budgets.p99_ms,
        "requests": len(seen.latency.times_ms),
        "vcpus": limits.vcpus,
    }
    message = (
        f"p99 is {p99:.1f} ms at batch {seen.latency.batch} with one client, "
        f"where serving.p99_ms allows {budgets.p99_ms:g} ms"
    )
    if limits.fewer_vcpus:
        return [
            Finding(
                code="SMOKE_LATENCY",
                owner=Owner.PLATFORM,
                verdict=Verdict.INCONCLUSIVE,
                message=f"{message}; but this host could give it only {limits.vcpus:g} of {limits.type_vcpus:g} vCPUs",
                advice="run smoke for this type on a host with as many CPUs",
                evidence=evidence,
            )
        ]
    slow = Finding(
        code="SMOKE_LATENCY",
        owner=Owner.MODEL,
        message=message,
        advice="serve a faster format, choose a type with faster or more vCPUs, or raise serving.p99_ms",
        evidence=evidence,
    )
    return [_unless_disturbed(slow, seen.latency_disturbed)]


def _unless_disturbed(slow: Finding, share: float | None) -> Finding:
    """A broken time budget, which is nobody's fault yet where others had the CPUs meanwhile."""
    if share is None or share <= DISTURBING:
        return slow
    return slow.model_copy(
        update={
            "owner": Owner.PLATFORM,
            "verdict": Verdict.INCONCLUSIVE,
            "message": f"{slow.message}; but other programs took {share:.0%} of this host's CPUs meanwhile",
            "advice": "run it again when nothing else runs here",
            "evidence": slow.evidence | {"taken_by_others": round(share, 3)},
        }
    )


def exit_evidence(ended: Exit) -> Evidence:
    evidence: Evidence = {"exit_code": ended.code, "last_line": ended.last_line}
    return evidence | ({"signal": ended.signal_name} if ended.signal_name else {})


def mib(size_bytes: int) -> int:
    return size_bytes >> 20
