"""A type of another architecture is never passed, fails with what was seen, and says what was proven."""

from __future__ import annotations

from pathlib import Path

from serving.golden import Margin
from serving.package import Refusal
from tasks.contracts import Verdict
from tasks.smoke.catalogue import CpuGeneration, InstanceType, instance_type
from tasks.smoke.foreign import judge_foreign
from tasks.smoke.host import Host
from tasks.smoke.instruction_set import plan
from tasks.smoke.observation import Exit, InstructionSet, Proof

HOST = Host(
    vcpus=2,
    memory_bytes=2**34,
    architecture="amd64",
    features=frozenset(),
    emulator=None,
    others={"arm64": Path("/usr/bin/qemu-aarch64-static")},
)


def kind(emulation: str | None) -> InstanceType:
    base = instance_type("c7g.large")
    cpu: CpuGeneration = base.cpus[0].model_copy(update={"name": "neoverse-n1", "emulation": emulation})
    return base.model_copy(update={"cpus": (cpu,)})


def tried(code: int | None) -> InstructionSet:
    ended = None if code is None else Exit(code, out_of_memory=False, last_line="why")
    return InstructionSet("neoverse-n1", Proof.EMULATED, exit=ended, margins={"y": Margin(0.4, 42.0)})


def test_a_processor_of_another_architecture_is_emulated_exactly_or_not_at_all() -> None:
    (exact,) = plan(kind("neoverse-n1"), HOST)
    assert exact.proof is Proof.EMULATED
    (none,) = plan(kind(None), HOST)
    assert (none.proof, none.reason) == (
        Proof.UNPROVEN,
        "no emulated processor has exactly its instruction set",
    )
    (missing,) = plan(kind("neoverse-n1"), Host(2, 2**34, "amd64", frozenset(), None))
    assert (missing.proof, missing.reason) == (Proof.UNPROVEN, "qemu-aarch64-static is not installed")


def test_right_answers_prove_the_processors_answers_and_leave_the_type_inconclusive() -> None:
    found = judge_foreign((tried(0),), kind("neoverse-n1"), HOST)
    assert [(each.code, each.verdict) for each in found.findings] == [
        ("SMOKE_ARCHITECTURE_UNPROVEN", Verdict.INCONCLUSIVE)
    ]
    assert "every golden answer under an emulated neoverse-n1" in found.findings[0].message
    assert found.findings[0].evidence["answers_proven"] == "neoverse-n1"
    assert [proof.verdict for proof in found.processors] == [Verdict.PASSED]


def test_wrong_answers_and_illegal_instructions_fail_the_type() -> None:
    for code, finding in ((Refusal.ANSWERS, "SMOKE_WRONG_ANSWER"), (132, "SMOKE_ILLEGAL_INSTRUCTION")):
        found = judge_foreign((tried(code),), kind("neoverse-n1"), HOST)
        assert [each.code for each in found.findings] == [finding, "SMOKE_ARCHITECTURE_UNPROVEN"]
        assert found.findings[0].verdict is Verdict.FAILED


def test_what_was_not_tried_or_did_not_end_is_said() -> None:
    for code, said in ((139, "SIGSEGV"), (None, "did not end")):
        (found,) = judge_foreign((tried(code),), kind("neoverse-n1"), HOST).findings
        assert (found.verdict, said in found.message) == (Verdict.INCONCLUSIVE, True)
        assert "every golden answer" not in found.message
