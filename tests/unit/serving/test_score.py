"""Files through a model: every form gives the same answers, says where it does not fit, and is whole or not there."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.contract import DimRange, DType, PreprocessStep, Signature, TensorSpec
from serving.package import Served
from serving.score.files import Form, between, check_names, form_of, open_reader, writing
from serving.score.frames import FrameReader, FrameWriter
from serving.score.rows import Unscorable
from serving.score.scoring import Progress, batch_rows, score
from tests.unit.serving.observed import Arrays, served

FORMS = ("npz", "csv", "parquet")


def model(inputs: Any) -> Arrays:
    pixels, words = inputs["pixels"], inputs["word"]
    return {
        "mean": (pixels.sum(axis=2) * inputs["weight"][:, None]).astype(np.float32),
        "shout": np.array([word.upper() for word in words], dtype=object),
        "odd": inputs["count"] % 2 != 0,
        "half": pixels[:, 0, :2].astype(np.float16),
        "next": inputs["count"] + 1,
    }


SIGNATURE = Signature(
    inputs=(
        TensorSpec("pixels", DType.FLOAT32, ("batch", 2, 3)),
        TensorSpec("weight", DType.FLOAT64, ("batch",)),
        TensorSpec("count", DType.INT64, ("batch",)),
        TensorSpec("word", DType.STRING, ("batch",)),
        TensorSpec("flag", DType.BOOL, ("batch", 1)),
    ),
    outputs=(
        TensorSpec("mean", DType.FLOAT32, ("batch", 2)),
        TensorSpec("shout", DType.STRING, ("batch",)),
        TensorSpec("odd", DType.BOOL, ("batch",)),
        TensorSpec("half", DType.FLOAT16, ("batch", 2)),
        TensorSpec("next", DType.INT64, ("batch",)),
    ),
    dynamic={"batch": DimRange(2, 8)},
)
MODEL = served(model, SIGNATURE)


def data(rows: int) -> Arrays:
    random = np.random.default_rng(rows)
    words = np.array([f'wörd, "{n}"\nline' if n % 3 else "" for n in range(rows)] or [""], dtype=object)[:rows]
    return {
        "pixels": random.normal(size=(rows, 2, 3)).astype(np.float32),
        "weight": random.normal(size=rows) * 1e-300,
        "count": random.integers(-(2**62), 2**62, rows),
        "word": words,
        "flag": random.integers(0, 2, (rows, 1)).astype(bool),
    }


def write(path: Path, arrays: Arrays, signature: Signature = SIGNATURE) -> Path:
    """A file of inputs, by the library that people would use."""
    if path.suffix == ".npz":
        np.savez(path, **{name: a.astype(str) if a.dtype == object else a for name, a in arrays.items()})
        return path
    specs = Signature(inputs=signature.outputs, outputs=signature.inputs, dynamic=signature.dynamic)
    with writing(str(path), Form(path.suffix[1:]), specs) as writer:
        writer.append(arrays)
    return path


def scored(source: Path, target: Path, of: Served = MODEL, rows: int = 5) -> int:
    with writing(str(target), form_of(str(target), None), of.contract.signature) as writer:
        reader = open_reader(str(source), form_of(str(source), None), of.raw)
        try:
            return score(of, reader, writer, rows, Progress(reader.total, io.StringIO()))
        finally:
            reader.close()


def outputs(path: Path, of: Served = MODEL) -> Arrays:
    """What a file of answers says, read as a file of inputs."""
    signature = of.contract.signature
    wanted = Signature(inputs=signature.outputs, outputs=signature.inputs, dynamic=signature.dynamic)
    reader = open_reader(str(path), form_of(str(path), None), wanted)
    batches = list(reader.batches(1000))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def complaint(source: Path, of: Served = MODEL) -> str:
    target = source.with_name("answers.csv")
    target.write_text("before")
    with pytest.raises(Unscorable) as caught:
        scored(source, target, of)
    assert target.read_text() == "before"
    assert {path.name for path in source.parent.iterdir()} == {source.name, "answers.csv"}
    return str(caught.value).removeprefix(f"{source}: ")


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_every_form_of_file_gives_the_same_answers(tmp_path: Path, source: str, target: str) -> None:
    inputs = data(13)
    assert scored(write(tmp_path / f"in.{source}", inputs), tmp_path / f"out.{target}") == 13
    found = outputs(tmp_path / f"out.{target}")
    for name, expected in MODEL.predict(inputs).items():
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected), name


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9])
def test_no_row_is_lost_whatever_the_batches_are(tmp_path: Path, rows: int) -> None:
    """The model takes at least two rows at once."""
    inputs = data(rows)
    assert (
        scored(write(tmp_path / "in.npz", inputs), tmp_path / "out.npz", rows=batch_rows(MODEL.contract, MODEL.raw, 4))
        == rows
    )
    with np.load(tmp_path / "out.npz") as found:
        assert {name: found[name].shape for name in found.files} == {
            "mean": (rows, 2),
            "shout": (rows,),
            "odd": (rows,),
            "half": (rows, 2),
            "next": (rows,),
        }
        if rows:
            assert found["shout"].tolist() == model(inputs)["shout"].tolist()


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("source", FORMS)
def test_no_rows_have_no_answers_in_a_file_like_every_other(tmp_path: Path, source: str, target: str) -> None:
    assert scored(write(tmp_path / f"in.{source}", data(0)), tmp_path / f"out.{target}") == 0
    signature = MODEL.contract.signature
    wanted = Signature(inputs=signature.outputs, outputs=signature.inputs, dynamic=signature.dynamic)
    reader = open_reader(str(tmp_path / f"out.{target}"), Form(target), wanted)  # raises where a column is missing
    assert [len(batch["next"]) for batch in reader.batches(10)] in ([], [0])
    reader.close()


def number(dtype: DType, *shape: int | str, nan: bool = False) -> Served:
    """A model that gives its input back."""
    signature = Signature(
        inputs=(TensorSpec("x", dtype, ("batch", *shape)),),
        outputs=(TensorSpec("y", dtype, ("batch", *shape)),),
        dynamic={"batch": DimRange(1, 8), "length": DimRange(1, 4)},
    )
    return served(lambda inputs: {"y": inputs["x"]}, signature)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.STRING])
def test_numbers_of_every_dtype_come_back_as_they_were(tmp_path: Path, form: str, dtype: DType) -> None:
    if dtype.is_float:
        limits = np.finfo(dtype.numpy)
        values = np.array([0.0, -0.0, 0.1, 1 / 3, limits.max, limits.min, limits.smallest_subnormal], dtype.numpy)
    elif dtype is DType.BOOL:
        values = np.array([True, False])
    else:
        values = np.array([np.iinfo(dtype.numpy).min, 0, np.iinfo(dtype.numpy).max], dtype.numpy)
    of = number(dtype)
    source = write(tmp_path / f"in.{form}", {"x": values}, of.raw)
    scored(source, tmp_path / f"out.{form}", of)
    assert outputs(tmp_path / f"out.{form}", of)["y"].tobytes() == values.tobytes()


def test_answers_that_are_not_finite_come_back_from_a_table(tmp_path: Path) -> None:
    of = served(lambda inputs: {"y": np.log(inputs["x"])}, number(DType.FLOAT32).raw)
    source = write(tmp_path / "in.npz", {"x": np.array([0, 1, -1], np.float32)})
    with np.errstate(all="ignore"):
        scored(source, tmp_path / "out.csv", of)
    assert (tmp_path / "out.csv").read_text().split() == ["y", "-inf", "0.0", "nan"]


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "x[0,0],x[0,1],x[1,0],x[1,1]\n1,2,3,4\n",
        'id,"x[1,1]","x[0,0]",label,"x[1,0]","x[0,1]"\na,4,1,b,3,2\n',
        "x[0],x[1],x[2],x[3]\n1,2,3,4\n",
        "width,height,depth,age\n1,2,3,4\n",
        "\ufeffwidth,height,depth,age\r\n1,2,3,4\r\n",
    ],
    ids=["positions", "any order", "flattened", "in order", "spreadsheet"],
)
def test_a_table_gives_a_tensor_in_several_ways(tmp_path: Path, text: str) -> None:
    if text.startswith("x[0,0]"):
        text = text.replace("x[0,0],x[0,1],x[1,0],x[1,1]", '"x[0,0]","x[0,1]","x[1,0]","x[1,1]"')
    (tmp_path / "in.csv").write_text(text, newline="")
    of = number(DType.FLOAT32, 2, 2)
    scored(tmp_path / "in.csv", tmp_path / "out.npz", of)
    with np.load(tmp_path / "out.npz") as found:
        assert found["y"].tolist() == [[[1, 2], [3, 4]]]


def test_a_cell_may_be_as_long_as_an_image(tmp_path: Path) -> None:
    text = "x" * 5_000_000
    (tmp_path / "in.csv").write_text(f"x\n{text}\n")
    scored(tmp_path / "in.csv", tmp_path / "out.npz", number(DType.STRING))
    with np.load(tmp_path / "out.npz") as found:
        assert found["y"].tolist() == [text]


def test_the_columns_say_how_long_a_dynamic_dimension_is(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x[0],x[1],x[2]\n1,2,3\n")
    scored(tmp_path / "in.csv", tmp_path / "out.csv", number(DType.INT32, "length"))
    assert (tmp_path / "out.csv").read_text() == "y[0],y[1],y[2]\n1,2,3\n"


def test_lists_of_different_lengths_are_scored_in_order(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = [[1.0], [2.0], [3.0, 4.0], [5.0], [6.0, 7.0, 8.0]]
    pq.write_table(pa.table({"x": pa.array(lists, pa.list_(pa.float32()))}), tmp_path / "in.parquet")
    assert scored(tmp_path / "in.parquet", tmp_path / "out.parquet", number(DType.FLOAT32, "length")) == 5
    assert pq.read_table(tmp_path / "out.parquet")["y"].to_pylist() == lists


@pytest.mark.parametrize("target", ["out.csv", "out.npz"])
def test_answers_of_different_lengths_have_no_place_in_an_array_or_a_table(tmp_path: Path, target: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": pa.array([[1.0], [2.0, 3.0]], pa.list_(pa.float32()))}), tmp_path / "in.parquet")
    with pytest.raises(Unscorable, match=r"give a \.parquet file"):
        scored(tmp_path / "in.parquet", tmp_path / target, number(DType.FLOAT32, "length"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_an_array_in_columns_order_is_read_as_rows(tmp_path: Path, form: str) -> None:
    values = np.asfortranarray(np.arange(20, dtype=np.float32).reshape(10, 2))
    of = number(DType.FLOAT32, 2)
    scored(write(tmp_path / f"in.{form}", {"x": values}, of.raw), tmp_path / "out.npz", of, rows=3)
    assert np.array_equal(outputs(tmp_path / "out.npz", of)["y"], values)


# --- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        (DType.FLOAT32, "x\n1\n2\nthree\n", "row 3, column x: expected a number (float32), found 'three'"),
        (DType.FLOAT32, "x\n1\n1_0\n", "row 2, column x: expected a number (float32), found '1_0'"),
        (DType.FLOAT32, 'x\n1\n""\n', "row 2, column x: expected finite FP32 values, found nan"),
        (DType.FLOAT32, "x\n1e39\n", "row 1, column x: expected finite FP32 values, found inf"),
        (DType.INT8, "x\n1\n300\n", "row 2, column x: expected a whole number (int8), found '300'"),
        (DType.INT64, "x\n1.5\n", "row 1, column x: expected a whole number (int64), found '1.5'"),
        (DType.BOOL, "x\nyes\n", "row 1, column x: expected true or false (bool), found 'yes'"),
        (DType.FLOAT32, "x,z\n1,2\n1\n", "row 2 (line 3): expected 2 cells, found 1"),
        (DType.FLOAT32, "a,b\n1,2\n", "input 'x': expected a column 'x'; the columns are a, b"),
        (DType.FLOAT32, "x,x\n1,2\n", "the column x is there twice"),
        (DType.FLOAT32, "", "the file is empty"),
        (DType.FLOAT32, 'x\n"1\n', "row 1 (line 2)"),
    ],
)
def test_a_cell_that_does_not_fit_is_named(tmp_path: Path, dtype: DType, text: str, expected: str) -> None:
    (tmp_path / "in.csv").write_text(text)
    assert complaint(tmp_path / "in.csv", number(dtype)).startswith(expected)


def test_a_column_that_is_missing_from_a_tensor_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x[0],x[1],x[1000000000]\n1,2,3\n")
    assert complaint(tmp_path / "in.csv", number(DType.FLOAT32, 3)) == (
        "input 'x': expected the columns x[0] to x[2]; 3 of them are there"
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_row_and_column_of_a_bad_value_are_named_in_every_form(tmp_path: Path, form: str) -> None:
    inputs = data(13)
    inputs["pixels"][11, 1, 2] = np.nan
    said = complaint(write(tmp_path / f"in.{form}", inputs))
    assert said == "row 12, column pixels[1,2]: expected finite FP32 values, found nan"


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_another_dtype_is_not_converted_unasked(tmp_path: Path, form: str) -> None:
    inputs = data(3) | {"pixels": np.zeros((3, 2, 3))}
    assert "column 'pixels': expected float32, found float64: save it with astype('float32')" in complaint(
        write(tmp_path / f"in.{form}", inputs)
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pixels": np.zeros((3, 2, 4), np.float32)}, "dimension 2 of [batch, 2, 3] must be 3, found 4"),
        ({"weight": np.zeros((3, 1))}, "expected 1 dimensions [batch], found 2"),
        ({"weight": np.zeros(4)}, "all arrays must have the same number of rows; found pixels 3, weight 4"),
        ({"word": np.array([1, 2, 3])}, "expected string, found int64"),
        ({"weight": np.array(1.0)}, "'weight' has no rows"),
    ],
)
def test_an_array_that_does_not_fit_is_named(tmp_path: Path, change: Arrays, expected: str) -> None:
    assert expected in complaint(write(tmp_path / "in.npz", data(3) | change))


def test_pickled_objects_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([{}], dtype=object))
    assert "pickled objects, which are not opened" in complaint(tmp_path / "in.npz", number(DType.FLOAT32))


def test_an_archive_that_is_cut_short_or_changed_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.npz", {"x": np.zeros(1000, np.float32)}).read_bytes()
    (tmp_path / "whole.npz").unlink()
    (tmp_path / "in.npz").write_bytes(whole[:-30])
    assert "no .npz file" in complaint(tmp_path / "in.npz", number(DType.FLOAT32))
    (tmp_path / "answers.csv").unlink()
    (tmp_path / "in.npz").write_bytes(whole[:2000] + b"\x01" + whole[2001:])
    assert "damaged" in complaint(tmp_path / "in.npz", number(DType.FLOAT32))


def test_a_missing_value_of_a_table_of_integers_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": pa.array([1, 2, None, 4], pa.int64())}), tmp_path / "in.parquet")
    assert "row 3, column x: a value is missing" in complaint(tmp_path / "in.parquet", number(DType.INT64))


def test_a_value_that_preprocessing_refuses_is_found_among_its_batch(tmp_path: Path) -> None:
    steps = (PreprocessStep("scale", "x", by=10.0),)
    of = served(lambda inputs: {"y": inputs["x"]}, number(DType.FLOAT16).raw, preprocess=steps)
    source = write(tmp_path / "in.npz", {"x": np.array([1, 2, 3, 60_000, 5], np.float16)})
    assert complaint(source, of) == "row 4: input 'x': after preprocessing a value is beyond float16's range"


def test_a_model_without_rows_has_no_use_for_files() -> None:
    signature = Signature((TensorSpec("x", DType.FLOAT32, (4,)),), (TensorSpec("y", DType.FLOAT32, (4,)),))
    with pytest.raises(Unscorable, match="no batch dimension"):
        batch_rows(served(signature=signature).contract, signature, None)


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("in.xlsx", None, ".npz, .csv or .parquet"),
        ("-", "npz", "not read or written in order"),
        ("in.tensors", None, ".npz, .csv"),
    ],
)
def test_a_name_that_says_no_form_is_refused(name: str, form: str | None, expected: str) -> None:
    with pytest.raises(Unscorable, match=expected):
        form_of(name, form)


def test_without_pyarrow_a_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unscorable, match=r"`slipway score IMAGE INPUT OUTPUT` on the host converts it"):
        form_of("in.parquet", None)


@pytest.mark.parametrize(
    ("arrays", "there"), [({"y": np.zeros(3, np.float32)}, "y"), ({}, "none at all")], ids=["another", "empty"]
)
def test_an_archive_without_the_input_is_named_once_with_what_is_there(
    tmp_path: Path, arrays: Arrays, there: str
) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)
    with pytest.raises(Unscorable) as caught:
        open_reader(str(path), Form.NPZ, number(DType.FLOAT32).raw)
    assert str(caught.value) == f"{path}: no array x; there are {there}"


def test_a_sentence_about_a_row_names_both_ends() -> None:
    with pytest.raises(Unscorable, match=r"^in\.csv → standard output: row 3$"), between("in.csv", "-"):
        raise Unscorable("row 3")


@pytest.mark.parametrize("link", ["none", "symbolic", "hard"])
def test_answers_must_not_replace_the_rows(tmp_path: Path, link: str) -> None:
    source = write(tmp_path / "in.npz", data(3))
    target = source if link == "none" else tmp_path / "out.npz"
    if link == "symbolic":
        target.symlink_to(source)
    elif link == "hard":
        target.hardlink_to(source)
    with pytest.raises(Unscorable, match="is the file of the rows, which answers must not replace"):
        check_names(str(source), str(target))


def test_other_names_are_taken(tmp_path: Path) -> None:
    source = write(tmp_path / "in.npz", data(3))
    (tmp_path / "there.npz").touch()
    for target in ("there.npz", "new.npz", "-", "no/folder.npz"):
        check_names(str(source), target if target == "-" else str(tmp_path / target))
    check_names("-", "-")


def test_rows_that_are_not_there_are_said_by_their_name_alone(tmp_path: Path) -> None:
    with pytest.raises(Unscorable, match=r"in\.npz cannot be read: No such file or directory"):
        check_names(str(tmp_path / "in.npz"), str(tmp_path / "out.npz"))


def test_a_folder_is_no_file_of_answers(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(Unscorable, match=r"out\.csv cannot be written: Is a directory"):
        scored(write(tmp_path / "in.npz", data(2)), tmp_path / "out.csv")


# --- whole or not at all, and in constant memory --------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_interrupted_leaves_everything_as_it_was(tmp_path: Path, form: str, error: type[BaseException]) -> None:
    calls = 0

    def stops(inputs: Any) -> Arrays:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return model(inputs)

    source, target = write(tmp_path / "in.npz", data(20)), tmp_path / f"out.{form}"
    target.write_text("before")
    with pytest.raises(error):
        scored(source, target, served(stops, SIGNATURE))
    assert target.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"in.npz", target.name}


def test_a_folder_that_is_not_there_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    with pytest.raises(Unscorable, match="cannot be written: No such file or directory"):
        scored(write(tmp_path / "in.npz", data(2)), tmp_path / "no" / "out.csv")


@pytest.mark.parametrize(("source", "target"), [("npz", "npz"), ("npz", "csv"), ("csv", "npz")])
def test_memory_does_not_follow_the_number_of_rows(tmp_path: Path, source: str, target: str) -> None:
    of = number(DType.FLOAT32, 16)

    def peak(rows: int) -> int:
        path = write(tmp_path / f"{rows}.{source}", {"x": np.ones((rows, 16), np.float32)}, of.raw)
        tracemalloc.start()
        scored(path, tmp_path / f"out.{target}", of, rows=8)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(100)  # what is loaded once
    assert peak(3000) < peak(600) + 60_000  # 154 kB more of values


def test_frames_bring_batches_over_a_pipe_and_a_cut_pipe_is_noticed() -> None:
    stream = io.BytesIO()
    writer = FrameWriter(stream)
    writer.append(data(3))
    writer.append(data(5))
    writer.finish()
    stream.seek(0)
    found = list(FrameReader(stream).batches(4))
    assert [len(batch["word"]) for batch in found] == [3, 4, 1]
    assert found[0]["pixels"].tobytes() == data(3)["pixels"].tobytes()
    cut = io.BytesIO(stream.getvalue()[:-4])
    with pytest.raises(Unscorable, match="whoever writes to it has stopped"):
        list(FrameReader(cut).batches(4))
