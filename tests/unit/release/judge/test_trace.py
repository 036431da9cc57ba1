"""What a release was judged by, as a file, and judged again from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.cli import run
from tasks.errors import BadInput
from tasks.release.contracts import Plan, TraceHead
from tasks.release.controller.trace import Trace as Written
from tasks.release.judge import Judge, read, replay
from tests.unit.release.judge.traffic import SHADOW, Behaviour, Released, Traffic, release, with_plan, worse

#: Short, so that a whole release is a few dozen looks.
SHORT = with_plan(bake_s=5, extend_s=20, min_requests=50)


def written(path: Path, done: Released, plan: Plan = SHORT) -> Path:
    """As the controller writes it."""
    trace = Written(path, TraceHead(plan=plan, shadow=SHADOW), Judge(plan, SHADOW))
    for sample in done.samples:
        trace.add(sample)
    return path


@pytest.fixture
def promoted(tmp_path: Path) -> Path:
    done = release(Traffic(Behaviour(errors=0), Behaviour(errors=0), per_s=2000), SHORT)
    assert done.promoted
    return written(tmp_path / "TRACE.jsonl", done)


def test_a_trace_gives_the_judgements_that_were_made(tmp_path: Path) -> None:
    done = release(Traffic(Behaviour(), worse(errors=0.1)), SHORT)
    assert tuple(replay(read(written(tmp_path / "t.jsonl", done)))) == done.judgements


def test_a_promotion_is_exit_code_0(promoted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["judge", str(promoted)]) == 0
    assert "promoted: nothing speaks against it" in capfd.readouterr().out


def test_a_rollback_is_exit_code_1_with_its_finding(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "t.jsonl", release(Traffic(Behaviour(), worse(errors=1)), SHORT))
    assert run(["judge", str(path), "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert document["promoted"] is False
    assert document["judgements"][-1]["findings"][0]["code"] == "RELEASE_ERRORS"


def test_a_release_that_stopped_half_way_is_no_promotion(promoted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = promoted.read_text().splitlines(keepends=True)
    promoted.write_text("".join(lines[: len(lines) // 2]))
    assert run(["judge", str(promoted)]) == 1
    assert "not promoted" in capfd.readouterr().out


def test_a_step_that_was_taken_without_the_judge_is_no_promotion(promoted: Path) -> None:
    head, *looks = promoted.read_text().splitlines(keepends=True)
    promoted.write_text(head + "".join(line for line in looks if json.loads(line)["step"] != 2))
    assert run(["judge", str(promoted)]) == 1


@pytest.mark.parametrize(
    ("line", "rubbish", "said"),
    [
        (1, '{"plan": {}}', "expected the plan and the shadow report: plan.steps: Field required"),
        (2, "not json", "expected a look at both versions: Invalid JSON"),
        (3, '{"at": 1, "step": 9, "weight": 1, "stable": null, "canary": null}', "the plan has 5 steps"),
        (3, '{"at": 1, "step": 0, "weight": 101, "stable": null, "canary": null}', "weight: Input should be less"),
        (4, "", "expected a look at both versions"),
    ],
)
def test_rubbish_is_refused_with_file_and_line(
    promoted: Path, capfd: pytest.CaptureFixture[str], line: int, rubbish: str, said: str
) -> None:
    lines = promoted.read_text().splitlines()
    lines[line - 1] = rubbish
    promoted.write_text("\n".join(lines) + "\n")
    assert run(["judge", str(promoted)]) == 2
    [sentence] = capfd.readouterr().err.splitlines()
    assert f"{promoted}:{line}: " in sentence
    assert said in sentence


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read as a trace"):
        read(tmp_path / "none.jsonl")


def test_a_line_that_a_dying_process_left_is_left_out(promoted: Path) -> None:
    whole = read(promoted)
    with promoted.open("a") as file:
        file.write('{"at": 12')
    assert read(promoted) == whole
