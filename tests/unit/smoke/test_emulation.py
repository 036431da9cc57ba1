"""What an image's self-test said, and how it ended, read from its container's logs."""

from __future__ import annotations

import pytest

from serving.golden import Margin
from tasks.image.engine import ContainerState
from tasks.smoke.emulation import as_exit, margins_said


def ended(logs: str, code: int = 134) -> str:
    state = ContainerState("x", running=False, exit_code=code, oom_killed=False, error="", started_at=1, finished_at=2)
    return as_exit(state, logs).last_line


def test_the_last_line_is_the_servers_sentence() -> None:
    assert ended('starting\n{"event":"refused","error":"model.onnx is missing"}\n') == "model.onnx is missing"
    assert ended("ValueError: no\n\n") == "ValueError: no"
    assert ended("") == ""


def test_what_the_emulator_says_of_a_signal_is_not_the_programs_last_word() -> None:
    logs = "F guard.cc] compiled to use AVX instructions\nqemu: uncaught target signal 6 (Aborted) - core dumped\n"
    assert ended(logs) == "F guard.cc] compiled to use AVX instructions"


def test_margins_are_read_from_the_self_tests_document() -> None:
    outputs = '[{"output":"y","difference":0.5,"of_allowed":2},{"output":"n","difference":1,"of_allowed":null}]'
    found = margins_said(f'a warning\n{{"passed":false,"outputs":{outputs}}}\n{{"event":"refused"}}')
    assert found == {"y": Margin(0.5, 2.0), "n": Margin(1.0, float("inf"))}


@pytest.mark.parametrize("logs", ["", "Traceback", "[]", '{"passed":true}', '{"outputs":3}', '{"outputs":[{}]}'])
def test_a_self_test_that_says_no_margins_has_none(logs: str) -> None:
    assert margins_said(logs) == {}
