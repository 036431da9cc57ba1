"""What was asked for is found, and what did not pass never is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.bundle import Origin, find
from tasks.bundle.origin import ImageFiles, StoredFiles
from tasks.contracts import Package, Verdict
from tasks.errors import BadInput, CorruptObject, GateBlocked, PlatformError
from tasks.image import Engine, ImageInfo
from tasks.store import LocalStore
from tests import samples


@dataclass
class Images:
    """An engine that knows images by name and has one file in each."""

    known: dict[str, ImageInfo] = field(default_factory=dict)

    def find_image(self, reference: str) -> ImageInfo | None:
        return self.known.get(reference)

    def copy_out(self, image: str, path: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "contract.json").write_text(f"{image}{path}")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def passed(store: LocalStore) -> Package:
    return samples.package(store)


def info(digest: str, **labels: str) -> ImageInfo:
    own = {f"io.slipway.{key}": value for key, value in labels.items()}
    return ImageInfo(digest, ("slipway/digits:onnx",), 1, (), own)


def found(
    asked: str,
    known: Sequence[Package],
    store: LocalStore,
    engine: Images | None = None,
    format: str | None = None,
    **how: bool,
) -> Origin:
    def connect() -> Engine:
        assert engine is not None, "no engine is needed for this"
        return engine  # type: ignore[return-value]

    return find(asked, format, known, store, connect, **how)


def test_a_models_name_stands_for_its_newest_package_in_the_format_that_serves(
    passed: Package, store: LocalStore
) -> None:
    older = samples.package(store, samples.spec(owner="somebody@example.com"))
    origin = found("digits", [passed, older], store)
    assert origin.package == passed.digest
    assert isinstance(origin.files, StoredFiles)
    assert origin.files.image.format == passed.serving_format == "onnx"


def test_another_format_of_the_package_is_had_by_name(passed: Package, store: LocalStore) -> None:
    origin = found("digits", [passed], store, format="savedmodel")
    assert isinstance(origin.files, StoredFiles)
    assert origin.files.image.format == "savedmodel"


@pytest.mark.parametrize("digits", [6, 12, 64])
@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_a_package_is_found_by_the_first_digits_of_its_digest(
    passed: Package, store: LocalStore, prefix: str, digits: int
) -> None:
    asked = prefix + passed.digest.removeprefix("sha256:")[:digits]
    assert found(asked, [passed], store).package == passed.digest


def test_an_images_digest_leads_to_its_package_without_an_engine(passed: Package, store: LocalStore) -> None:
    image = next(image for image in passed.images if image.format == "savedmodel")
    origin = found(image.digest, [passed], store)
    assert isinstance(origin.files, StoredFiles)
    assert (origin.files.image, origin.package) == (image, passed.digest)


def test_an_image_in_the_engine_is_taken_from_there_with_the_stores_verdict(passed: Package, store: LocalStore) -> None:
    engine = Images({"slipway/digits:mine": info(passed.images[0].digest, contract="sha256:aa", format="onnx")})
    origin = found("slipway/digits:mine", [passed], store, engine)
    assert isinstance(origin.files, ImageFiles)
    assert origin.package == passed.digest


def test_an_unknown_name_is_answered_with_the_nearest(passed: Package, store: LocalStore) -> None:
    with pytest.raises(BadInput, match=r"did you mean digits\? \(an image is given as NAME:TAG\)"):
        found("digts", [passed], store)


def test_a_format_that_the_package_does_not_have_is_answered_with_those_that_it_has(
    passed: Package, store: LocalStore
) -> None:
    with pytest.raises(BadInput, match="has no torch-export: its formats are onnx, savedmodel"):
        found("digits", [passed], store, format="torch-export")


def test_an_image_has_one_format(passed: Package, store: LocalStore) -> None:
    with pytest.raises(BadInput, match="is an image of onnx, not of savedmodel"):
        found(passed.images[0].digest, [passed], store, format="savedmodel")


def test_what_neither_store_nor_engine_knows_is_said(passed: Package, store: LocalStore) -> None:
    with pytest.raises(BadInput, match="the engine has no image nowhere:1"):
        found("nowhere:1", [passed], store, Images())


def test_another_image_than_slipways_is_refused(store: LocalStore) -> None:
    with pytest.raises(BadInput, match="no serving image that Slipway built"):
        found("debian:12", [], store, Images({"debian:12": info("sha256:aa")}))


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.INCONCLUSIVE])
def test_a_package_that_did_not_pass_is_not_bundled_by_any_of_its_names(store: LocalStore, verdict: Verdict) -> None:
    smoke = [samples.smoke_report(kind, verdict=verdict) for kind in samples.FORMATS]
    package = samples.package(store, smoke=smoke)
    assert package.verdict is not Verdict.PASSED
    image = package.images[0]
    engine = Images({image.reference: info(image.digest, contract="sha256:aa", format="onnx")})
    for asked in ("digits", package.digest, image.digest, image.reference):
        for unknown in (False, True):
            with pytest.raises(GateBlocked, match="what did not pass is not bundled"):
                found(asked, [package], store, engine, unknown=unknown)


def test_an_older_package_that_passed_is_named(passed: Package, store: LocalStore) -> None:
    newer = samples.package(store, samples.spec(owner="somebody@example.com"), smoke=[])
    with pytest.raises(GateBlocked, match=f"its last one that passed is {passed.digest[7:19]}"):
        found("digits", [newer, passed], store)


def test_an_image_without_a_known_verdict_needs_to_be_asked_for_as_such(store: LocalStore) -> None:
    engine = Images({"far/digits:1": info("sha256:aa", contract="sha256:bb", format="onnx")})
    with pytest.raises(GateBlocked, match="whether it passed its gates is not known here"):
        found("far/digits:1", [], store, engine)
    assert found("far/digits:1", [], store, engine, unknown=True).package is None


def test_an_image_whose_contract_is_not_the_one_on_its_label_is_corrupt(tmp_path: Path) -> None:
    files = ImageFiles(Images(), "sha256:aa", "sha256:bb")  # type: ignore[arg-type]
    with pytest.raises(CorruptObject, match="changed after it was built"):
        files.copy_to(tmp_path)


def test_an_image_from_before_contracts_were_stored_says_what_to_do(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="run `slipway package` on its model again"):
        StoredFiles(store, samples.image()).copy_to(tmp_path)
