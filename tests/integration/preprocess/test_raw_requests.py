"""Models of photos, texts and tables with gaps, from the training script to the answer to a raw request."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from serving.contract import PredictionLog
from serving.golden import read_golden
from serving.package import Refusal, Refused, Served
from serving.prediction_log import settings
from serving.preprocess import raw_signature
from serving.protocol import parse_request
from serving.request import largest_request_bytes
from serving.score.csv_file import CsvWriter
from serving.score.files import Form, open_reader
from serving.score.rows import Unscorable
from serving.score.scoring import Progress, score
from serving.tensors import BadRequest, from_values
from tasks.bundle.golden import write_golden
from tasks.contracts import Verdict
from tasks.errors import EvaluationError, SpecError
from tasks.reuse import artifact_digest, export_inputs, parity_inputs
from tasks.smoke.protocol import encode_request
from tasks.store import fetch
from tests.integration.preprocess.conftest import Proven, proven, proven_again
from tests.trained import FED_ROWS, Trained

Homes = Callable[[], Path]


@pytest.fixture(scope="session")
def photo_model(digits: Trained, homes: Homes) -> Proven:
    return proven(digits, homes())


@pytest.fixture(scope="session")
def text_model(reviews: Trained, homes: Homes) -> Proven:
    return proven(reviews, homes())


@pytest.fixture(scope="session")
def table_model(orders: Trained, homes: Homes) -> Proven:
    return proven(orders, homes())


MODELS = ("photo_model", "text_model", "table_model")


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Proven:
    found: Proven = request.getfixturevalue(request.param)
    return found


def request_of(name: str, datatype: str, shape: list[int], data: object) -> bytes:
    return json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}).encode()


def answer(served: Served, body: bytes, header: int | None = None) -> dict[str, NDArray[Any]]:
    """As the server does it: parse against what clients send, preprocess, ask the model."""
    return served.predict(parse_request(body, None if header is None else str(header), served.raw).inputs)


# --- the way through the gates ------------------------------------------------------------------------------------


def test_what_training_fed_is_what_the_declared_steps_give(model: Proven) -> None:
    assert model.report.verdict is Verdict.PASSED, model.report.findings
    assert model.artifact.evaluation.preprocessed is not None


def test_golden_samples_are_raw_and_the_server_answers_them_from_there(model: Proven, tmp_path: Path) -> None:
    served = model.package(tmp_path)
    whole = read_golden(tmp_path / "golden.npz")
    assert sorted(whole.inputs) == sorted(tensor.name for tensor in served.raw.inputs)
    for size in (1, 3, 8):
        for golden in whole.batches(served.raw, size):
            body = encode_request(golden.inputs, golden.outputs, served.raw)
            answers = answer(served, body.content, body.json_bytes)
            for name, expected in golden.outputs.items():
                np.testing.assert_allclose(answers[name], expected, rtol=1e-5, atol=1e-5)


def test_random_rows_of_images_and_texts_are_asked_of_the_model_itself(photo_model: Proven, text_model: Proven) -> None:
    """Lengths are the model's: texts of one token and of the longest that it promises were both asked for."""
    assert photo_model.report.outputs[0].compared_values > 1000
    assert text_model.report.html is not None
    with text_model.store.open(text_model.report.html.digest) as stream:
        page = stream.read().decode()
    assert "random sequence=1" in page
    assert "random sequence=24" in page


def test_a_row_with_a_missing_value_is_among_the_golden_samples(table_model: Proven, tmp_path: Path) -> None:
    assert table_model.report.golden is not None
    golden = read_golden(fetch(table_model.store, table_model.report.golden, tmp_path / "golden.npz"))
    assert np.isnan(golden.inputs["amounts"]).any()


# --- what clients send --------------------------------------------------------------------------------------------


def test_a_photo_in_base64_and_in_binary_has_the_same_answer(photo_model: Proven, tmp_path: Path) -> None:
    served = photo_model.package(tmp_path)
    photo: bytes = served.golden.inputs["image"][0]
    in_json = answer(served, request_of("image", "BYTES", [1], [base64.b64encode(photo).decode()]))
    raw = struct.pack("<I", len(photo)) + photo
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    envelope = json.dumps({"inputs": [entry]}).encode()
    in_binary = answer(served, envelope + raw, len(envelope))
    assert np.array_equal(in_json["logits"], in_binary["logits"])
    by_grpc = served.predict({"image": from_values(served.raw.inputs[0], (1,), [photo])})
    assert np.array_equal(in_json["logits"], by_grpc["logits"])
    np.testing.assert_allclose(in_json["logits"], served.golden.outputs["logits"][:1], rtol=1e-5, atol=1e-5)


def test_a_request_of_full_size_images_is_not_too_long(photo_model: Proven, tmp_path: Path) -> None:
    served = photo_model.package(tmp_path)
    assert largest_request_bytes(served.raw) >= 32 * (8 << 20) * 4 / 3


def test_null_in_json_is_a_missing_value_where_one_is_declared(table_model: Proven, tmp_path: Path) -> None:
    served = table_model.package(tmp_path)
    body = {
        "inputs": [
            {"name": "country", "datatype": "BYTES", "shape": [2], "data": ["DE", "nowhere"]},
            {"name": "amounts", "datatype": "FP32", "shape": [2, 2], "data": [None, 3.0, 40.0, None]},
        ]
    }
    filled = answer(served, json.dumps(body).encode())["score"]
    by_hand = served.run(
        {
            "country": np.array([3, 0]),
            "amounts": np.zeros((2, 2), np.float32),
            "absent": np.array([[1, 0], [0, 1]], np.float32),
        }
    )["score"]
    assert np.array_equal(filled, by_hand)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["not base64!"], "input 'image': expected the image's bytes in base64, found 'not base64!' at position 0"),
        (["aGVsbG8="], "input 'image': row 0: the 5 bytes are not an image in PNG or JPEG"),
        ([3], "input 'image': expected BYTES values, found integer 3 at position 0"),
        ([""], "input 'image': row 0: the 0 bytes are not an image in PNG or JPEG"),
    ],
)
def test_what_is_no_photo_is_a_bad_request(photo_model: Proven, tmp_path: Path, data: list[Any], said: str) -> None:
    served = photo_model.package(tmp_path)
    with pytest.raises(BadRequest) as caught:
        answer(served, request_of("image", "BYTES", [1], data))
    assert str(caught.value) == said


def test_a_text_of_any_length_is_answered_and_none_that_is_no_text(text_model: Proven, tmp_path: Path) -> None:
    served = text_model.package(tmp_path)
    scores = answer(served, request_of("text", "BYTES", [3], ["", "lovely", "awful " * 1000]))["score"].ravel()
    assert np.isfinite(scores).all()
    assert scores[1] > 0.5 > scores[2]
    with pytest.raises(BadRequest, match="input 'text': expected BYTES values, found null at position 0"):
        answer(served, request_of("text", "BYTES", [1], [None]))


def test_an_infinite_amount_is_refused_though_a_missing_one_is_not(table_model: Proven, tmp_path: Path) -> None:
    served = table_model.package(tmp_path)
    with pytest.raises(BadRequest, match="input 'amounts'"):
        answer(served, b'{"inputs": [{"name": "country", "datatype": "BYTES", "shape": [1], "data": ["DE"]},'
                       b'{"name": "amounts", "datatype": "FP32", "shape": [1, 2], "data": [1e39, 0.0]}]}')  # fmt: skip


def test_a_bundle_has_what_the_tokenizer_makes_of_its_golden_texts(text_model: Proven, tmp_path: Path) -> None:
    served = text_model.package(tmp_path)
    index = write_golden(tmp_path, served.contract)
    assert [tensor.name for tensor in index.inputs] == ["text"]
    assert [tensor.name for tensor in index.prepared] == ["input_ids", "attention_mask"]
    ids = np.load(tmp_path / index.prepared[0].file)
    assert np.array_equal(ids, served.prepare(served.golden.inputs)["input_ids"])


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [Form.NPZ, Form.PARQUET, Form.CSV])
def test_a_file_of_photos_is_scored_from_their_bytes(photo_model: Proven, tmp_path: Path, form: Form) -> None:
    served = photo_model.package(tmp_path / "package")
    photos: list[bytes] = served.golden.inputs["image"].tolist()
    path = tmp_path / f"photos.{form}"
    match form:
        case Form.NPZ:
            np.savez(path, image=np.array(photos))
        case Form.PARQUET:
            pq.write_table(pa.table({"image": photos}), path)
        case Form.CSV:
            path.write_text("image\n" + "".join(base64.b64encode(photo).decode() + "\n" for photo in photos))
    reader = open_reader(str(path), form, served.raw)
    with (tmp_path / "answers.csv").open("wb") as stream:
        assert score(served, reader, CsvWriter(stream, served.contract.signature), 5, Progress(None)) == len(photos)
    answers = np.loadtxt(tmp_path / "answers.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(answers, served.golden.outputs["logits"], rtol=1e-4, atol=1e-4)


def test_a_row_of_a_file_that_is_no_photo_is_named(photo_model: Proven, tmp_path: Path) -> None:
    served = photo_model.package(tmp_path / "package")
    np.savez(tmp_path / "photos.npz", image=np.array([*served.golden.inputs["image"][:6], b"no photo"]))
    reader = open_reader(str(tmp_path / "photos.npz"), Form.NPZ, served.raw)
    with (tmp_path / "answers.csv").open("wb") as stream, pytest.raises(Unscorable) as caught:
        score(served, reader, CsvWriter(stream, served.contract.signature), 4, Progress(None))
    assert str(caught.value) == "row 7, column image: the 8 bytes are not an image in PNG or JPEG"


def test_what_the_prediction_log_leaves_out_is_what_clients_send(reviews: Trained, text_model: Proven) -> None:
    """The text is what is private, and not the ids that the server makes of it."""
    contract = replace(text_model.contract(), prediction_log=PredictionLog(omit=("text",)))
    raw = raw_signature(contract.signature, contract.preprocess)
    assert settings(contract, raw, {}) is not None
    with pytest.raises(ValueError, match=r"cannot leave out input_ids: the inputs are \['text'\]"):
        settings(replace(contract, prediction_log=PredictionLog(omit=("input_ids",))), raw, {})


@pytest.mark.parametrize(("name", "fine"), [("text", True), ("input_ids", False), ("attention_mask", False)])
def test_a_spec_leaves_out_what_clients_send(reviews: Trained, tmp_path: Path, name: str, fine: bool) -> None:
    line = "serving: {max_batch: 8, prediction_log: {omit: [" + name + "]}}"
    changed = reviews.changed(tmp_path / "spec", "serving: {max_batch: 8}", line)
    if fine:
        assert changed.spec().serving.prediction_log is not None
        return
    with pytest.raises(SpecError, match=f"no input '{name}'"):
        changed.spec()


# --- what changed is caught ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "model", "old", "new", "input", "said"),
    [
        ("digits", "photo_model", "channels: rgb", "channels: bgr", "pixels", "channels are in the order rgb"),
        ("digits", "photo_model", "interpolation: bilinear", "interpolation: bicubic", "pixels", "by bilinear"),
        ("digits", "photo_model", "size: [14]", "size: [15]", "pixels", "resized the shorter side to 14"),
        ("digits", "photo_model", "mean: [0.3,", "mean: [0.31,", "pixels", "mean 0.3 and std 0.2, not 0.31 and 0.2"),
        ("reviews", "text_model", "max_length: 16,", "max_length: 12,", "input_ids", "has the shape [40, 16]"),
        ("orders", "table_model", "first: 1,", "first: 2,", "country", "training's ids are shifted by -1"),
        ("orders", "table_model", "fill: [40, 3]", "fill: [0, 3]", "amounts", "only values that are missing"),
        ("orders", "table_model", "min: -2, max: 2", "min: -1, max: 2", "amounts", "first at row"),
    ],
)  # fmt: skip
def test_a_changed_declaration_is_blocked_before_the_export_is_asked(
    request: pytest.FixtureRequest, tmp_path: Path, trained: str, model: str, old: str, new: str, input: str, said: str
) -> None:
    changed = request.getfixturevalue(trained).changed(tmp_path / "spec", old, new)
    report = proven_again(request.getfixturevalue(model), changed, tmp_path / "work").report
    assert report.verdict is Verdict.FAILED
    finding = next(finding for finding in report.findings if finding.evidence.get("input") == input)
    assert finding.code == "PARITY_PREPROCESS_DIFFERS"
    assert said in finding.message
    assert report.outputs == ()


def test_a_vocabulary_file_is_part_of_what_parity_and_the_package_follow_from(
    table_model: Proven, orders: Trained, tmp_path: Path
) -> None:
    changed = orders.changed(tmp_path / "spec")
    (changed.folder / "countries.txt").write_text("CH\nAT\nDE\nFR\nIT\n")
    other = proven_again(table_model, changed, tmp_path / "work")
    assert artifact_digest(other.artifact) != artifact_digest(table_model.artifact)
    assert parity_inputs(other.spec, other.artifact, other.export) != parity_inputs(
        table_model.spec, table_model.artifact, table_model.export
    )
    assert export_inputs(other.spec, other.artifact, "onnx") == export_inputs(
        table_model.spec, table_model.artifact, "onnx"
    )
    (finding,) = other.report.findings
    assert "training had another vocabulary: " in finding.message
    assert "'CH' is 2 in training and 1 here" in finding.message


def test_a_step_file_that_was_changed_in_the_package_is_refused(table_model: Proven, tmp_path: Path) -> None:
    table_model.package(tmp_path / "package")
    (tmp_path / "package" / "preprocess" / "countries.txt").write_text("CH\nAT\nDE\nFR\nIT\n")
    from serving.package import open_package

    with pytest.raises(Refused) as caught:
        open_package(tmp_path / "package", threads=1)
    assert caught.value.refusal is Refusal.FILES
    assert "preprocess/countries.txt is not the file of the contract" in str(caught.value)


# --- what is wrong with what was handed over ----------------------------------------------------------------------


def test_evaluation_data_with_a_broken_photo_is_refused_with_its_row(digits: Trained, homes: Homes) -> None:
    home = homes()
    changed = digits.changed(home / "spec")
    with np.load(changed.folder / "eval.npz") as archive:
        photos, labels = archive["image"].tolist(), archive["label"]
    photos[71] = photos[71][:200]
    np.savez(changed.folder / "eval.npz", image=np.array(photos), label=labels)
    with pytest.raises(EvaluationError, match=r"eval\.npz: column 'image', row 71: the 200 bytes are broken"):
        proven(changed, home)


def test_what_training_fed_must_be_what_the_model_takes(digits: Trained, homes: Homes) -> None:
    home = homes()
    changed = digits.changed(home / "spec")
    np.savez(changed.folder / "fed.npz", pixels=np.zeros((FED_ROWS, 12, 12, 3)))
    with pytest.raises(EvaluationError) as caught:
        proven(changed, home)
    assert str(caught.value).splitlines() == [
        "evaluation.preprocessed: fed.npz: column 'pixels' is float64, the model takes float32: "
        "save what it was really fed",
        "evaluation.preprocessed: fed.npz: column 'pixels' has the shape [40, 12, 12, 3], expected [rows, 3, 12, 12]",
    ]


@pytest.mark.parametrize(
    ("trained", "old", "new", "said"),
    [
        ("reviews", "text/tokenizer.json", "tokenizer.json", "tokenizer.json cannot be read: No such file"),
        ("reviews", "text/tokenizer.json", "../tokenizer.json", "expected a path below the spec's own folder"),
        ("digits", "channels: rgb", "channels: rbg", "expected one of rgb, bgr, l; found the text 'rbg'; did you mean"),
        ("digits", "size: [14]", "size: [11]", "is larger than what resize gives"),
        ("digits", "fed.npz", "fod.npz", "there is no fod.npz in the folder spec; did you mean fed.npz?"),
        ("orders", "indicator: absent", "indicator: absnt", "no input 'absnt'"),
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_be_is_refused_with_its_line(
    request: pytest.FixtureRequest, tmp_path: Path, trained: str, old: str, new: str, said: str
) -> None:
    changed = request.getfixturevalue(trained).changed(tmp_path / "spec", old, new)
    with pytest.raises(SpecError) as caught:
        changed.spec()
    assert said in str(caught.value)
    assert "model.yaml:" in str(caught.value)
