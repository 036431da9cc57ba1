"""What a server is told: what makes sense is taken, all else is refused in a sentence that names where it stood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from serving.contract import CONTRACT_FILE, Batching
from serving.package import Refusal, Refused
from serving.settings import ALL, BATCH_WINDOW_MS, GRACE_S, PORT, Given, read_batching, read_ports
from tests.unit.serving.observed import served

NOTHING: Given = {setting.option.replace("-", "_"): None for setting in ALL}
CPUS = os.cpu_count() or 1


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """As much of a package as settings are held against: at most 32 rows at once."""
    (tmp_path / CONTRACT_FILE).write_bytes(msgspec.json.encode(served().contract))
    return tmp_path


def test_an_option_comes_before_the_variable_and_an_empty_variable_says_nothing() -> None:
    assert PORT.read(NOTHING, {}) is None
    assert PORT.read(NOTHING, {"SERVING_PORT": ""}) is None
    assert PORT.read(NOTHING, {"SERVING_PORT": "65535"}) == 65535
    assert PORT.read({**NOTHING, "port": "1"}, {"SERVING_PORT": "abc"}) == 1
    assert BATCH_WINDOW_MS.read(NOTHING, {"SERVING_BATCH_WINDOW_MS": "1.5"}) == 1.5
    assert GRACE_S.read(NOTHING, {"SERVING_GRACE_S": "0"}) == 0


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("SERVING_PORT", "abc", "a whole number from 1 to 65535, found 'abc'"),
        ("SERVING_PORT", "99999", "a whole number from 1 to 65535, found '99999'"),
        ("SERVING_PORT", "0", "a whole number from 1 to 65535, found '0'"),
        ("SERVING_GRPC_PORT", "-1", "a whole number from 0 to 65535, found '-1'"),
        ("SERVING_THREADS", "0", "a whole number of at least 1, found '0'"),
        ("SERVING_WORKERS", "-1", "a whole number of at least 1, found '-1'"),
        ("SERVING_QUEUE_ROWS", "1.5", "a whole number of at least 1, found '1.5'"),
        ("SERVING_BATCH_WINDOW_MS", "x", "a number of at least 0, found 'x'"),
        ("SERVING_BATCH_WINDOW_MS", "nan", "a number of at least 0, found 'nan'"),
        ("SERVING_GRACE_S", "inf", "a number of at least 0, found 'inf'"),
        ("SERVING_GRACE_S", "-1", "a number of at least 0, found '-1'"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named_with_what_was_expected(
    variable: str, text: str, expected: str
) -> None:
    [setting] = [each for each in ALL if each.variable == variable]
    with pytest.raises(Refused) as caught:
        setting.read(NOTHING, {variable: text})
    assert caught.value.refusal is Refusal.SETTINGS
    assert str(caught.value) == f"{variable}: expected {expected}"


def test_the_two_ports_are_two() -> None:
    assert read_ports(NOTHING, {}) == (8000, 8001)
    assert read_ports(NOTHING, {"SERVING_PORT": "8001", "SERVING_GRPC_PORT": "0"}) == (8001, None)
    with pytest.raises(Refused, match=r"^SERVING_PORT and SERVING_GRPC_PORT are both 8001: "):
        read_ports(NOTHING, {"SERVING_PORT": "8001"})


def test_a_batch_larger_than_was_proven_is_refused_and_not_made_smaller_in_silence(package: Path) -> None:
    assert read_batching(package, NOTHING, {"SERVING_BATCH_ROWS": "32"}).batch_rows == 32
    with pytest.raises(
        Refused, match=r"^SERVING_BATCH_ROWS: expected a whole number from 1 to 32 \(the package's max_ba"
    ):
        read_batching(package, NOTHING, {"SERVING_BATCH_ROWS": "33"})


def test_more_threads_than_could_be_of_use_are_refused(package: Path) -> None:
    assert read_batching(package, {**NOTHING, "threads": str(4 * CPUS)}, {}).threads == 4 * CPUS
    with pytest.raises(
        Refused, match=rf"^--threads: expected a whole number from 1 to {4 * CPUS} \(4 for each of this"
    ):
        read_batching(package, {**NOTHING, "threads": str(4 * CPUS + 1)}, {})


def test_as_many_threads_as_the_package_asks_for_are_not_refused(tmp_path: Path) -> None:
    contract = served(batching=Batching(threads=1000)).contract
    (tmp_path / CONTRACT_FILE).write_bytes(msgspec.json.encode(contract))
    assert read_batching(tmp_path, NOTHING, {"SERVING_THREADS": "1000"}).threads == 1000


def test_who_says_nothing_needs_no_package() -> None:
    assert read_batching(Path("nowhere"), NOTHING, {}) == Batching()


def image(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


@pytest.mark.parametrize("how", [("--port", "99999"), ()])
def test_a_port_that_there_is_not_is_a_refusal_of_its_own(how: tuple[str, ...]) -> None:
    done = image("--package", "nowhere", *how, **({} if how else {"SERVING_PORT": "99999"}))
    line = json.loads(done.stderr.splitlines()[-1])
    assert done.returncode == Refusal.SETTINGS == 73
    assert (line["event"], line["refusal"]) == ("refused", "settings")
    assert line["error"].startswith("--port:" if how else "SERVING_PORT:")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("bogus",), "there is no command 'bogus': expected serve, contract, selftest, score"),
        (("contract", "extra"), "unrecognized arguments: extra"),
        (("--threads", "2", "score"), "score comes before its options"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence_and_exit_code_2(arguments: tuple[str, ...], expected: str) -> None:
    done = image(*arguments)
    [sentence] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in sentence
