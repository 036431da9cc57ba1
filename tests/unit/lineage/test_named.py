"""What a person names on the command line: found by what it is called, and a sentence where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import Package
from tasks.errors import BadInput
from tasks.lineage.named import find_image, find_package
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def known(tmp_path: Path) -> list[Package]:
    store = LocalStore(tmp_path)
    newest = samples.package(store)
    older = samples.package(store, samples.spec(owner="other@example.com"))
    return [newest, older]


def test_a_models_name_is_its_newest_package(known: list[Package]) -> None:
    assert find_package(known, "digits") == known[0]


def test_a_package_goes_by_its_digest_or_the_beginning_of_it(known: list[Package]) -> None:
    digest = known[1].digest
    for name in (digest, digest.removeprefix("sha256:"), digest[:20], digest.removeprefix("sha256:")[:6]):
        assert find_package(known, name) == known[1]


def test_an_image_goes_by_its_reference_or_digest_or_its_package(known: list[Package]) -> None:
    onnx, savedmodel = known[0].images
    for name in (savedmodel.reference, f"docker.io/{savedmodel.reference}", savedmodel.digest, savedmodel.digest[:20]):
        assert find_image(known, name) == (known[0], savedmodel)
    assert find_image(known, "digits") == (known[0], onnx)  # it serves
    assert find_image(known, "digits", "savedmodel") == (known[0], savedmodel)


@pytest.mark.parametrize(
    ("name", "format", "sentence"),
    [
        ("digit", None, "did you mean digits?"),
        ("sha256:0", None, "no package of a model"),
        ("digits", "tflite", "no image as tflite; there are onnx, savedmodel"),
    ],
)
def test_what_is_not_there_is_a_sentence(known: list[Package], name: str, format: str | None, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        find_image(known, name, format)


def test_of_several_images_of_which_none_serves_one_must_be_chosen(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    package = samples.package(store, smoke=[])
    with pytest.raises(BadInput, match="choose an image with --format"):
        find_image([package], "digits")
