"""Judging: each thing that can be seen has its own finding, and what was not seen is never a pass."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.golden import Margin
from serving.package import Refusal
from tasks.contracts import Owner, Verdict
from tasks.smoke.findings import Budgets
from tasks.smoke.judge import figures, judge, processors
from tasks.smoke.load import Answers, Latency, Wrong
from tasks.smoke.masking import CANNOT
from tasks.smoke.observation import Exit, IllegalInstruction, InstructionSet, Limits, Observation, Phase, Proof

GIB = 2**30
BUDGETS = Budgets(cold_start_s=3, p99_ms=50)
FULL = Limits(vcpus=2, memory_bytes=4 * GIB, type_vcpus=2, type_memory_bytes=4 * GIB)
FEWER_CPUS = replace(FULL, type_vcpus=8)
LESS_MEMORY = replace(FULL, type_memory_bytes=64 * GIB)
RIGHT = Answers(asked=40, right=40, batches=(1, 2))
GOOD = Observation(
    limits=FULL,
    waited_s=1.0,
    ready_after_s=1.0,
    golden=RIGHT,
    concurrent=replace(RIGHT, clients=8),
    timed=RIGHT,
    latency=Latency((1.0,) * 100, batch=1),
    golden_rows=16,
    peak_memory_bytes=GIB,
    last_phase=Phase.LATENCY,
)
DEAD = Exit(code=1, out_of_memory=False, last_line="ValueError: no")


def codes(seen: Observation) -> list[tuple[str, Verdict]]:
    return [(finding.code, finding.verdict) for finding in judge(seen, BUDGETS)[1]]


def only(seen: Observation) -> tuple[str, Verdict]:
    (found,) = codes(seen)
    return found


def message(seen: Observation) -> str:
    return judge(seen, BUDGETS)[1][0].message


def test_a_good_image_passes_without_findings() -> None:
    assert judge(GOOD, BUDGETS) == (Verdict.PASSED, ())


def test_figures_are_those_that_were_seen() -> None:
    found = figures(GOOD)
    assert (found.cold_start_s, found.p50_ms, found.p99_ms, found.peak_memory_bytes) == (1.0, 1.0, 1.0, GIB)
    assert (found.requests, found.golden_rows, found.concurrency) == (120, 16, 8)


def test_figures_of_nothing_are_none() -> None:
    found = figures(Observation(FULL, waited_s=0))
    assert (found.cold_start_s, found.p50_ms, found.p99_ms, found.peak_memory_bytes, found.requests) == (None,) * 4 + (
        0,
    )


@pytest.mark.parametrize(
    "missing",
    [
        {"golden": None},
        {"golden": Answers()},
        {"concurrent": None},
        {"concurrent": Answers(clients=8)},
        {"concurrent": replace(RIGHT, clients=1)},
        {"timed": None},
        {"timed": replace(RIGHT, asked=41)},
        {"loaded": Answers()},
        {"pressed": Answers()},
        {"latency": None},
        {"latency": Latency((), 1)},
        {"latency": Latency((math.nan,), 1)},
        {"peak_memory_bytes": None},
        {"peak_memory_bytes": 0},
        {"golden_rows": 0},
        {"ready_after_s": math.nan},
    ],
)
def test_a_missing_figure_is_inconclusive(missing: dict[str, Any]) -> None:
    verdict, findings = judge(replace(GOOD, **missing), BUDGETS)
    assert verdict is not Verdict.PASSED
    assert {finding.code for finding in findings} & {"SMOKE_NO_FIGURE", "SMOKE_SLOW_START", "SMOKE_LATENCY"}


def test_slow_is_told_from_never() -> None:
    assert only(replace(GOOD, ready_after_s=3.01)) == ("SMOKE_SLOW_START", Verdict.FAILED)
    never = Observation(FULL, waited_s=30.0)
    assert only(never) == ("SMOKE_NOT_READY", Verdict.FAILED)
    assert "30.0 s" in message(never)


def test_exactly_the_budget_is_allowed() -> None:
    assert judge(replace(GOOD, ready_after_s=3.0, latency=Latency((50.0,), 1)), BUDGETS)[0] is Verdict.PASSED


@pytest.mark.parametrize("phase", list(Phase))
def test_out_of_memory_is_the_only_finding_whatever_else_broke(phase: Phase) -> None:
    killed = Exit(code=137, out_of_memory=True, last_line="")
    seen = replace(GOOD, exit=killed, last_phase=phase, golden=Answers(asked=3, broken=3), latency=None)
    assert only(seen) == ("SMOKE_OUT_OF_MEMORY", Verdict.FAILED)
    assert "4096 MiB" in message(seen)
    assert phase.value in message(seen)


def test_out_of_memory_with_less_than_the_type_has_blames_the_host() -> None:
    seen = replace(GOOD, limits=LESS_MEMORY, exit=Exit(code=137, out_of_memory=True, last_line=""))
    (finding, capped) = judge(seen, BUDGETS)[1]
    assert (finding.code, finding.verdict, finding.owner) == (
        "SMOKE_OUT_OF_MEMORY",
        Verdict.INCONCLUSIVE,
        Owner.PLATFORM,
    )
    assert capped.code == "SMOKE_MEMORY_CAPPED"


def test_exit_137_alone_is_not_out_of_memory() -> None:
    seen = replace(GOOD, exit=Exit(code=137, out_of_memory=False, last_line=""))
    assert only(seen) == ("SMOKE_CRASHED", Verdict.FAILED)
    assert "SIGKILL" in message(seen)


@pytest.mark.parametrize(
    ("code", "name"), [(139, "SIGSEGV"), (134, "SIGABRT"), (136, "SIGFPE"), (1, "exit code 1"), (0, "exit code 0")]
)
def test_a_crash_names_its_signal_and_last_line(code: int, name: str) -> None:
    seen = replace(GOOD, exit=replace(DEAD, code=code), last_phase=Phase.CONCURRENT)
    assert only(seen) == ("SMOKE_CRASHED", Verdict.FAILED)
    assert name in message(seen)
    assert "ValueError: no" in message(seen)
    assert "several clients" in message(seen)


@pytest.mark.parametrize(
    ("line", "library"),
    [
        (
            "Original error was: libstdc++.so.6: cannot open shared object file: No such file or directory",
            "libstdc++.so.6",
        ),
        ("OSError: libmkl_rt.so: cannot open shared object file: No such file or directory", "libmkl_rt.so"),
    ],
)
def test_a_library_that_is_not_there_is_named_and_the_platforms(line: str, library: str) -> None:
    died = replace(GOOD, ready_after_s=None, exit=replace(DEAD, last_line=line), last_phase=Phase.START)
    (finding,) = judge(died, BUDGETS)[1]
    assert (finding.code, finding.owner) == ("SMOKE_MISSING_LIBRARY", Owner.PLATFORM)
    assert finding.evidence["library"] == library
    assert f"{library} could not be loaded before it was ready" in finding.message


def test_a_signal_that_has_no_name_is_a_crash() -> None:
    assert only(replace(GOOD, exit=replace(DEAD, code=255))) == ("SMOKE_CRASHED", Verdict.FAILED)


def test_an_illegal_instruction_is_told_from_other_signals() -> None:
    assert only(replace(GOOD, exit=replace(DEAD, code=132))) == ("SMOKE_ILLEGAL_INSTRUCTION", Verdict.FAILED)


REFUSED = {
    Refusal.CONTRACT: ("SMOKE_REFUSED_CONTRACT", Owner.PLATFORM),
    Refusal.FILES: ("SMOKE_REFUSED_CONTRACT", Owner.PLATFORM),
    Refusal.VERSIONS: ("SMOKE_REFUSED_CONTRACT", Owner.PLATFORM),
    Refusal.MODEL: ("SMOKE_REFUSED_CONTRACT", Owner.PLATFORM),
    Refusal.ANSWERS: ("SMOKE_WRONG_ANSWER", Owner.PLATFORM),
    Refusal.ADDRESS: ("SMOKE_REFUSED_ADDRESS", Owner.PLATFORM),
    Refusal.SETTINGS: ("SMOKE_REFUSED_SETTINGS", Owner.PLATFORM),
    Refusal.PLATFORM: ("SMOKE_REFUSED_PLATFORM", Owner.PLATFORM),
    Refusal.INSTRUCTIONS: ("SMOKE_ILLEGAL_INSTRUCTION", Owner.PLATFORM),
    Refusal.MEMORY: ("SMOKE_OUT_OF_MEMORY", Owner.MODEL),
}


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refusal_has_its_code_and_owner_and_carries_the_servers_sentence(refusal: Refusal) -> None:
    ended = Exit(int(refusal), out_of_memory=False, last_line="model.onnx: expected sha256:aa, found sha256:bb")
    seen = Observation(FULL, waited_s=0.3, exit=ended)
    code, owner = REFUSED[refusal]
    assert only(seen) == (code, Verdict.FAILED)
    found = judge(seen, BUDGETS)[1][0]
    assert (found.owner, found.evidence["refusal"]) == (owner, refusal.name.lower())
    assert "found sha256:bb" in message(seen)


def test_a_refusal_for_memory_decides_nothing_where_the_host_had_less_than_the_type() -> None:
    ended = Exit(int(Refusal.MEMORY), out_of_memory=False, last_line="the model's weights take at least 3,000 MiB")
    seen = Observation(replace(FULL, memory_bytes=FULL.memory_bytes // 2), waited_s=0.3, exit=ended)
    assert codes(seen)[0] == ("SMOKE_OUT_OF_MEMORY", Verdict.INCONCLUSIVE)


def test_the_refusals_code_after_the_start_is_a_crash() -> None:
    seen = replace(GOOD, exit=replace(DEAD, code=int(Refusal.FILES)))
    assert only(seen) == ("SMOKE_CRASHED", Verdict.FAILED)


def test_wrong_answers_alone_and_at_once_are_told_apart() -> None:
    wrong = Answers(asked=40, right=39, wrong=1, first_wrong=Wrong(7, "output 'y' differs"), clients=8)
    assert only(replace(GOOD, concurrent=wrong)) == ("SMOKE_WRONG_ANSWER_CONCURRENT", Verdict.FAILED)
    assert only(replace(GOOD, golden=wrong)) == ("SMOKE_WRONG_ANSWER", Verdict.FAILED)
    assert only(replace(GOOD, timed=wrong)) == ("SMOKE_WRONG_ANSWER", Verdict.FAILED)
    assert only(replace(GOOD, golden=wrong, concurrent=wrong)) == ("SMOKE_WRONG_ANSWER", Verdict.FAILED)
    assert "batch 7" in message(replace(GOOD, golden=wrong))


def test_refused_requests_carry_the_status() -> None:
    refused = Answers(asked=5, right=4, refused=1, first_refused=Wrong(32, "status 400: too many rows"))
    assert only(replace(GOOD, golden=refused)) == ("SMOKE_REQUEST_REFUSED", Verdict.FAILED)
    assert "status 400" in message(replace(GOOD, golden=refused))


def test_a_hang_is_told_from_a_lost_connection() -> None:
    hung = Answers(asked=5, right=3, unanswered=2, first_failure="no answer within 10 s")
    lost = Answers(asked=5, right=3, broken=2, first_failure="the server closed the connection")
    assert only(replace(GOOD, golden=hung, concurrent=None)) == ("SMOKE_TIMEOUT", Verdict.FAILED)
    assert only(replace(GOOD, golden=lost, concurrent=None)) == ("SMOKE_CONNECTION_LOST", Verdict.FAILED)


def test_an_answer_that_is_wrong_under_load_only_has_a_code_of_its_own() -> None:
    wrong = Answers(asked=900, right=897, wrong=3, batches=(1,), first_wrong=Wrong(1, "y is 2, expected 1"))
    for seen in (replace(GOOD, loaded=wrong), replace(GOOD, loaded=RIGHT, pressed=wrong)):
        assert only(seen) == ("SMOKE_WRONG_ANSWER_LOAD", Verdict.FAILED)
        assert "y is 2, expected 1" in message(seen)
    assert only(replace(GOOD, concurrent=replace(wrong, clients=8), loaded=wrong)) == (
        "SMOKE_WRONG_ANSWER_CONCURRENT",
        Verdict.FAILED,
    )


def test_requests_that_wait_for_each_other_are_told_from_slow_ones() -> None:
    hung = Answers(asked=9, right=1, unanswered=8, clients=8, first_failure="no answer within 30 s")
    for seen in (replace(GOOD, concurrent=hung), replace(GOOD, loaded=hung), replace(GOOD, pressed=hung)):
        assert only(seen) == ("SMOKE_TIMEOUT", Verdict.FAILED)
        assert only(replace(seen, stands_still=True)) == ("SMOKE_DEADLOCK", Verdict.FAILED)
    # Alone, there is nobody to wait for.
    assert only(replace(GOOD, golden=hung, stands_still=True)) == ("SMOKE_TIMEOUT", Verdict.FAILED)


def test_death_under_load_says_when() -> None:
    killed = Exit(code=137, out_of_memory=True, last_line="")
    seen = replace(GOOD, loaded=RIGHT, pressed=Answers(asked=5, broken=5), exit=killed, last_phase=Phase.PEAK)
    assert only(seen) == ("SMOKE_OUT_OF_MEMORY", Verdict.FAILED)
    assert "under peak load" in message(seen)


def test_latency_over_its_budget_fails() -> None:
    slow = replace(GOOD, latency=Latency((1.0,) * 97 + (51.0,) * 3, 1))
    assert only(slow) == ("SMOKE_LATENCY", Verdict.FAILED)
    assert "51.0 ms" in message(slow)


def test_latency_with_fewer_cpus_than_the_type_is_not_held_against_the_image() -> None:
    verdict, findings = judge(replace(GOOD, limits=FEWER_CPUS, latency=Latency((51.0,), 1)), BUDGETS)
    assert verdict is Verdict.INCONCLUSIVE
    assert [finding.code for finding in findings] == ["SMOKE_LATENCY", "SMOKE_CPUS_CAPPED"]


def test_a_time_taken_while_others_had_the_cpus_is_inconclusive() -> None:
    for seen in (
        replace(GOOD, ready_after_s=3.01, start_disturbed=0.4),
        replace(GOOD, latency=Latency((51.0,), 1), latency_disturbed=0.4),
    ):
        assert only(seen)[1] is Verdict.INCONCLUSIVE
        assert "40%" in message(seen)
    assert only(replace(GOOD, ready_after_s=3.01, start_disturbed=0.1))[1] is Verdict.FAILED


def test_a_time_that_was_kept_in_spite_of_others_is_kept() -> None:
    assert judge(replace(GOOD, start_disturbed=0.9, latency_disturbed=0.9), BUDGETS) == (Verdict.PASSED, ())


def test_what_passes_with_less_than_the_type_has_passes_with_a_remark() -> None:
    for limits, code in ((FEWER_CPUS, "SMOKE_CPUS_CAPPED"), (LESS_MEMORY, "SMOKE_MEMORY_CAPPED")):
        seen = replace(GOOD, limits=limits)
        assert judge(seen, BUDGETS)[0] is Verdict.PASSED
        assert only(seen) == (code, Verdict.PASSED)


def tried(proof: Proof, ended: Exit | None = None) -> Observation:
    return replace(GOOD, instruction_sets=(InstructionSet("haswell", proof, exit=ended, reason="no emulator"),))


def test_an_instruction_set_that_ran_is_proven() -> None:
    assert codes(tried(Proof.NATIVE)) == []
    assert codes(tried(Proof.EMULATED, Exit(0, out_of_memory=False, last_line="ok"))) == []


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        (132, ("SMOKE_ILLEGAL_INSTRUCTION", Verdict.FAILED)),
        (Refusal.ANSWERS, ("SMOKE_WRONG_ANSWER", Verdict.FAILED)),
        (139, ("SMOKE_INSTRUCTION_SET_UNPROVEN", Verdict.INCONCLUSIVE)),
        (1, ("SMOKE_INSTRUCTION_SET_UNPROVEN", Verdict.INCONCLUSIVE)),
    ],
)
def test_emulation_tells_illegal_instructions_and_wrong_answers_from_its_own_failures(
    code: int, finding: tuple[str, Verdict]
) -> None:
    assert only(tried(Proof.EMULATED, Exit(code, out_of_memory=False, last_line="why"))) == finding


def emulated(code: int, **margins: Margin) -> InstructionSet:
    return InstructionSet("haswell", Proof.EMULATED, exit=Exit(code, False, "why"), margins=margins)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            134,
            "F cpu_feature_guard.cc:35] The TensorFlow library was compiled to use AVX instructions, but these aren't "
            "available on your machine.",
        ),
        (127, "Fatal glibc error: CPU does not support x86-64-v3"),
        (Refusal.MODEL, "libfast.so: CPU ISA level is lower than required"),
    ],
)
def test_a_library_that_refuses_the_processor_in_words_is_as_good_as_an_illegal_instruction(
    code: int, said: str
) -> None:
    tried = InstructionSet("nehalem", Proof.EMULATED, exit=Exit(code, False, said))
    (found,) = judge(replace(GOOD, instruction_sets=(tried,)), BUDGETS)[1]
    assert (found.code, found.verdict) == ("SMOKE_ILLEGAL_INSTRUCTION", Verdict.FAILED)
    assert "under the instruction set of nehalem a library in the image refuses to run" in found.message


def test_a_wrong_answer_under_emulation_names_the_level_and_the_worst_margin() -> None:
    tried = emulated(Refusal.ANSWERS, y=Margin(0.4, 42.0), z=Margin(3.0, 0.5))
    (found,) = judge(replace(GOOD, instruction_sets=(tried,)), BUDGETS)[1]
    assert "under the instruction set of haswell" in found.message
    assert found.message.endswith("over all golden samples 'y' is off by up to 0.4, 42 times its tolerance")
    assert (found.evidence["output"], found.evidence["difference"], found.evidence["of_allowed"]) == ("y", 0.4, 42.0)


def test_a_wrong_answer_where_nothing_may_differ_has_no_share_of_its_tolerance() -> None:
    tried = emulated(Refusal.ANSWERS, n=Margin(2.0, math.inf))
    (found,) = judge(replace(GOOD, instruction_sets=(tried,)), BUDGETS)[1]
    assert found.message.endswith("'n' is off by up to 2, where nothing may differ")
    assert "of_allowed" not in found.evidence


ILLEGAL = IllegalInstruction("/opt/lib.so", 0x1135, "twice", 12, "c4 e2 7d 58 c0", "vpbroadcastd ymm0,xmm0", ("avx2",))


def test_an_illegal_instruction_is_named_natively_and_under_emulation() -> None:
    tried = replace(emulated(132), illegal=ILLEGAL)
    died = replace(GOOD, exit=Exit(132, False, ""), illegal=ILLEGAL)
    for seen in (replace(GOOD, instruction_sets=(tried,)), died):
        (found,) = judge(seen, BUDGETS)[1]
        assert found.code == "SMOKE_ILLEGAL_INSTRUCTION"
        assert "`vpbroadcastd ymm0,xmm0` in twice+0xc of /opt/lib.so, offset 0x1135, which needs avx2" in found.message
        assert found.evidence["needs"] == "avx2"


@pytest.mark.parametrize(
    ("tried", "verdict"),
    [
        (InstructionSet("haswell", Proof.NATIVE), Verdict.PASSED),
        (emulated(0), Verdict.PASSED),
        (emulated(132), Verdict.FAILED),
        (emulated(Refusal.ANSWERS), Verdict.FAILED),
        (emulated(139), Verdict.INCONCLUSIVE),
        (InstructionSet("haswell", Proof.EMULATED), Verdict.INCONCLUSIVE),
        (InstructionSet("haswell", Proof.UNPROVEN), Verdict.INCONCLUSIVE),
    ],
)
def test_a_processor_passes_only_where_it_was_proven(tried: InstructionSet, verdict: Verdict) -> None:
    (proof,) = processors(replace(GOOD, instruction_sets=(tried,)))
    assert (proof.cpu, proof.proof, proof.verdict) == ("haswell", tried.proof.value, verdict)


def test_a_native_processor_fails_with_what_was_seen_on_it() -> None:
    native = (InstructionSet("haswell", Proof.NATIVE),)
    for flaw in ({"golden": replace(RIGHT, right=39, wrong=1)}, {"exit": DEAD}, {"golden": None, "concurrent": None}):
        (proof,) = processors(replace(GOOD, instruction_sets=native, timed=None, **flaw))
        assert proof.verdict is Verdict.FAILED


def test_margins_that_are_no_numbers_are_none_in_the_report() -> None:
    tried = emulated(Refusal.ANSWERS, n=Margin(math.inf, math.inf))
    (margin,) = processors(replace(GOOD, instruction_sets=(tried,)))[0].margins
    assert (margin.output, margin.difference, margin.of_allowed) == ("n", None, None)


def test_what_was_not_proven_is_inconclusive() -> None:
    for seen in (tried(Proof.UNPROVEN), tried(Proof.EMULATED, None), tried(Proof.MASKED, None)):
        assert only(seen) == ("SMOKE_INSTRUCTION_SET_UNPROVEN", Verdict.INCONCLUSIVE)
        assert judge(seen, BUDGETS)[0] is Verdict.INCONCLUSIVE
        assert "haswell was not proven" in message(seen)
        assert processors(seen)[0].note == message(seen)


def test_a_tool_that_cannot_hide_features_proves_nothing() -> None:
    said = "cpumask: CPUID does not trap here (arch_prctl): No such device"
    seen = tried(Proof.MASKED, Exit(CANNOT, out_of_memory=False, last_line=said))
    assert only(seen) == ("SMOKE_INSTRUCTION_SET_UNPROVEN", Verdict.INCONCLUSIVE)
    assert f"ended with exit code 125 with features hidden: {said}" in message(seen)


def test_what_a_mask_leaves_open_stands_beside_its_proof() -> None:
    hidden = ("avx512_bf16", "avx512_fp16")
    masked = InstructionSet("ice-lake-sp", Proof.MASKED, exit=Exit(0, False, ""), surplus=hidden)
    (proof,) = processors(replace(GOOD, instruction_sets=(masked,)))
    assert (proof.proof, proof.verdict) == ("masked", Verdict.PASSED)
    assert proof.note.startswith("avx512_bf16, avx512_fp16 were hidden from programs")
    assert processors(tried(Proof.NATIVE))[0].note == ""


def test_the_worst_finding_comes_first() -> None:
    seen = replace(tried(Proof.UNPROVEN), limits=FEWER_CPUS, ready_after_s=9.0)
    assert [verdict for _, verdict in codes(seen)] == [Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED]


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """Anything that could be seen, consistent or not."""
    count = st.integers(0, 3)

    def answers() -> Answers | None:
        if draw(st.booleans()):
            return None
        kinds = {kind: draw(count) for kind in ("right", "wrong", "refused", "unanswered", "broken")}
        note = Wrong(1, "x") if draw(st.booleans()) else None
        return Answers(
            asked=sum(kinds.values()), clients=draw(st.integers(1, 8)), first_wrong=note, first_refused=note, **kinds
        )

    figure = st.one_of(st.none(), st.floats(0, 100), st.just(math.nan), st.just(math.inf))
    times = tuple(value for value in draw(st.lists(figure, max_size=3)) if value is not None)
    return Observation(
        limits=draw(st.sampled_from([FULL, FEWER_CPUS, LESS_MEMORY])),
        waited_s=1.0,
        ready_after_s=draw(figure),
        golden=answers(),
        concurrent=answers(),
        timed=answers(),
        loaded=answers(),
        pressed=answers(),
        stands_still=draw(st.booleans()),
        latency=draw(st.sampled_from([None, Latency(times, 1)])),
        golden_rows=draw(count),
        peak_memory_bytes=draw(st.sampled_from([None, 0, GIB])),
        exit=draw(st.sampled_from([None, DEAD, Exit(0, out_of_memory=False, last_line="")])),
        last_phase=draw(st.sampled_from(list(Phase))),
    )


@given(observations())
def test_nothing_passes_unless_everything_was_seen_and_right(seen: Observation) -> None:
    verdict, findings = judge(seen, BUDGETS)
    if verdict is not Verdict.PASSED:
        assert any(finding.verdict is not Verdict.PASSED for finding in findings)
        return
    assert seen.exit is None
    assert seen.ready_after_s is not None
    assert seen.ready_after_s <= BUDGETS.cold_start_s
    for answers in (seen.golden, seen.concurrent):
        assert answers is not None
        assert answers.right > 0
    for answers in seen.phases.values():
        assert answers.asked == answers.right
    assert seen.latency is not None
    p99 = seen.latency.percentile(0.99)
    assert p99 is not None
    assert p99 <= BUDGETS.p99_ms
    assert seen.peak_memory_bytes


def test_every_single_flaw_blocks() -> None:
    flaws: list[dict[str, Any]] = [
        {"ready_after_s": 4.0},
        {"golden": replace(RIGHT, wrong=1)},
        {"concurrent": replace(RIGHT, clients=8, refused=1)},
        {"timed": replace(RIGHT, broken=1)},
        {"exit": DEAD},
        {"latency": Latency((60.0,), 1)},
    ]
    for first, second in itertools.product(flaws, flaws):
        assert judge(replace(GOOD, **{**first, **second}), BUDGETS)[0] is not Verdict.PASSED
