"""Evaluation data: read without opening pickles, and checked against what clients send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.contract import DimRange, DType, EncodedImages, NanPolicy, Signature, TensorSpec
from tasks.errors import EvaluationError
from tasks.ingest.evaluation import check_columns
from tasks.ingest.tables import Reading, _from_arrow, read_table

X = TensorSpec("x", DType.FLOAT32, ("batch", 2, 3))
LENGTH = TensorSpec("ids", DType.INT64, ("batch", "length"))
FLAG = TensorSpec("flag", DType.STRING, ("batch",))


def raw(*inputs: TensorSpec) -> Signature:
    return Signature(inputs or (X,), (), {"batch": DimRange(1, 4), "length": DimRange(2, 5)})


def columns(**changes: Any) -> dict[str, Any]:
    return {"x": np.zeros((5, 2, 3), np.float32), "label": np.arange(5), **changes}


def problems(given: dict[str, Any], *inputs: TensorSpec, labels: tuple[str, ...] = ("label",)) -> str:
    with pytest.raises(EvaluationError) as caught:
        check_columns(given, raw(*inputs), labels, "eval.npz")
    return str(caught.value)


def test_columns_that_fit_are_given_back_without_the_others() -> None:
    found = check_columns(columns(extra=np.zeros(3)), raw(), ("label",), "eval.npz")
    assert sorted(found) == ["label", "x"]


def test_more_rows_than_one_request_may_have_are_fine() -> None:
    assert len(check_columns(columns(), raw(), ("label",), "eval.npz")["x"]) == 5


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"x": np.zeros((5, 2, 3))}, ["column 'x' is float64, clients send float32", "astype('float32')"]),
        ({"x": np.zeros((5, 2, 3), np.uint8)}, ["uint8", "declare a cast under `preprocess`"]),
        ({"x": np.zeros((5, 2, 4), np.float32)}, ["[5, 2, 4], expected [rows, 2, 3] (axis 2)"]),
        ({"x": np.zeros((5, 2, 3, 1), np.float32)}, ["[5, 2, 3, 1], expected [rows, 2, 3]"]),
        ({"x": np.zeros((4, 2, 3), np.float32)}, ["the same number of rows", "x 4, label 5"]),
        ({"x": np.zeros((0, 2, 3), np.float32), "label": np.zeros(0)}, ["there are no rows"]),
        ({"x": np.float32(0), "label": np.zeros(1)}, ["shape []"]),
        ({"label": np.array([0.0, np.nan, np.inf, 1, 2])}, ["label 'label' has 2 values that are missing"]),
        ({"label": np.int64(3)}, ["a single value, expected one per row"]),
        ({"label": np.zeros(5, "datetime64[s]")}, ["datetime64[s], expected numbers"]),
    ],
)
def test_a_column_that_does_not_fit_is_said_so(changes: dict[str, Any], fragments: list[str]) -> None:
    for fragment in fragments:
        assert fragment in problems(columns(**changes))


def test_missing_columns_are_named_with_the_nearest() -> None:
    given = {"xx": np.zeros((5, 2, 3), np.float32), "lable": np.arange(5)}
    message = problems(given)
    assert "no column for the input 'x'" in message
    assert "no column for the label 'label'; there are lable, xx; did you mean lable?" in message


def test_all_problems_are_told_at_once() -> None:
    message = problems({"x": np.zeros((5, 2, 4)), "label": np.full(5, np.nan)}, labels=("label", "other"))
    assert [line.partition(": ")[0] for line in message.splitlines()] == ["eval.npz"] * 4


@pytest.mark.parametrize(("length", "fits"), [(1, False), (2, True), (5, True), (6, False)])
def test_a_named_dimension_must_lie_in_its_range(length: int, fits: bool) -> None:
    given = {"ids": np.zeros((3, length), np.int64), "label": np.zeros(3)}
    if fits:
        assert check_columns(given, raw(LENGTH), ("label",), "e")["ids"].shape == (3, length)
    else:
        assert f"length is {length}, outside its range 2 to 5" in problems(given, LENGTH)


def test_a_flat_row_is_shaped_where_only_one_shape_fits() -> None:
    found = check_columns(columns(x=np.arange(30, dtype=np.float32).reshape(5, 6)), raw(), ("label",), "e")
    assert found["x"].shape == (5, 2, 3)
    assert found["x"][1].ravel().tolist() == [6, 7, 8, 9, 10, 11]
    assert "shape [5, 5]" in problems(columns(x=np.zeros((5, 5), np.float32)))


def test_an_input_may_be_its_own_label() -> None:
    assert list(check_columns(columns(), raw(), ("x",), "e")) == ["x"]


# --- npz ----------------------------------------------------------------------------------------------------------


def test_strings_in_an_npz_are_strings(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "e.npz", u=np.array(["é", "b"]), s=np.array(["é".encode(), b"b"]), big=np.arange(2, dtype=">i4")
    )
    found = read_table(tmp_path / "e.npz", Reading())
    assert found["u"].tolist() == found["s"].tolist() == ["é", "b"]
    assert found["u"].dtype == object
    assert found["big"].dtype == np.int32


def test_an_npz_that_is_none_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_bytes(b"text")
    with pytest.raises(EvaluationError, match=r"e\.npz is not an \.npz file"):
        read_table(tmp_path / "e.npz", Reading())
    np.savez(tmp_path / "e.npz", x=np.zeros(1000))
    content = (tmp_path / "e.npz").read_bytes()
    (tmp_path / "e.npz").write_bytes(content[:500])
    with pytest.raises(EvaluationError, match="cut short"):
        read_table(tmp_path / "e.npz", Reading())


def test_another_kind_of_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("x,label\n1,2\n")
    with pytest.raises(EvaluationError, match=r"to_parquet"):
        read_table(tmp_path / "e.csv", Reading())


# --- parquet ------------------------------------------------------------------------------------------------------


def parquet(tmp_path: Path, **given: Any) -> Path:
    pq.write_table(pa.table(given), tmp_path / "e.parquet")
    return tmp_path / "e.parquet"


def test_lists_of_any_kind_become_axes(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values), 6)
    nested = pa.array(values.reshape(4, 2, 3).tolist(), pa.list_(pa.list_(pa.float32())))
    text = pa.array([["a", "b"]] * 4)
    found = read_table(
        parquet(tmp_path, fixed=fixed, nested=nested, text=text, flag=pa.array([True, False, True, True])), Reading()
    )
    np.testing.assert_array_equal(found["fixed"], values.reshape(4, 6))
    np.testing.assert_array_equal(found["nested"], values.reshape(4, 2, 3))
    assert found["text"].shape == (4, 2)
    assert (found["nested"].dtype, found["flag"].dtype) == (np.float32, np.bool_)


def test_plain_columns_keep_their_type_and_categories_become_their_values(tmp_path: Path) -> None:
    found = read_table(
        parquet(tmp_path, n=pa.array([1, 2], pa.int32()), c=pa.array(["a", "b"]).dictionary_encode()), Reading()
    )
    assert found["n"].dtype == np.int32
    assert found["c"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "fragment"),
    [
        (pa.array([1, None, 3]), "1 missing values"),
        (pa.array([[1, None], [2, 3]]), "1 missing values"),
        (pa.array([[1], [1, 2]]), "lists of 1 to 2 values"),
        (pa.array([1, 2], pa.timestamp("s")), "timestamp"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct"),
    ],
)
def test_a_parquet_column_that_is_no_tensor_is_said_so(tmp_path: Path, column: Any, fragment: str) -> None:
    with pytest.raises(EvaluationError, match=fragment):
        read_table(parquet(tmp_path, x=column), Reading())


def test_a_damaged_parquet_file_is_said_so(tmp_path: Path) -> None:
    path = parquet(tmp_path, x=pa.array(range(100)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EvaluationError, match=r"cannot be read as a Parquet file"):
        read_table(path, Reading())


def test_a_parquet_file_without_rows_has_no_rows(tmp_path: Path) -> None:
    found = read_table(
        parquet(tmp_path, x=pa.array([], pa.list_(pa.float32())), label=pa.array([], pa.int64())), Reading()
    )
    assert {len(column) for column in found.values()} == {0}


@settings(deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint16, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4),
    )
)
def test_what_is_written_as_nested_lists_is_read_back(array: np.ndarray[Any, Any]) -> None:
    kind = pa.from_numpy_dtype(array.dtype)
    for _ in range(array.ndim - 1):
        kind = pa.list_(kind)
    found = _from_arrow(pa.array(array.tolist(), kind), may_miss=False)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


# --- images, and values that may miss -----------------------------------------------------------------------------

RAW = Signature(
    inputs=(
        EncodedImages("image", DType.STRING, ("batch",), max_bytes=100),
        TensorSpec("x", DType.FLOAT32, ("batch", 2), nan=NanPolicy.ACCEPT),
    ),
    outputs=(),
    dynamic={"batch": DimRange(1, 9)},
)
FILES = [b"\x89PNG\x00\xff", b"\xff\xd8\xff"]


def test_images_are_bytes_and_gaps_are_nan_in_both_kinds_of_file(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, image=pa.array(FILES), x=pa.array([[1, None], [2, 3]], pa.list_(pa.float32())), label=pa.array([0, 1])
    )
    x = np.array([[1, np.nan], [2, 3]], np.float32)
    np.savez(tmp_path / "e.npz", image=np.array(FILES), x=x, label=np.array([0, 1]))
    for table in (read_table(path, Reading.of(RAW)), read_table(tmp_path / "e.npz", Reading.of(RAW))):
        found = check_columns(table, RAW, ["label"], "e")
        assert found["image"].tolist() == FILES
        assert np.array_equal(found["x"], x, equal_nan=True)
        assert found["x"].dtype == np.float32


def test_a_gap_is_refused_where_no_value_may_miss(tmp_path: Path) -> None:
    path = parquet(tmp_path, x=pa.array([[1.0, None]]))
    with pytest.raises(EvaluationError, match="has 1 missing values"):
        read_table(path, Reading())
    with pytest.raises(EvaluationError, match="has 1 missing values"):
        read_table(parquet(tmp_path, x=pa.array([[1.0], None])), Reading.of(RAW))


def test_text_where_images_are_expected_is_said_so() -> None:
    columns = {"image": np.array(["a.png", "b.png"], dtype=object), "x": np.zeros((2, 2), np.float32)}
    with pytest.raises(EvaluationError, match="column 'image' holds str, clients send the bytes of images"):
        check_columns(columns, RAW, [], "e")
