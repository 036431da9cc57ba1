"""A bundle is whole, the same for the same package, readable by anybody, or not there at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.contract import DimRange, DType, PreprocessStep, ServingContract, Signature, TensorSpec, Tolerance
from serving.package import read_contract, verify_files
from tasks.bundle import Origin, find, write
from tasks.bundle.golden import GoldenIndex, _tensor, write_golden
from tasks.errors import BadInput, CorruptObject
from tasks.image import connect
from tasks.store import LocalStore
from tests.bundles import publish
from tests.integration.tiny import TinyModel, answer_raw, raw_samples


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """The one package of a store; nothing here opens its model."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "files").mkdir()
    (folder / "files" / "model.onnx").write_bytes(b"a model" * 1000)
    store = LocalStore(folder / "store")
    package = publish(store, TinyModel("onnx", folder / "files"), folder / "package")
    return find("tiny", None, [package], store, connect)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_the_package_with_its_sums_and_a_page(origin: Origin, tmp_path: Path) -> None:
    written = write(origin, tmp_path / "out")
    assert sorted(content(written.path)) == [
        *("README.txt", "SHA256SUMS", "contract.json", "golden.npz", "golden/index.json", "golden/inputs/x.npy"),
        *("golden/outputs/n.npy", "golden/outputs/y.npy", "golden/prepared/x.npy", "model/model.onnx"),
    ]
    verify_files(written.path, read_contract(written.path))
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=written.path, check=True)
    assert len((written.path / "SHA256SUMS").read_text().splitlines()) == written.files - 1
    said = (written.path / "README.txt").read_text()
    assert str(origin.package) in said
    assert '{"op":"scale","input":"x","by":0.25,"offset":-8.0}' in said
    assert str(tmp_path) not in said


def test_the_contract_is_the_images_byte_for_byte(origin: Origin, tmp_path: Path) -> None:
    written = write(origin, tmp_path / "out")
    found = hashlib.sha256((tmp_path / "out" / "contract.json").read_bytes()).hexdigest()
    assert written.contract_digest == origin.files.image.contract_digest == f"sha256:{found}"  # type: ignore[attr-defined]


def test_a_tar_holds_the_same_and_is_the_same_under_every_name(origin: Origin, tmp_path: Path) -> None:
    write(origin, tmp_path / "folder")
    write(origin, tmp_path / "one.tar")
    write(origin, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        names = [entry.name for entry in tar if entry.isfile()]
        assert names == sorted(names)
        assert {(entry.uid, entry.gid, entry.mtime) for entry in tar} == {(0, 0, 1767225600)}
        tar.extractall(tmp_path / "unpacked")
    assert content(tmp_path / "unpacked" / "tiny-onnx-1") == content(tmp_path / "folder")


def test_golden_samples_can_be_read_without_numpy(origin: Origin, tmp_path: Path) -> None:
    write(origin, tmp_path / "out")
    index = GoldenIndex.model_validate_json((tmp_path / "out/golden/index.json").read_text())
    raw = raw_samples()
    expected = {
        "x": raw.astype(np.float32) * np.float32(0.25) - np.float32(8),
        **answer_raw(raw),
    }
    assert [tensor.datatype for tensor in index.inputs] == ["UINT8"]
    for tensor in (*index.prepared, *index.outputs):
        values = (tmp_path / "out" / tensor.file).read_bytes()[tensor.offset :]
        found = np.frombuffer(values, tensor.dtype.numpy.newbyteorder("<")).reshape(tensor.shape)
        assert np.array_equal(found, expected[tensor.name])
        assert np.array_equal(np.load(tmp_path / "out" / tensor.file, allow_pickle=False), expected[tensor.name])
    assert [tensor.tolerance for tensor in index.outputs] == [Tolerance(1e-6, 1e-6), Tolerance(0, 0)]
    assert index.batches == ((0, 12),)


def strings(folder: Path, **changes: object) -> ServingContract:
    """A package folder with strings, odd names, and answers as the test wants them."""
    folder.mkdir()
    arrays = {"input/text/in:0": np.array([["a", "é"], ["c", ""]]), "output/length": np.array([2, 1])}
    np.savez(folder / "golden.npz", **arrays)
    signature = Signature(
        inputs=(TensorSpec("text/in:0", DType.STRING, ("batch", 2)),),
        outputs=(TensorSpec("length", DType.INT64, ("batch",)),),
        dynamic={"batch": DimRange(1, 1)},
    )
    contract = ServingContract("m", "1", "onnx", "onnx", "model", (), signature, (), {}, "golden.npz", 1, {})
    return replace(contract, **changes)  # type: ignore[arg-type]


def test_strings_are_json_and_odd_names_get_plain_files(tmp_path: Path) -> None:
    index = write_golden(tmp_path / "m", strings(tmp_path / "m"))
    (tensor,) = index.inputs
    assert (tensor.name, tensor.file, tensor.datatype, tensor.offset) == (
        *("text/in:0", "golden/inputs/0.json", "BYTES", None),
    )
    assert json.loads((tmp_path / "m" / tensor.file).read_text()) == ["a", "é", "c", ""]


def test_preprocessing_reads_its_files_from_the_package(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    step = PreprocessStep("vocabulary", "text/in:0", file="letters.txt", unknown=9)
    tensors = (TensorSpec("text/in:0", DType.INT64, ("batch", 2)),)
    contract = strings(folder, preprocess=(step,))
    contract = replace(contract, signature=replace(contract.signature, inputs=tensors))
    (folder / "preprocess").mkdir()
    (folder / "preprocess" / "letters.txt").write_text("a\né\nc\n")
    index = write_golden(folder, contract)
    assert index.inputs[0].dtype is DType.STRING
    assert np.load(folder / index.prepared[0].file).tolist() == [[0, 1], [2, 9]]


def test_bytes_are_base64(tmp_path: Path) -> None:
    (tmp_path / "golden" / "inputs").mkdir(parents=True)
    images = np.array([b"\xff\xd8", b"\x89PNG"], object)
    tensor = _tensor(tmp_path, "golden/inputs/image", "image", images)
    assert (tensor.base64, tensor.datatype) == (True, "BYTES")
    assert [b64decode(text) for text in json.loads((tmp_path / tensor.file).read_text())] == images.tolist()


def test_only_as_many_rows_are_asked_at_once_as_the_model_takes(tmp_path: Path) -> None:
    assert write_golden(tmp_path / "m", strings(tmp_path / "m")).batches == ((0, 1), (1, 2))


def test_a_model_without_a_batch_is_asked_whole(tmp_path: Path) -> None:
    fixed = Signature(
        inputs=(TensorSpec("text/in:0", DType.STRING, (2, 2)),), outputs=(TensorSpec("length", DType.INT64, (2,)),)
    )
    assert write_golden(tmp_path / "m", strings(tmp_path / "m", signature=fixed)).batches is None


# --- whole or not at all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out", "out.tar"])
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_nothing_that_is_there_is_overwritten(
    origin: Origin, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    with pytest.raises(BadInput, match="already there, and nothing is overwritten"):
        write(origin, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.tar.gz", "out.zip", "nowhere/out"])
def test_what_cannot_be_written_as_asked_is_said_before_anything_is(origin: Origin, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        write(origin, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_an_object_that_was_altered_in_the_store_is_never_bundled(tmp_path: Path, name: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model.onnx").write_bytes(b"a model")
    store = LocalStore(tmp_path / "store")
    package = publish(store, TinyModel("onnx", tmp_path / "files"), tmp_path / "package")
    digest = hashlib.sha256(b"a model").hexdigest()
    path = tmp_path / "store" / "objects" / digest[:2] / digest[2:]
    path.chmod(0o644)
    path.write_bytes(b"another")
    there = sorted(tmp_path.iterdir())
    with pytest.raises(CorruptObject, match=r"model/model\.onnx"):
        write(find("tiny", None, [package], store, connect), tmp_path / name)
    assert sorted(tmp_path.iterdir()) == there


class Spoiled:
    """The files of an origin with one more, as a tampered image might have them."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def copy_to(self, folder: Path) -> None:
        self._origin.files.copy_to(folder)
        (folder / "model" / "more.so").touch()


def test_a_file_that_the_contract_does_not_name_is_refused(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(CorruptObject, match=r"does not name: model/more\.so"):
        write(Origin(Spoiled(origin), origin.package), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_by_the_next(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()
    (tmp_path / ".out.lock").touch()
    write(origin, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(origin: Origin) -> None:
    with pytest.raises(BadInput, match="/proc/self/out cannot be written: No such file or directory"):
        write(origin, Path("/proc/self/out"))


class Older:
    """The files of an origin as a Slipway wrote them before contracts had a version."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def copy_to(self, folder: Path) -> None:
        self._origin.files.copy_to(folder)
        path = folder / "contract.json"
        contract = json.loads(path.read_bytes())
        del contract["contract_version"]
        path.chmod(0o644)
        path.write_text(json.dumps(contract))


def test_a_package_of_an_older_slipway_is_to_be_packaged_again(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"built by an older Slipway .*: package it again") as refused:
        write(Origin(Older(origin), None), tmp_path / "out")
    assert str(tmp_path) not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
