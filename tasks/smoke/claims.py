"""What may be claimed about an instance type from what was tried on this host: findings about processors and limits.

A processor that could not be tried is a remark that says so. Fewer CPUs or less memory than the type has is one too:
what passes with less passes with all of it, and the reverse is never concluded.
"""

from __future__ import annotations

from collections.abc import Collection

from serving.package import Refusal
from tasks.contracts import Finding, Owner, Verdict
from tasks.smoke.catalogue import InstanceType
from tasks.smoke.findings import Evidence, exit_evidence, mib
from tasks.smoke.observation import Exit, InstructionSet, Observation, Proof


def instruction_set(tried: InstructionSet) -> list[Finding]:
    evidence: Evidence = {"cpu": tried.cpu, "proof": tried.proof.value}
    if tried.missing:
        evidence["missing_here"] = " ".join(tried.missing)
    if tried.surplus:
        evidence["only_here"] = " ".join(tried.surplus)
    if tried.proof is Proof.UNPROVEN:
        return [_unproven(tried.cpu, tried.reason, evidence)]
    if tried.proof is Proof.EMULATED and tried.exit is None:
        return [_unproven(tried.cpu, "its self-test did not end under emulation in time", evidence)]
    if tried.exit is None or tried.exit.code == 0:
        return []
    return [_emulated(tried.cpu, tried.exit, evidence | exit_evidence(tried.exit))]


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


def _emulated(cpu: str, ended: Exit, evidence: Evidence) -> Finding:
    if ended.signal_name == "SIGILL":
        return Finding(
            code="SMOKE_ILLEGAL_INSTRUCTION",
            owner=Owner.PLATFORM,
            message=f"under the instruction set of {cpu} the image dies of an illegal instruction (SIGILL)",
            advice="a library or a compiled model in the image needs a newer processor: use a build for this "
            "level, another format, or take this instance type out of smoke.instance_types",
            evidence=evidence,
        )
    if ended.code == Refusal.ANSWERS:
        return Finding(
            code="SMOKE_WRONG_ANSWER",
            owner=Owner.PLATFORM,
            message=f"under the instruction set of {cpu} the image does not answer as the source model does: "
            f"{ended.last_line or 'its self-test failed'}",
            advice="other processors compute this format differently (int8 without VNNI saturates): serve another "
            "format on this instance type",
            evidence=evidence,
        )
    # Not the image's fault for sure: the emulator itself has limits.
    how = ended.signal_name or f"exit code {ended.code}"
    return _unproven(cpu, f"its self-test ended with {how} under emulation: {ended.last_line}", evidence)


def _unproven(cpu: str, reason: str, evidence: Evidence) -> Finding:
    """A remark: it blocks nothing yet, and nothing may be concluded from this report about that processor."""
    return Finding(
        code="SMOKE_INSTRUCTION_SET_UNPROVEN",
        owner=Owner.PLATFORM,
        verdict=Verdict.PASSED,
        message=f"the instruction set of {cpu} was not proven: {reason}",
        advice=f"run smoke once on a machine with {cpu}, or keep this image off such machines",
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
