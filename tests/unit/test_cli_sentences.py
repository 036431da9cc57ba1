"""What the command line says where it could not do what was asked: one sentence, with an end."""

from __future__ import annotations

import pytest

from tasks.cli import run
from tasks.cli.entry import explained


def test_an_argument_out_of_range_is_one_sentence_and_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "slipway/m:onnx-1", "rows.csv", "answers.csv", "--batch-rows", "0"]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.endswith("1. Try `slipway --help`.")


def test_an_unknown_option_ends_in_one_full_stop(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--no-such-option"]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.endswith("--no-such-option. Try `slipway --help`.")


def test_a_failure_of_slipways_own_is_one_line_too() -> None:
    kind, message, code = explained(ZeroDivisionError("first\n  second\n"))
    assert (kind, code, len(message.splitlines())) == ("InternalError", 3, 1)
    assert "(ZeroDivisionError: first second)" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smoke", "digits", "--instance-type", ""], "--instance-type: is empty"),
        (["smoke", "digits", "--instance-type="], "--instance-type: is empty"),
        (["smoke", "digits", "--instance-type", ","], "--instance-type ',': expected names by comma"),
        (["package", "model.yaml", "--formats", ""], "--formats: is empty"),
        (["package", "model.yaml", "--instance-types", " "], "--instance-types: is empty"),
        (["bundle", "digits", "--out", "x", "--format", ""], "--format: is empty"),
        (["tune", ""], "an argument is empty"),
    ],
)
def test_an_empty_value_is_not_taken_for_none(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["matrix", "digits"], ["smoke", "digits"], ["status"]])
def test_a_store_that_cannot_be_is_said_and_not_taken_for_an_empty_one(
    command: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", "/proc/nope")
    monkeypatch.delenv("SLIPWAY_STORE", raising=False)
    assert run(command) == 3
    assert "cannot be made: no folder can be made in /proc" in capfd.readouterr().err
