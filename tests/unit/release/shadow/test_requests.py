"""Which requests are replayed: all evaluation rows, recorded requests that are whole, batches of all sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import DimRange, DType, Signature, TensorSpec
from serving.tensor_record import pack
from tasks.release.shadow.requests import MOST_ROWS, Origin, Request, Sizes, Table, distinct, logged, plan

SIZES = Sizes((1, 2, 3, 7, 16), 16)
RAW = Signature(
    inputs=(TensorSpec("x", DType.FLOAT64, ("batch",)),),
    outputs=(TensorSpec("y", DType.FLOAT64, ("batch",)),),
    dynamic={"batch": DimRange(1, 16)},
)


def table(rows: int, origin: Origin = Origin.EVALUATION) -> Table:
    return Table(origin, {"x": np.arange(rows, dtype=np.float64)}, rows)


@given(rows=st.integers(1, 3000), asked=st.integers(1, 1500), golden=st.integers(0, 16))
def test_every_row_is_asked_and_at_least_as_many_requests_as_wanted(rows: int, asked: int, golden: int) -> None:
    samples = [table(golden, Origin.GOLDEN)] if golden else []
    found = plan(asked, SIZES, samples, (), table(rows))
    assert len(found) >= asked
    evaluated = [request for request in found if request.table.origin is Origin.EVALUATION]
    assert {place for request in evaluated for place in request.places} == set(range(rows))
    assert {request.rows for request in found} <= {*SIZES.sizes, *range(1, 16)}


def test_single_rows_and_batches_of_every_size_are_among_them() -> None:
    found = plan(1000, SIZES, [], (), table(500))
    sizes = [request.rows for request in found]
    assert set(sizes) >= set(SIZES.sizes)
    assert sizes.count(1) > 700


def test_few_rows_are_repeated_and_counted_once() -> None:
    found = plan(1000, Sizes((1,), 1), [], (), table(10))
    assert (len(found), distinct(found)) == (1000, 10)


def test_of_a_million_rows_some_are_asked_that_lie_evenly_apart() -> None:
    found = plan(1000, SIZES, [], (), table(1_000_000))
    places = {place for request in found for place in request.places}
    assert MOST_ROWS <= len(places) <= MOST_ROWS + 16
    assert {0, 999_999} <= places


def test_a_fixed_number_of_rows_is_kept() -> None:
    found = plan(1000, Sizes((4,), 4), [table(4, Origin.GOLDEN)], (), table(10))
    assert {request.rows for request in found} == {4}


def test_without_evaluation_rows_golden_samples_are_repeated() -> None:
    found = plan(1000, SIZES, [table(16, Origin.GOLDEN)])
    assert len(found) == 1000
    assert {request.table.origin for request in found} == {Origin.GOLDEN}


def test_without_any_rows_recorded_requests_are_repeated() -> None:
    recorded = [Request(f"r{place}", table(1, Origin.LOG)) for place in range(7)]
    found = plan(1000, SIZES, (), recorded)
    assert (len(found), distinct(found)) == (1000, 7)


def test_of_nothing_there_is_nothing_to_ask() -> None:
    assert plan(1000, SIZES) == ()


# --- prediction logs ----------------------------------------------------------------------------------------------


def record(identity: str, value: float = 1.0, **changes: Any) -> bytes:
    one = np.array([value])
    values: Mapping[str, Any] = {
        "id": identity,
        "time": 1.0,
        "model": "m",
        "version": "1",
        "package": "sha256:this",
        "inputs": {"x": pack(one)},
        "outputs": {"y": pack(2 * one)},
    }
    return msgspec.json.encode({**values, **changes}) + b"\n"


def write(folder: Path, *lines: bytes) -> Path:
    (folder / "predictions-1.jsonl").write_bytes(b"".join(lines))
    return folder


def test_the_newest_whole_requests_of_the_model_are_taken_with_what_the_old_version_answered(tmp_path: Path) -> None:
    lines = [record(f"r{place}", float(place)) for place in range(5)]
    found = logged(write(tmp_path, *lines), "m", RAW, "sha256:this", most=3)
    assert [request.name for request in found.requests] == [f"recorded request r{place}" for place in (2, 3, 4)]
    assert [request.recorded["y"].tolist() for request in found.requests if request.recorded] == [[4.0], [6.0], [8.0]]


def test_another_package_s_answers_are_not_taken_for_the_old_version_s(tmp_path: Path) -> None:
    [found] = logged(write(tmp_path, record("r", package="sha256:other")), "m", RAW, "sha256:this", 10).requests
    assert found.recorded is None


@pytest.mark.parametrize("changes", [{"omitted": ["x"], "inputs": {}}, {"hashed": {"x": ["ab"]}, "inputs": {}}])
def test_what_is_not_whole_is_counted_and_not_replayed(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = logged(write(tmp_path, record("a", **changes), record("b")), "m", RAW, "sha256:this", 10)
    assert ([request.name for request in found.requests], found.redacted) == (["recorded request b"], 1)


def test_other_models_and_shadow_s_own_requests_are_passed_over(tmp_path: Path) -> None:
    lines = (record("a", model="other"), record("shadow-17"), record("b"))
    found = logged(write(tmp_path, *lines), "m", RAW, "sha256:this", 10)
    assert [request.name for request in found.requests] == ["recorded request b"]


def test_requests_of_another_signature_are_counted(tmp_path: Path) -> None:
    lines = (record("a", inputs={"z": pack(np.array([1.0]))}), record("b", inputs={"x": pack(np.array([1]))}))
    found = logged(write(tmp_path, *lines), "m", RAW, "sha256:this", 10)
    assert (found.requests, found.others) == ((), 2)


def test_a_line_that_is_no_record_is_an_error_that_says_which(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"predictions-1\.jsonl:2"):
        logged(write(tmp_path, record("a"), b"{}\n"), "m", RAW, "sha256:this", 10)
