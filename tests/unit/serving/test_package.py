"""A package is served only when it is what its contract says: each thing that may not hold, and its exit code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from serving.contract import (
    DimRange,
    DType,
    GpuNeeds,
    Needs,
    PackagedFile,
    PreprocessStep,
    ServingContract,
    Signature,
    TensorSpec,
    Tolerance,
)
from serving.golden import Golden, Margin, differences, margins, merge, read_golden
from serving.package import (
    OlderContract,
    Refusal,
    Refused,
    Served,
    WrongAnswer,
    installed_versions,
    read_contract,
    replay,
    verify_files,
    verify_versions,
)
from serving.tensors import BadRequest
from tasks.image.build import contract_bytes

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", 2)),),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch", 2)),),
    dynamic={"batch": DimRange(1, 8)},
)
X = np.arange(6, dtype=np.float32).reshape(3, 2)


@dataclass
class Computed:
    """A runner over a function: the smallest model there is."""

    function: Callable[[NDArray[Any]], NDArray[Any]]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"y": self.function(inputs["x"])}

    def close(self) -> None:
        pass


def contract(folder: Path, **changes: Any) -> ServingContract:
    (folder / "model").mkdir()
    files = []
    for path, content in {"golden.npz": b"samples", "model/model.onnx": b"weights"}.items():
        (folder / path).write_bytes(content)
        files.append(PackagedFile(path, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)))
    return replace(
        ServingContract(
            name="m",
            version="1",
            format="onnx",
            runtime="onnx",
            model="model/model.onnx",
            files=tuple(files),
            signature=SIGNATURE,
            preprocess=(PreprocessStep("scale", "x", by=2.0),),
            tolerances={"y": Tolerance(0.0, 1e-6)},
            golden="golden.npz",
            max_batch=8,
            runtime_versions={"numpy": "2.0"},
        ),
        **changes,
    )


def served(tmp_path: Path, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Served:
    return Served(contract(tmp_path), SIGNATURE, Golden({"x": X}, {"y": X * 2}), Computed(function))


def refused(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def test_a_package_whose_files_are_the_contracts_is_verified(tmp_path: Path) -> None:
    verify_files(tmp_path, contract(tmp_path))


def test_a_changed_byte_is_found_and_both_digests_are_said(tmp_path: Path) -> None:
    made = contract(tmp_path)
    (tmp_path / "model/model.onnx").write_bytes(b"Weights")
    error = refused(lambda: verify_files(tmp_path, made))
    assert error.refusal is Refusal.FILES
    assert "model/model.onnx is not the file of the contract" in str(error)
    assert made.files[1].digest in str(error)


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    made = contract(tmp_path)
    (tmp_path / "golden.npz").unlink()
    assert refused(lambda: verify_files(tmp_path, made)).refusal is Refusal.FILES


def test_a_contract_that_names_no_digest_of_its_model_is_refused(tmp_path: Path) -> None:
    made = contract(tmp_path, model="other/model.onnx")
    assert refused(lambda: verify_files(tmp_path, made)).refusal is Refusal.CONTRACT


def test_other_versions_are_refused_and_named() -> None:
    error = refused(lambda: verify_versions({"numpy": "0.1", "nowhere": "1"}))
    assert error.refusal is Refusal.VERSIONS
    assert f"numpy {np.__version__} instead of 0.1" in str(error)
    assert "nowhere is missing instead of 1" in str(error)


def test_the_installed_versions_are_those_that_python_sees() -> None:
    verify_versions({"numpy": np.__version__, "msgspec": msgspec.__version__})


def test_the_first_folder_on_the_path_counts(tmp_path: Path) -> None:
    for folder, version in (("a", "1"), ("b", "2")):
        (tmp_path / folder / f"Some_Thing-{version}.dist-info").mkdir(parents=True)
    assert installed_versions([str(tmp_path / "a"), str(tmp_path / "b"), "/nowhere"]) == {"some-thing": "1"}


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"name": 3}', b"\xff"])
def test_what_is_no_contract_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "contract.json").write_bytes(content)
    assert refused(lambda: read_contract(tmp_path)).refusal is Refusal.CONTRACT


def test_a_contract_of_a_newer_version_is_refused_and_both_are_named(tmp_path: Path) -> None:
    content = contract_bytes(contract(tmp_path)).replace(b'"contract_version": 1', b'"contract_version": 2, "more": 1')
    (tmp_path / "contract.json").write_bytes(content)
    error = refused(lambda: read_contract(tmp_path))
    assert error.refusal is Refusal.CONTRACT
    assert "a contract of version 2, this server knows version 1: serve it with the Slipway that built it" in str(error)


def test_a_contract_of_an_older_slipway_is_told_from_what_is_none(tmp_path: Path) -> None:
    written = json.loads(contract_bytes(contract(tmp_path)))
    del written["contract_version"]
    (tmp_path / "contract.json").write_text(json.dumps(written))
    error = refused(lambda: read_contract(tmp_path))
    assert isinstance(error, OlderContract)
    assert error.refusal is Refusal.CONTRACT
    sentence = "built by an older Slipway (its contract has no version, this one knows version 1): package it again"
    assert sentence in str(error)


def test_keys_that_the_server_does_not_know_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    content = contract_bytes(contract(tmp_path))
    content = content.replace(b'"max_batch":', b'"watermark": true,\n "max_batch":')
    content = content.replace(b'"op": "scale"', b'"op": "scale",\n   "gamma": 2')
    (tmp_path / "contract.json").write_bytes(content)
    error = refused(lambda: read_contract(tmp_path))
    assert error.refusal is Refusal.CONTRACT
    assert "preprocess.0.gamma, watermark" in str(error)


NAMES = st.text("abc", min_size=1, max_size=4)
SHAPES = st.lists(st.integers(1, 9) | NAMES, max_size=3).map(tuple)
TENSORS = st.builds(TensorSpec, NAMES, st.sampled_from(DType), SHAPES)
SIGNATURES = st.builds(
    Signature,
    st.lists(TENSORS, max_size=2).map(tuple),
    st.lists(TENSORS, max_size=2).map(tuple),
    st.dictionaries(NAMES, st.builds(DimRange, st.integers(0, 9), st.integers(9, 99))),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
STEPS = st.builds(
    PreprocessStep,
    NAMES,
    NAMES,
    by=st.none() | NUMBERS,
    mean=st.none() | st.lists(NUMBERS, min_size=1, max_size=3).map(tuple),
    axis=st.none() | st.integers(-3, 3),
    source_dtype=st.none() | st.sampled_from(DType),
)


@given(
    SIGNATURES, st.lists(STEPS, max_size=3).map(tuple), st.dictionaries(NAMES, st.builds(Tolerance, NUMBERS, NUMBERS))
)
def test_what_the_pipeline_writes_is_what_the_server_reads(
    signature: Signature, steps: tuple[PreprocessStep, ...], tolerances: dict[str, Tolerance]
) -> None:
    written = ServingContract(
        "né",
        "1",
        "onnx",
        "onnx",
        "model",
        (),
        signature,
        steps,
        tolerances,
        "golden.npz",
        32,
        {"numpy": "1"},
        needs=Needs(gpu=GpuNeeds("12.6", capabilities=("8.6",))),
    )
    content = contract_bytes(written)
    assert msgspec.json.decode(content, type=ServingContract) == written
    assert TypeAdapter(ServingContract).validate_json(content) == written
    assert contract_bytes(TypeAdapter(ServingContract).validate_json(content)) == content


def test_predict_preprocesses_and_runs(tmp_path: Path) -> None:
    assert (served(tmp_path, lambda x: x + 1).predict({"x": X})["y"] == X * 2 + 1).all()


def test_a_value_that_preprocessing_takes_out_of_range_never_reaches_the_model(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="input 'x': after preprocessing a value is beyond float32's range"):
        served(tmp_path, lambda x: x).predict({"x": np.full((1, 2), 3e38, np.float32)})


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.astype(np.float64),
        lambda x: x[:1],
        lambda x: x[:, :1],
        lambda x: x[:, :, None],
        lambda x: x[0],
    ],
    ids=["dtype", "frozen batch", "fixed dimension", "rank up", "rank down"],
)
def test_an_answer_that_is_not_the_signatures_never_leaves(
    tmp_path: Path, function: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    with pytest.raises(WrongAnswer, match="for output 'y', its contract says float32 of shape"):
        served(tmp_path, function).predict({"x": X})


def test_golden_answers_are_replayed(tmp_path: Path) -> None:
    replay(served(tmp_path, lambda x: x), Golden({"x": X}, {"y": X * 2}))


def test_answers_that_are_not_golden_are_refused(tmp_path: Path) -> None:
    model = served(tmp_path, lambda x: x * np.float32(1.001))
    error = refused(lambda: replay(model, model.golden))
    assert error.refusal is Refusal.ANSWERS
    assert "output 'y': 5 of 6 values differ" in str(error)


def test_a_model_that_cannot_answer_is_refused(tmp_path: Path) -> None:
    model = served(tmp_path, lambda x: x[0])
    assert refused(lambda: replay(model, model.golden)).refusal is Refusal.MODEL


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        (np.array([1.0, np.nan, np.inf, 0.0]), True),
        (np.array([1.0 + 1e-7, np.nan, np.inf, 1e-9]), True),
        (np.array([1.1, np.nan, np.inf, 0.0]), False),
        (np.array([1.0, 0.0, np.inf, 0.0]), False),
        (np.array([1.0, np.nan, -np.inf, 0.0]), False),
        (np.array([np.nan, np.nan, np.inf, 0.0]), False),
        (np.array([1.0, np.nan, 1e300, 0.0]), False),
        (np.array([[1.0, np.nan, np.inf, 0.0]]), False),
        (np.array([1.0], np.float64), False),
        (np.array([1.0, np.nan, np.inf, 0.0], np.float32), False),
    ],
)
def test_answers_are_compared_without_coercion(answer: NDArray[Any], holds: bool) -> None:
    expected = {"y": np.array([1.0, np.nan, np.inf, 0.0])}
    found = differences({"y": answer}, expected, {"y": Tolerance(1e-8, 1e-6)})
    assert (not found) == holds


def test_a_missing_output_differs() -> None:
    assert differences({}, {"y": X}, {}) == ("output 'y' is missing",)


def test_without_a_tolerance_answers_must_be_equal() -> None:
    assert differences({"y": X}, {"y": X}, {}) == ()
    assert differences({"y": np.nextafter(X, 9)}, {"y": X}, {}) != ()


@pytest.mark.parametrize(
    ("given", "wanted", "margin"),
    [
        ([1.0, 2.0], [1.0, 2.0], Margin(0.0, 0.0)),
        ([1.0, 2.5], [1.0, 2.0], Margin(0.5, 0.5 / 0.3)),
        ([1.1, 2.0], [1.0, 2.0], Margin(0.1, 0.5)),
        ([np.nan, np.inf], [np.nan, np.inf], Margin(0.0, 0.0)),
        ([np.nan, 2.0], [1.0, 2.0], Margin(np.inf, np.inf)),
        ([1.0, 2.0], [1.0, np.inf], Margin(np.inf, np.inf)),
        ([-np.inf, 2.0], [np.inf, 2.0], Margin(np.inf, np.inf)),
    ],
)
def test_a_margin_is_the_largest_difference_and_share_of_the_tolerance(
    given: list[float], wanted: list[float], margin: Margin
) -> None:
    tolerance = {"y": Tolerance(0.1, 0.1)}
    found = margins({"y": np.array(given)}, {"y": np.array(wanted)}, tolerance)["y"]
    assert found == Margin(pytest.approx(margin.difference), pytest.approx(margin.of_allowed))
    assert (found.of_allowed > 1) == bool(differences({"y": np.array(given)}, {"y": np.array(wanted)}, tolerance))


def test_where_nothing_may_differ_any_difference_is_beyond_measure() -> None:
    big = np.array([2**53, 2**53 + 1])
    assert margins({"y": big}, {"y": big}, {})["y"] == Margin(0.0, 0.0)
    assert margins({"y": big[::-1]}, {"y": big}, {})["y"].of_allowed == np.inf
    flags = np.array([True, False])
    assert margins({"y": ~flags}, {"y": flags}, {})["y"] == Margin(1.0, np.inf)


def test_what_has_no_distance_has_no_margin() -> None:
    assert margins({}, {"y": X}, {}) == {}
    assert margins({"y": X[:1]}, {"y": X}, {}) == {}
    assert margins({"y": X.astype(object)}, {"y": X.astype(object)}, {}) == {}


def test_the_worst_of_several_margins_is_kept_by_output() -> None:
    found = merge({"y": Margin(1.0, 0.1)}, {"n": Margin(2.0, 0.2)}, {"y": Margin(0.5, 0.3)})
    assert found == {"y": Margin(1.0, 0.3), "n": Margin(2.0, 0.2)}


def test_golden_samples_are_read_without_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", **{"input/x": X, "output/y": np.array(["a", "é", "c"])})
    golden = read_golden(tmp_path / "golden.npz")
    assert golden.outputs["y"].tolist() == ["a", "é", "c"]
    assert golden.outputs["y"].dtype == object
    np.savez(tmp_path / "pickled.npz", **{"input/x": np.array([{}], object), "output/y": X})
    with pytest.raises(ValueError, match="allow_pickle"):
        read_golden(tmp_path / "pickled.npz")


def test_a_file_without_samples_is_no_golden_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", x=X)
    with pytest.raises(ValueError, match="holds no golden samples"):
        read_golden(tmp_path / "golden.npz")


@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 4))
def test_batches_cover_every_row_within_the_range(rows: int, size: int, least: int) -> None:
    rows = max(rows, least)
    signature = replace(SIGNATURE, dynamic={"batch": DimRange(least, 8)})
    samples = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    batches = list(Golden({"x": samples}, {"y": samples}).batches(signature, size))
    assert all(least <= len(batch.inputs["x"]) <= 8 for batch in batches)
    assert {float(value) for batch in batches for value in batch.inputs["x"][:, 0]} == set(samples[:, 0].tolist())
    assert all(np.array_equal(batch.inputs["x"], batch.outputs["y"]) for batch in batches)
