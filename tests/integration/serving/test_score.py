"""`python -m serving score` as a process: files, pipes, exit codes, and what an interruption leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.package import Refusal
from tests.integration.tiny import IN, TinyModel, answer_raw, raw_samples

HEADER = ",".join(f"x[{column}]" for column in range(IN))


@pytest.fixture(scope="module")
def package(tiny: Callable[[str], TinyModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("onnx").package(tmp_path_factory.mktemp("score") / "package")


def started(package: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "serving", "score", "--package", package, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)


def score(package: Path, *arguments: str | Path, given: bytes = b"") -> tuple[int, bytes, str]:
    out, err = (process := started(package, *arguments)).communicate(given, timeout=60)
    return process.returncode, out, err.decode()


def test_a_table_goes_in_and_comes_out_through_pipes(package: Path) -> None:
    raw = raw_samples(100)
    lines = [HEADER, *(",".join(map(str, row)) for row in raw.tolist())]
    code, out, said = score(package, "-", "-", given="\n".join(lines).encode())
    assert code == 0, said
    header, *rows = out.decode().split()
    assert header == "y[0],y[1],y[2],n"
    found = np.array([[float(cell) for cell in row.split(",")] for row in rows])
    expected = answer_raw(raw)
    assert np.array_equal(found, np.column_stack([expected["y"], expected["n"]]))
    assert said.startswith("100 rows in ")


def test_a_header_alone_is_answered_by_a_header(package: Path) -> None:
    assert score(package, "-", "-", given=f"{HEADER}\n".encode())[:2] == (0, b"y[0],y[1],y[2],n\n")


def test_the_file_of_the_rows_is_not_replaced(package: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=raw_samples(3))
    before = (tmp_path / "rows.npz").read_bytes()
    code, _, said = score(package, tmp_path / "rows.npz", tmp_path / "rows.npz")
    assert code == 2
    assert "which answers must not replace" in said
    assert (tmp_path / "rows.npz").read_bytes() == before


def test_arguments_that_do_not_fit_are_one_sentence(package: Path) -> None:
    code, _, said = score(package, "-", "-", "--batch-rows", "many")
    assert code == 2
    [sentence] = said.splitlines()
    assert "--batch-rows: expected a whole number of at least 1, found 'many'" in sentence


def test_a_row_that_does_not_fit_ends_it_with_code_2_and_without_output(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"{HEADER}\n1,2,3,4,5,6\n1,2,300,4,5,6\n")
    code, _, said = score(package, tmp_path / "in.csv", tmp_path / "out.npz")
    assert code == 2
    assert "row 2, column x[2]: expected a whole number (uint8), found '300'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_package_that_does_not_hold_is_refused_as_by_the_server(
    tiny: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    package = tiny("onnx").package(tmp_path / "package")
    (package / "golden.npz").write_bytes(b"changed")
    code, _, said = score(package, "-", "-")
    assert code == Refusal.FILES
    assert "golden.npz" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_the_folder_as_it_was(package: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "out.csv").write_text("before")
    os.mkfifo(tmp_path / "in.csv")
    process = started(package, "--batch-rows", "1", tmp_path / "in.csv", tmp_path / "out.csv")
    try:
        with (tmp_path / "in.csv").open("w") as rows:  # opens once it is read: scoring has begun
            rows.write(f"{HEADER}\n" + "1,2,3,4,5,6\n" * 3000)
            rows.flush()
            process.send_signal(number)
            assert process.wait(30) == 128 + number
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "out.csv").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}
