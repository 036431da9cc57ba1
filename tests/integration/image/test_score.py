"""Files through a real container: `slipway score`, and the image's own `score` on a mounted folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.contract import PredictionLog, ServingContract
from tasks.cli import run as slipway
from tasks.contracts import Image
from tasks.spec import PredictionLogSpec
from tests.integration.image.conftest import Case
from tests.integration.tiny import IN, answer_raw, raw_samples

pytestmark = pytest.mark.docker

SLIPWAY = Path(sys.executable).with_name("slipway")


@pytest.fixture(scope="module")
def image(case: Callable[[str], Case]) -> Image:
    """A package that asks for a record of its predictions."""
    given = case("onnx")
    serving = given.spec.serving.model_copy(update={"prediction_log": PredictionLogSpec(sample=0.5, hash=("x",))})
    return replace(given, spec=given.spec.model_copy(update={"serving": serving})).build()


def slipway_score(image: str, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [SLIPWAY, "score", image, source, target]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def containers() -> str:
    return subprocess.check_output(["docker", "ps", "--all", "--quiet", "--filter", "name=slipway-score"], text=True)


def test_a_parquet_file_is_scored_into_another(image: Image, tmp_path: Path) -> None:
    raw = raw_samples(1000)
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"id": range(1000), "x": pa.array(raw.tolist(), pa.list_(pa.uint8()))}), source)
    source.chmod(0o600)  # the container's user could not read it
    done = slipway_score(image.reference, source, target)
    assert done.returncode == 0, done.stderr
    assert "1000 rows" in done.stdout
    table, expected = pq.read_table(target), answer_raw(raw)
    assert np.array_equal(np.array(table["y"].to_pylist(), np.float32), expected["y"])
    assert np.array_equal(table["n"].to_numpy(), expected["n"])


def test_a_value_that_does_not_fit_is_named_and_nothing_is_left(image: Image, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    header = ",".join(f"x[{column}]" for column in range(IN))
    source.write_text(f"{header}\n" + "1,2,3,4,5,6\n" * 200 + "1,2,3,4,five,6\n")
    done = slipway_score(image.reference, source, tmp_path / "out.npz")
    assert done.returncode == 2
    assert "row 201, column x[4]: expected a whole number (uint8), found 'five'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert not containers()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("nosuchimage:1", "the engine has no image nosuchimage:1: `slipway status` lists what was packaged"),
        ("bad name", "'bad name' is no name of an image"),
    ],
)
def test_an_image_that_is_not_there_is_said_and_not_pulled(
    tmp_path: Path, image: str, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").touch()
    assert slipway(["score", image, str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 2
    [sentence] = capfd.readouterr().err.splitlines()
    assert expected in sentence


def test_pipes_take_rows_and_give_answers_alone(image: Image) -> None:
    raw = raw_samples(20)
    lines = [",".join(f"x[{column}]" for column in range(IN)), *(",".join(map(str, row)) for row in raw.tolist())]
    command = [SLIPWAY, "score", image.reference, "-", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.split()
    assert header == "y[0],y[1],y[2],n"
    assert np.array_equal([float(row.split(",")[0]) for row in rows], answer_raw(raw)["y"][:, 0])
    assert "20 rows by " in done.stderr


def test_no_rows_are_answered_by_a_header(image: Image, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=raw_samples(1)[:0])
    done = slipway_score(image.reference, tmp_path / "in.npz", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.csv").read_text() == "y[0],y[1],y[2],n\n"


def test_ctrl_c_removes_the_container_and_leaves_no_output(image: Image, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    os.mkfifo(source)
    process = subprocess.Popen([SLIPWAY, "score", image.reference, source, tmp_path / "out.csv"])
    try:
        with source.open("w") as rows:
            rows.write(",".join(f"x[{column}]" for column in range(IN)) + "\n" + "1,2,3,4,5,6\n" * 60_000)
            rows.flush()
            assert containers()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert not containers()


def test_the_image_scores_a_mounted_folder_as_the_user_who_owns_it(image: Image, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=raw_samples(50))
    owner = f"{os.getuid()}:{os.getgid()}"
    command = ["docker", "run", "--rm", "--read-only", "--network", "none", "--user", owner, "--volume"]
    command += [f"{tmp_path}:/data", image.reference, "score", "/data/in.npz", "/data/out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert np.array_equal(found["y"], answer_raw(raw_samples(50))["y"])
    done = subprocess.run([*command[:-1], "/data/out.parquet"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "`slipway score IMAGE INPUT OUTPUT` on the host converts it" in done.stderr


def test_the_image_has_what_a_scrape_needs(image: Image) -> None:
    code = "from serving.metrics.exposition import Page, choose_encoder; print(Page.__name__)"
    command = ["docker", "run", "--rm", "--read-only", "--entrypoint", "python3.11", image.reference, "-c", code]
    assert subprocess.check_output(command, text=True) == "Page\n"


def test_the_packages_wish_to_record_predictions_is_in_its_contract(image: Image) -> None:
    said = subprocess.check_output(["docker", "run", "--rm", image.reference, "contract"])
    contract = msgspec.json.decode(said, type=ServingContract)
    assert contract.prediction_log == PredictionLog(sample=0.5, max_mb=256, hash=("x",))
