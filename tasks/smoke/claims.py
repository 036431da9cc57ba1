"""What may be claimed about an instance type from what was tried on this host: findings about processors and limits.

A processor that could not be tried leaves the type inconclusive: the provider may start it on that one. Fewer CPUs or
less memory than the type has is a remark: what passes with less passes with all of it, and the reverse is never
concluded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from serving.golden import Margin
from serving.package import Refusal
from tasks.contracts import Finding, OutputMargin, Owner, ProcessorProof, Verdict
from tasks.smoke import illegal
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.findings import Evidence, exit_evidence, mib
from tasks.smoke.observation import Exit, InstructionSet, Observation, Proof

#: What libraries say of a processor that lacks what they were compiled for, instead of dying of it: TensorFlow
#: (tsl/platform/cpu_feature_guard.cc), and glibc of itself and of libraries with an ISA note (sysdeps/x86/dl-prop.h).
_REFUSES = re.compile(
    r"was compiled to use [^.]+ instructions, but these aren't available"
    r"|CPU does not support x86-64-v\d"
    r"|CPU ISA level is lower than required"
)


_HOW = {Proof.EMULATED: "under emulation", Proof.MASKED: "with features hidden"}


def instruction_set(tried: InstructionSet) -> list[Finding]:
    evidence: Evidence = {"cpu": tried.cpu, "proof": tried.proof.value}
    if tried.level:
        evidence["level"] = tried.level
    if tried.missing:
        evidence["missing_here"] = " ".join(tried.missing)
    if tried.surplus:
        evidence["only_here"] = " ".join(tried.surplus)
    if tried.proof is Proof.UNPROVEN:
        return [_unproven(tried.cpu, tried.reason, evidence)]
    if tried.proof is Proof.NATIVE:
        return []
    if tried.exit is None:
        return [_unproven(tried.cpu, f"its self-test did not end {_HOW[tried.proof]} in time", evidence)]
    if tried.exit.code == 0:
        return []
    return [_tried(tried, tried.exit, evidence | exit_evidence(tried.exit))]


def processor(tried: InstructionSet, *, right_here: bool) -> ProcessorProof:
    """What the report says of one processor; `right_here` is whether all was answered right without emulation."""
    found = instruction_set(tried)
    worst = Verdict.worst((Verdict.PASSED, *(finding.verdict for finding in found)))
    if tried.proof is Proof.NATIVE:
        worst = Verdict.PASSED if right_here else Verdict.FAILED
    return ProcessorProof(
        cpu=tried.cpu,
        level=tried.level,
        proof=tried.proof.value,
        verdict=worst,
        note=found[0].message if found else _left_open(tried),
        margins=tuple(
            OutputMargin(output=name, difference=_finite(margin.difference), of_allowed=_finite(margin.of_allowed))
            for name, margin in tried.margins.items()
        ),
    )


def _left_open(tried: InstructionSet) -> str:
    """What a pass of that kind does not show."""
    if tried.proof is not Proof.MASKED:
        return ""
    return (
        f"{', '.join(tried.surplus)} were hidden from programs on this host; an instruction of theirs that is used "
        "without asking the processor for it would not have shown"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def beyond_type(needs: Collection[str], kind: InstanceType) -> tuple[Finding, ...]:
    """What a compiled model holds and a processor of the type lacks: known without running it, emulator or not."""
    findings = []
    for cpu in kind.cpus:
        lacking = [name for name in needs if name not in cpu.features]
        if lacking:
            findings.append(
                Finding(
                    code="SMOKE_ILLEGAL_INSTRUCTION",
                    owner=Owner.PLATFORM,
                    message=f"the compiled model holds {', '.join(lacking)} instructions, "
                    f"which {cpu.name}, a processor of {kind.name}, does not execute",
                    advice="compile it for a lower instruction-set level, serve another format, or take this instance "
                    "type out of smoke.instance_types",
                    evidence={"cpu": cpu.name, "needs": " ".join(needs), "lacking": " ".join(lacking)},
                )
            )
    return tuple(findings)


def _tried(tried: InstructionSet, ended: Exit, evidence: Evidence) -> Finding:
    cpu = tried.name
    if ended.signal_name == "SIGILL":
        return Finding(
            code="SMOKE_ILLEGAL_INSTRUCTION",
            owner=Owner.PLATFORM,
            message=f"under the instruction set of {cpu} the image dies of an illegal instruction (SIGILL)"
            + illegal.attribution(tried.illegal),
            advice="a library or a compiled model in the image needs a newer processor: use a build for this "
            "level, another format, or take this instance type out of smoke.instance_types",
            evidence=evidence | illegal.evidence(tried.illegal),
        )
    if ended.code == Refusal.ANSWERS:
        return Finding(
            code="SMOKE_WRONG_ANSWER",
            owner=Owner.PLATFORM,
            message=f"under the instruction set of {cpu} the image does not answer as the source model does: "
            f"{ended.last_line or 'its self-test failed'}{_off(tried.margins)}",
            advice="other processors compute this format differently (int8 without VNNI saturates): serve another "
            "format on this instance type",
            evidence=evidence | _margin_evidence(tried.margins),
        )
    if refused := _REFUSES.search(ended.last_line):
        return Finding(
            code="SMOKE_ILLEGAL_INSTRUCTION",
            owner=Owner.PLATFORM,
            message=f"under the instruction set of {cpu} a library in the image refuses to run: {refused[0]}",
            advice="use a build of it for this level, another format, or take this instance type out of "
            "smoke.instance_types",
            evidence=evidence,
        )
    # Not the image's fault for sure: the emulator itself has limits.
    how = f"{ended.signal_name or f'exit code {ended.code}'} {_HOW[tried.proof]}"
    return _unproven(tried.cpu, f"its self-test ended with {how}: {ended.last_line}", evidence)


def _worst(margins: Mapping[str, Margin]) -> tuple[str, Margin] | None:
    """The output that is furthest beyond its tolerance."""
    return max(margins.items(), key=lambda item: item[1].of_allowed, default=None)


def _off(margins: Mapping[str, Margin]) -> str:
    worst = _worst(margins)
    if worst is None:
        return ""
    name, margin = worst
    if not math.isfinite(margin.of_allowed):
        return f"; over all golden samples {name!r} is off by up to {margin.difference:.3g}, where nothing may differ"
    return (
        f"; over all golden samples {name!r} is off by up to {margin.difference:.3g}, "
        f"{margin.of_allowed:.3g} times its tolerance"
    )


def _margin_evidence(margins: Mapping[str, Margin]) -> Evidence:
    worst = _worst(margins)
    if worst is None:
        return {}
    name, margin = worst
    found: Evidence = {"output": name}
    for key, value in (("difference", margin.difference), ("of_allowed", margin.of_allowed)):
        if math.isfinite(value):
            found[key] = value
    return found


def _unproven(cpu: str, reason: str, evidence: Evidence) -> Finding:
    """It blocks: nothing may be concluded from this report about a processor that the type may have."""
    return Finding(
        code="SMOKE_INSTRUCTION_SET_UNPROVEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.INCONCLUSIVE,
        message=f"the instruction set of {cpu} was not proven: {reason}",
        advice=f"run smoke on a machine with {cpu} (`slipway smoke` there, or a worker of Airflow's), or take this "
        "instance type out of smoke.instance_types; this machine itself is the type this-machine",
        evidence=evidence,
    )


def capped(seen: Observation) -> list[Finding]:
    """Remarks. What passes with less than the type has passes with all of it; the reverse is not concluded."""
    findings = []
    if seen.limits.fewer_vcpus:
        findings.append(
            Finding(
                code="SMOKE_CPUS_CAPPED",
                owner=Owner.PLATFORM,
                verdict=Verdict.PASSED,
                message=f"this host gave the container {seen.limits.vcpus:g} of the type's {seen.limits.type_vcpus:g} "
                "vCPUs: latency and concurrency are claimed for that many only",
                advice="run smoke for this type on a host with as many CPUs to claim more",
                evidence={"vcpus": seen.limits.vcpus, "type_vcpus": seen.limits.type_vcpus},
            )
        )
    if seen.limits.less_memory:
        findings.append(
            Finding(
                code="SMOKE_MEMORY_CAPPED",
                owner=Owner.PLATFORM,
                verdict=Verdict.PASSED,
                message=f"this host gave the container {mib(seen.limits.memory_bytes)} of the type's "
                f"{mib(seen.limits.type_memory_bytes)} MiB",
                advice="nothing to do where it passed: less memory was enough",
                evidence={
                    "memory_bytes": seen.limits.memory_bytes,
                    "type_memory_bytes": seen.limits.type_memory_bytes,
                },
            )
        )
    return findings
