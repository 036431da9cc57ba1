"""Recorded predictions come back bit by bit, are the same everywhere, stay within their bound, and hurt nobody."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.contract import DType, PredictionLog
from serving.observation import Outcome
from serving.prediction_log import DEFAULT_FOLDER, Prediction, Recorder, is_sampled, read, settings
from serving.tensor_record import pack, unpack
from tests.unit.serving.observed import SIGNATURE, outcome, served

EVERYTHING = PredictionLog(sample=1.0)


@contextmanager
def recording(folder: Path, asked: PredictionLog = EVERYTHING, key: bytes = b"") -> Iterator[Recorder]:
    recorder = Recorder(folder, asked, served().contract, "sha256:abc", key)
    try:
        yield recorder
    finally:
        recorder.close()


def recorded(folder: Path, *outcomes: Outcome, asked: PredictionLog = EVERYTHING, key: bytes = b"") -> list[Prediction]:
    with recording(folder, asked, key) as recorder:
        for each in outcomes:
            recorder.observe(each)
    return list(read(folder))


def request(identity: str = "a", rows: int = 1, **inputs: Any) -> Outcome:
    x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    return outcome({"x": x, **inputs}, {"logits": x + 1}, id=identity)


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit: NaN's as well."""
    if left.dtype == object:
        return bool(left.shape == right.shape and left.tolist() == right.tolist())
    return bool(left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())


NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@given(st.sampled_from(NUMBERS).flatmap(lambda dtype: arrays.arrays(dtype.numpy, SHAPES)))
def test_an_array_of_any_dtype_comes_back_bit_by_bit(array: Any) -> None:
    import msgspec

    from serving.tensor_record import TensorRecord

    for form in (msgspec.json, msgspec.msgpack):
        assert same(unpack(form.decode(form.encode(pack(array)), type=TensorRecord)), array)


@pytest.mark.parametrize("items", [["ä", "", "日本", "\x00"], [b"\xff\x00", b""], []], ids=["text", "bytes", "nothing"])
def test_strings_come_back(items: list[Any]) -> None:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    assert same(unpack(pack(array)), array)


def test_a_prediction_comes_back_with_everything_that_release_needs(tmp_path: Path) -> None:
    odd = np.array([[np.nan, -0.0, np.inf, 1e-45]], dtype=np.float32)
    words = np.array([["ä", ""]], dtype=object)
    given = outcome({"x": odd, "w": words}, {"logits": -odd}, id="r-1")
    [found] = recorded(tmp_path, given)
    assert (found.id, found.model, found.version, found.package) == ("r-1", "m", "7", "sha256:abc")
    assert found.time > 1.7e9
    assert found.is_whole
    assert same(found.inputs["x"], odd)
    assert same(found.inputs["w"], words)
    assert same(found.outputs["logits"], -odd)


def test_a_recorded_request_is_answered_again_by_the_served_model(tmp_path: Path) -> None:
    model = served()
    x = np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32)
    [found] = recorded(tmp_path, outcome({"x": x}, model.predict({"x": x})))
    assert same(model.predict(found.inputs)["logits"], found.outputs["logits"])


def test_what_was_not_answered_is_not_recorded(tmp_path: Path) -> None:
    failed = outcome({"x": np.zeros((1, 4), np.float32)}, error="model", status=500)
    assert recorded(tmp_path, failed) == []


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_who_is_sampled_at_a_rate_is_sampled_at_every_higher_one(identity: str, one: float, other: float) -> None:
    assert not is_sampled(identity, min(one, other)) or is_sampled(identity, max(one, other))


def test_the_share_of_sampled_requests_is_the_rate_and_the_ids_decide() -> None:
    ids = [f"request-{number}" for number in range(20_000)]
    chosen = [identity for identity in ids if is_sampled(identity, 0.1)]
    assert len(chosen) == pytest.approx(2000, abs=5 * (20_000 * 0.1 * 0.9) ** 0.5)
    assert chosen[:3] == ["request-34", "request-50", "request-52"]  # of every process, in every version


def test_left_out_inputs_are_nowhere_in_the_file(tmp_path: Path) -> None:
    given = request(name=np.array(["Ada"], object), user=np.array(["u-17"], object))
    [found] = recorded(tmp_path, given, asked=PredictionLog(1.0, omit=("name",), hash=("user",)), key=b"k")
    content = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "Ada" not in content
    assert "u-17" not in content
    assert (found.omitted, list(found.hashed), list(found.inputs)) == (("name",), ["user"], ["x"])
    assert not found.is_whole


def test_equal_rows_have_equal_hashes_and_another_key_has_others(tmp_path: Path) -> None:
    asked = PredictionLog(1.0, hash=("user",))
    given = request(rows=3, user=np.array(["a", "b", "a"], object))
    [one] = recorded(tmp_path / "one", given, asked=asked, key=b"k")
    [two] = recorded(tmp_path / "two", given, asked=asked, key=b"other")
    words = one.hashed["user"]
    assert words[0] == words[2] != words[1]
    assert not set(words) & set(two.hashed["user"])


def test_all_files_together_stay_within_the_bound_and_the_oldest_go(tmp_path: Path) -> None:
    big = np.zeros((1, 20_000), np.float32)
    with recording(tmp_path, PredictionLog(1.0, max_mb=1)) as recorder:
        for number in range(60):
            recorder._write([(0.0, outcome({"x": big}, {"logits": big}, id=f"r-{number}"))])
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1 << 20
    kept = [found.id for found in read(tmp_path)]
    assert kept == [f"r-{number}" for number in range(60 - len(kept), 60)]
    assert len(kept) >= 2


def test_a_line_cut_off_by_the_end_of_the_process_is_left_out(tmp_path: Path) -> None:
    recorded(tmp_path, request("a"), request("b"))
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert [found.id for found in read(tmp_path)] == ["a"]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    file = tmp_path / "predictions-x.jsonl"
    file.write_text(json.dumps({"id": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"predictions-x\.jsonl:1 is no record of a prediction: .*time"):
        list(read(file))


def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path) -> None:
    """The kernel refuses bytes beyond RLIMIT_FSIZE as a full disk does: the beginning of a line may be written."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with recording(tmp_path) as recorder:
        try:
            recorder._write([(0.0, request("a"))])
            [file] = tmp_path.iterdir()
            resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, before[1]))
            recorder._write([(0.0, request("b"))])
            assert (recorder.written, recorder.failed) == (1, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        recorder._write([(0.0, request("c"))])
    assert [found.id for found in read(tmp_path)] == ["a", "c"]


def test_a_folder_that_cannot_be_made_costs_records_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with recording(tmp_path / "file" / "folder") as recorder:
        recorder.observe(request())
    assert (recorder.written, recorder.failed) == (0, 1)


def test_nothing_is_recorded_unless_it_is_asked_for() -> None:
    assert settings(served().contract, SIGNATURE, {}) is None
    assert (
        settings(served(prediction_log=PredictionLog()).contract, SIGNATURE, {"SERVING_PREDICTION_LOG": "off"}) is None
    )


def test_the_environment_changes_what_the_package_asks_for_and_hides_more_never_less() -> None:
    contract = served(prediction_log=PredictionLog(0.5, omit=("x",))).contract
    assert settings(contract, SIGNATURE, {}) == (DEFAULT_FOLDER, PredictionLog(0.5, omit=("x",)))
    environment = {"SERVING_PREDICTION_LOG": "/logs", "SERVING_PREDICTION_LOG_SAMPLE": "0.1"}
    environment |= {"SERVING_PREDICTION_LOG_MAX_MB": "9", "SERVING_PREDICTION_LOG_HASH": "x"}
    assert settings(contract, SIGNATURE, environment) == (
        Path("/logs"),
        PredictionLog(0.1, 9, omit=("x",), hash=("x",)),
    )


@pytest.mark.parametrize("log", [{"SERVING_PREDICTION_LOG": "/logs"}, {"SERVING_PREDICTION_LOG": "off"}, {}])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SAMPLE", "0", ": expected a number above 0 and at most 1, found '0'"),
        ("SAMPLE", "2", ": expected a number above 0 and at most 1, found '2'"),
        ("SAMPLE", "nan", ": expected a number above 0 and at most 1, found 'nan'"),
        ("SAMPLE", "half", ": expected a number above 0 and at most 1, found 'half'"),
        ("MAX_MB", "0", ": expected a number that is whole and at least 1, found '0'"),
        ("MAX_MB", "x", ": expected a number that is whole and at least 1, found 'x'"),
        ("OMIT", "nmae", " cannot leave out nmae: the inputs are ['x']"),
        ("HASH", "x, nmae", " cannot leave out nmae: the inputs are ['x']"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_whether_or_not_anything_is_recorded(
    log: dict[str, str], name: str, value: str, expected: str
) -> None:
    variable = f"SERVING_PREDICTION_LOG_{name}"
    with pytest.raises(ValueError, match=f"^{re.escape(variable + expected)}$"):
        settings(served().contract, SIGNATURE, {**log, variable: value})


def test_a_folder_that_takes_nothing_is_said_before_the_first_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with recording(tmp_path / "file" / "folder"):
        pass
    [line] = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (line["event"], line["folder"]) == ("predictions cannot be recorded", str(tmp_path / "file" / "folder"))
    assert "Not a directory" in line["error"]


def test_a_folder_that_takes_predictions_is_no_matter_for_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with recording(tmp_path / "folder"):
        pass
    assert capfd.readouterr().err == ""
