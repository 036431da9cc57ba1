"""From what was seen to findings: each fault by its own name, and nothing said twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from serving.contract import DimRange, DType, Signature, TensorSpec
from tasks.contracts import Verdict
from tasks.parity.compare import Allowance, compare
from tasks.parity.exported import AskedExport, Ended
from tasks.parity.inputs import Batch, Part, Pool
from tasks.parity.judge import output_findings
from tasks.parity.judge_running import run_findings, structure_findings, unasked_findings
from tasks.parity.outcomes import Outcome
from tasks.parity.structure import Port, Structure

Y = TensorSpec("y", DType.FLOAT32, ("batch",))
SIGNATURE = Signature((TensorSpec("x", DType.FLOAT32, ("batch", "length")),), (Y,), {"batch": DimRange(1, 8)})
ALLOWED = Allowance(np.array(1e-6), 0.0)
RIGHT = np.arange(8, dtype=np.float32)
POOL = Pool("evaluation", {"length": 5}, {}, 8)


def outcome(size: int, answer: Any = None, part: Part = Part.SIZE, error: str | None = None, **more: Any) -> Outcome:
    batch = Batch(0, 0, size, size, part)
    rows = batch.rows(8)
    if error is not None:
        return Outcome(batch, more.get("pool", POOL), rows, error=error)
    given = RIGHT[rows] if answer is None else np.asarray(answer, dtype=np.float32)
    against = {"y": compare(RIGHT[rows], given, Y, ALLOWED)}
    itself = {"y": compare(np.asarray(more["before"], dtype=np.float32), given, Y, ALLOWED)} if "before" in more else {}
    return Outcome(batch, POOL, rows, None, against, itself, more.get("looks_like", {}))


def answered(**changes: Any) -> AskedExport:
    values: dict[str, Any] = {"folder": Path("/nowhere"), "structure": None, "load_error": None, "ended": None}
    return AskedExport(**{**values, **changes})


def found(*outcomes: Outcome, export: AskedExport | None = None) -> list[str]:
    running = run_findings(export or answered(), [each.batch for each in outcomes], outcomes, SIGNATURE)
    return [finding.code for finding in running + output_findings(outcomes, SIGNATURE)]


def test_right_answers_find_nothing() -> None:
    assert found(outcome(1), outcome(8, part=Part.WHOLE), outcome(8, part=Part.AGAIN, before=RIGHT)) == []


def test_sizes_that_fail_beside_sizes_that_work_are_a_frozen_batch() -> None:
    assert found(outcome(1), outcome(2, error="no"), outcome(8, error="no")) == ["PARITY_BATCH_FROZEN"]


def test_a_size_that_fails_only_sometimes_is_no_frozen_batch() -> None:
    assert found(outcome(2), outcome(2, error="bad value"), outcome(8)) == ["PARITY_RUNTIME_ERROR"]


def test_a_length_at_which_everything_fails_is_a_frozen_length() -> None:
    long = Pool("random length=9", {"length": 9}, {}, 8)
    rows = np.arange(1)
    failed = Outcome(Batch(1, 0, 1, 1, Part.WHOLE), long, rows, error="no")
    assert found(outcome(1), outcome(2), failed) == ["PARITY_LENGTH_FROZEN"]


def test_a_dimension_that_only_the_file_declares_frozen_is_frozen() -> None:
    structure = Structure(inputs=(Port(name="x", sizes=(None, 5)),), outputs=(Port(name="y"),))
    assert found(outcome(1), outcome(2), export=answered(structure=structure)) == ["PARITY_LENGTH_FROZEN"]


def test_a_crash_says_how_and_during_what() -> None:
    ended = Ended("was killed by SIGSEGV", 1, "Fatal error")
    plan = [outcome(1).batch, outcome(7).batch]
    (finding,) = run_findings(answered(ended=ended), plan, [outcome(1)], SIGNATURE)
    assert finding.code == "PARITY_RUNTIME_CRASH"
    assert finding.message == "the process that ran the export was killed by SIGSEGV, asked for 7 rows"


def test_a_hang_is_not_a_crash() -> None:
    ended = Ended("did not answer within 600 s and was stopped", None, "", hung=True)
    (finding,) = run_findings(answered(ended=ended), [], [], SIGNATURE)
    assert finding.code == "PARITY_RUNTIME_HUNG"
    assert "while it loaded the file" in finding.message


def test_batches_without_an_answer_are_never_a_pass() -> None:
    (finding,) = unasked_findings(answered(), [outcome(1).batch], [])
    assert (finding.code, finding.verdict) == ("PARITY_INCOMPLETE", Verdict.INCONCLUSIVE)


def test_an_answer_that_changes_when_asked_again_is_not_deterministic_and_nothing_else() -> None:
    again = outcome(2, [0.0, 1.5], Part.AGAIN, before=[0.0, 1.0])
    assert found(outcome(2), again) == ["PARITY_NOT_DETERMINISTIC"]


def test_an_answer_that_changes_with_the_batch_depends_on_it_and_singles_that_are_right_say_no_more() -> None:
    dependent = outcome(2, [0.0, 1.5], before=[0.0, 1.0])
    assert found(outcome(1), dependent) == ["PARITY_BATCH_DEPENDENT"]


def test_singles_that_are_wrong_as_well_differ_for_themselves() -> None:
    wrong, dependent = outcome(1, [9.0]), outcome(2, [0.0, 1.5], before=[9.0, 1.0])
    assert found(wrong, dependent) == ["PARITY_BATCH_DEPENDENT", "PARITY_TENSOR_DIFFERS"]


def test_a_swap_is_said_once_and_not_as_a_difference() -> None:
    assert found(outcome(2, [5.0, 6.0], looks_like={"y": "z"})) == ["PARITY_OUTPUT_SWAPPED"]


def test_what_looks_like_another_output_only_sometimes_is_no_swap() -> None:
    assert found(outcome(2, [5.0, 6.0], looks_like={"y": "z"}), outcome(1, [7.0])) == ["PARITY_TENSOR_DIFFERS"]


def test_every_finding_carries_figures_that_json_can() -> None:
    import json

    infinite = output_findings([outcome(2, [0.0, np.inf]), outcome(1, [3e38])], SIGNATURE)
    for finding in infinite:
        json.dumps(finding.model_dump(mode="json"), allow_nan=False)


def test_names_are_compared_as_sets_where_the_file_has_no_order() -> None:
    two = Signature(SIGNATURE.inputs, (Y, TensorSpec("z", DType.FLOAT32, ("batch",))), SIGNATURE.dynamic)
    ports = (Port(name="z"), Port(name="y"))
    unordered = Structure(inputs=(Port(name="x"),), outputs=ports, ordered=False)
    ordered = Structure(inputs=(Port(name="x"),), outputs=ports)
    assert structure_findings(unordered, two) == []
    (finding,) = structure_findings(ordered, two)
    assert (finding.code, finding.verdict) == ("PARITY_OUTPUT_ORDER", Verdict.PASSED)


def test_a_format_without_names_is_counted() -> None:
    structure = Structure(inputs=(Port(name=None),), outputs=(Port(name=None), Port(name=None)))
    assert [finding.code for finding in structure_findings(structure, SIGNATURE)] == ["PARITY_OUTPUT_EXTRA"]


def test_an_input_of_another_dtype_rank_or_fixed_size_is_named_as_such() -> None:
    def code(**port: Any) -> list[str]:
        structure = Structure(inputs=(Port(**port),), outputs=(Port(name="y"),))
        return [finding.code for finding in structure_findings(structure, SIGNATURE)]

    x = SIGNATURE.inputs[0]
    free = tuple(None for _ in x.shape)
    assert code(name="x", dtype=x.dtype.value, sizes=free) == []
    assert code(name="x", dtype="float16", sizes=free) == ["PARITY_INPUT_DTYPE"]
    assert code(name=None, dtype="float16") != []  # by place, where the format has no names
    assert code(name="x", sizes=(*free, None)) == ["PARITY_INPUT_SHAPE"]


def test_why_nothing_ran_is_said_once_where_the_names_explain_it_and_not_lost_behind_a_remark() -> None:
    two = Signature(SIGNATURE.inputs, (Y, TensorSpec("z", DType.FLOAT32, ("batch",))), SIGNATURE.dynamic)
    structure = Structure(inputs=(Port(name="x"),), outputs=(Port(name="z"), Port(name="y")))
    remark = structure_findings(structure, two)
    missing = structure_findings(structure.model_copy(update={"inputs": ()}), two)
    refused = answered(load_error="an operator that it does not know")
    assert [finding.code for finding in run_findings(refused, [], [], two, remark)] == ["PARITY_RUNTIME_ERROR"]
    assert run_findings(refused, [], [], two, missing) == []
    assert run_findings(answered(), [outcome(1).batch], [outcome(1, error="no")], two, missing) == []


def test_an_output_that_the_file_declares_with_a_fixed_size_is_frozen() -> None:
    structure = Structure(inputs=(Port(name="x"),), outputs=(Port(name="y", sizes=(1,)),))
    assert found(outcome(1), outcome(2), export=answered(structure=structure)) == ["PARITY_BATCH_FROZEN"]
